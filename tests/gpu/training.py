"""`python -m tests.gpu.training JOB.json…`: trainings one after another.

A process of its own, so that the same code can be shown a machine without a GPU.
"""

import sys
from pathlib import Path

from components.sft.loop import Job, train


def main():
    for file in sys.argv[1:]:
        train(Job.model_validate_json(Path(file).read_bytes()))


if __name__ == "__main__":
    main()
