"""The container's entry: `python -m components.benchmark_eval TASK EXECUTOR_INPUT`."""

from components.benchmark_eval.step import STEP
from components.core.step import main

if __name__ == "__main__":
    raise SystemExit(main(STEP))
