"""The container's entry: `python -m components.sft TASK EXECUTOR_INPUT`."""

from components.core.step import main
from components.sft.step import STEP

if __name__ == "__main__":
    raise SystemExit(main(STEP))
