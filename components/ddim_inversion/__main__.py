"""The container's entry: `python -m components.ddim_inversion TASK EXECUTOR_INPUT`."""

from components.core.step import main
from components.ddim_inversion.step import STEP

if __name__ == "__main__":
    raise SystemExit(main(STEP))
