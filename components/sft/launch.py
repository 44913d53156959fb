"""How a training's processes begin and end: one per GPU, none outlives the step, and SIGTERM ends all of them in time.

The step's process starts the others and passes SIGTERM on. A training process hears it between two updates: all save
a state and end with 75. Those that do not within the grace are killed. A process whose step was killed dies with it.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from components.core.errors import TryAgainError
from components.sft.processes import RENDEZVOUS

log = logging.getLogger(__name__)
_PARENT = "SFT_PARENT"
_PR_SET_PDEATHSIG = 1
_POLL_S = 0.1
_AFTER_FAILURE_S = 5.0  # the others may wait for the one that failed, and then for ever


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


def die_with_parent() -> None:
    """Let the kernel kill this process when the one that started it dies, whatever the way (Linux alone can)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if (parent := os.environ.get(_PARENT)) is not None and os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGKILL)  # it died before


def run_processes(count: int, arguments: Sequence[str], scratch: Path, grace_seconds: float) -> int:
    """Run `python ARGUMENTS` in `count` processes that find each other, and return the first code that is not 0.

    When one fails, the others, which may wait for it, are ended. Their temporary files lie in `scratch`, so that they
    go with it even if the processes are killed.

    Raises:
        TryAgainError: SIGTERM, and they did not end by themselves within the grace.
    """
    world = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), RENDEZVOUS: str(scratch / "rendezvous")}
    world |= {_PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1", "TMPDIR": str(scratch)}
    world |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"}
    (scratch / "rendezvous").unlink(missing_ok=True)
    processes: list[subprocess.Popen[bytes]] = []
    terminated: list[float] = []  # when SIGTERM arrived

    def pass_on(number: int, frame: FrameType | None) -> None:
        if not terminated:
            log.warning("SIGTERM: the training saves its state and ends, within %g s", grace_seconds)
            terminated.append(time.monotonic())
        for process in processes:
            process.send_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        for rank in range(count):
            own = {**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(subprocess.Popen([sys.executable, *arguments], env=own))
        code = _ended(processes, terminated, grace_seconds)
    finally:
        _kill(processes)
        signal.signal(signal.SIGTERM, before)
    if terminated and code not in (0, TryAgainError.exit_code):
        raise stopped(f"and not ended within {grace_seconds:g} s")
    return code


def _ended(processes: Sequence[subprocess.Popen[bytes]], terminated: Sequence[float], grace_seconds: float) -> int:
    """Wait for all; after SIGTERM no longer than the grace, after a failure no longer than `_AFTER_FAILURE_S`.

    The code is 0 only where all ended by themselves.
    """
    failed, since = 0, math.inf
    while True:
        codes = [process.poll() for process in processes]
        if not failed and (failed := next((code for code in codes if code), 0)):
            since = time.monotonic()
        if all(code is not None for code in codes):
            return failed
        now = time.monotonic()
        if now > since + _AFTER_FAILURE_S or (terminated and now > terminated[0] + grace_seconds):
            return failed or -signal.SIGKILL  # which those that still run get now
        time.sleep(_POLL_S)


def _kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait()
