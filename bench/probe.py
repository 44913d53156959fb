"""`python -m bench.probe CASE`: print the peak memory in bytes of one more run of a case (see `measure`)."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from bench import language, reading, training, video
from bench.measure import run_peak


def work_of(case: str) -> Callable[[], object]:
    """Return the work that `<room>:<what>:<size>` names, ready to run."""
    room, what, size = case.split(":")
    rooms = {"video": video.work, "language": language.work, "training": training.work, "reading": reading.work}
    return rooms[room](what, size)


def main() -> None:
    """Run the case twice; the second run counts."""
    torch.set_num_threads(1)
    work = work_of(sys.argv[1])
    work()
    print(run_peak(work))


if __name__ == "__main__":
    main()
