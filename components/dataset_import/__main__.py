"""The container's entry: `python -m components.dataset_import TASK EXECUTOR_INPUT`."""

from components.core.step import main
from components.dataset_import.step import STEP

if __name__ == "__main__":
    raise SystemExit(main(STEP))
