"""The submitting side: components, scheduling, local runs, the command line."""
