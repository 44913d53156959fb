"""The container's entry: `python -m components.plan TASK EXECUTOR_INPUT`."""

from components.core.step import main
from components.plan.step import STEP

raise SystemExit(main(STEP))
