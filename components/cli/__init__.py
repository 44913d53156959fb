"""The command line `motion-enhancer`."""
