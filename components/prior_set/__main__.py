"""The container's entry: `python -m components.prior_set TASK EXECUTOR_INPUT`."""

from components.core.step import main
from components.prior_set.step import STEP

if __name__ == "__main__":
    raise SystemExit(main(STEP))
