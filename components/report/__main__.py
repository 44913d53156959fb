"""The container's entry: `python -m components.report TASK EXECUTOR_INPUT`."""

from components.core.step import main
from components.report.step import STEP

raise SystemExit(main(STEP))
