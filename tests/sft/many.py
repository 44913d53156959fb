"""Several trainings one after another in each of the processes of one launch: the imports are paid for once."""

import os
import sys
from pathlib import Path

from components.sft.launch import die_with_parent
from components.sft.loop import Job, train
from components.sft.processes import RENDEZVOUS


def main(files):
    die_with_parent()
    for file in files:
        job = Job.model_validate_json(Path(file).read_bytes())
        os.environ[RENDEZVOUS] = f"{job.out}/rendezvous"
        train(job)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
