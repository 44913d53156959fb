"""The container's entry: `python -m components.attention_capture TASK EXECUTOR_INPUT`."""

from components.attention_capture.step import STEP
from components.core.step import main

if __name__ == "__main__":
    raise SystemExit(main(STEP))
