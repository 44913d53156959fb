"""The container's entry: `python -m components.vlm_attention TASK EXECUTOR_INPUT`."""

from components.core.step import main
from components.vlm_attention.step import STEP

if __name__ == "__main__":
    raise SystemExit(main(STEP))
