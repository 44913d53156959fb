"""The container's entry: `python -m components.ddim_inversion TASK EXECUTOR_INPUT`."""

from components.core.step import main
from components.ddim_inversion.step import STEP

raise SystemExit(main(STEP))
