"""The container's entry: `python -m components STEP TASK EXECUTOR_INPUT`."""

import sys

from components.runtime.runner import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
