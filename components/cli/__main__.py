"""`python -m components.cli`: the same as `motion-enhancer`."""

from components.cli.main import main

if __name__ == "__main__":
    main()
