"""How a training's processes begin and end: one per GPU, and SIGTERM ends all of them with a saved state.

A training process hears SIGTERM between two updates: all save a state and end with 75 (`components.runtime.launch`).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from components.core.errors import TryAgainError
from components.runtime import launch
from components.sft.processes import RENDEZVOUS


class Stop:
    """Whether SIGTERM has arrived: a training ends after its update, anything before it at once."""

    def __init__(self) -> None:
        self.requested = False
        self.training = False

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM."""
        self.requested = True
        if not self.training:
            raise stopped("before the next update")


def stopped(when: str) -> TryAgainError:
    """Return the error of a training that SIGTERM ended."""
    remedy = "run again: it goes on from its last saved state"
    return TryAgainError(f"stopped by SIGTERM {when}", source="the training", remedy=remedy)


@contextmanager
def listening() -> Iterator[Stop]:
    """Listen to SIGTERM for the length of the block."""
    stop = Stop()
    before = signal.signal(signal.SIGTERM, stop.hear)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def run_processes(count: int, arguments: Sequence[str], scratch: Path, grace_seconds: float) -> int:
    """Run `python ARGUMENTS` in `count` processes that find each other, and return the first code that is not 0.

    When one fails, the others, which may wait for it, are ended. Their temporary files lie in `scratch`, so that they
    go with it even if the processes are killed.

    Raises:
        TryAgainError: SIGTERM, and they did not end by themselves within the grace.
    """
    world = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), RENDEZVOUS: str(scratch / "rendezvous")}
    world |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"}
    (scratch / "rendezvous").unlink(missing_ok=True)
    environments = [{**world, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    stopping = "the training saves its state and ends"
    code, terminated = launch.run_processes(arguments, environments, scratch, grace_seconds, stopping)
    if terminated and code not in (0, TryAgainError.exit_code):
        raise stopped(f"and not ended within {grace_seconds:g} s")
    return code
