"""The container's entry: `python -m components.report TASK EXECUTOR_INPUT`."""

from components.core.step import main
from components.report.step import STEP

if __name__ == "__main__":
    raise SystemExit(main(STEP))
