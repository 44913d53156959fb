"""The container's entry: `python -m components.head_selection TASK EXECUTOR_INPUT`."""

from components.core.step import main
from components.head_selection.step import STEP

if __name__ == "__main__":
    raise SystemExit(main(STEP))
