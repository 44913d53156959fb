"""The container's entry: `python -m components.plan TASK EXECUTOR_INPUT`."""

from components.core.step import main
from components.plan.step import STEP

if __name__ == "__main__":
    raise SystemExit(main(STEP))
