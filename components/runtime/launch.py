"""How the processes of one step begin and end: none outlives the step, and SIGTERM ends all of them in time.

The step's process starts the others and passes SIGTERM on. When one fails, the others are ended, since they may wait
for it. Those that do not end within a grace are killed. A process whose step was killed dies with it.
"""

from __future__ import annotations

import ctypes
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from components.core.errors import DataError, MotionEnhancerError, ParameterError, TryAgainError
from components.core.records import canonical_json

log = logging.getLogger(__name__)
_PARENT = "STEP_PARENT"
_ERROR = "error.json"
_PR_SET_PDEATHSIG = 1
_POLL_S = 0.1
_AFTER_FAILURE_S = 5.0  # the others may wait for the one that failed, and then for ever


class Ended(NamedTuple):
    """How processes ended: the first code that is not 0 (negative: the signal), and whether SIGTERM had arrived."""

    code: int
    terminated: bool


def die_with_parent() -> None:
    """Let the kernel kill this process when the one that started it dies, whatever the way (Linux alone can)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if (parent := os.environ.get(_PARENT)) is not None and os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGKILL)  # it died before


def run_processes(
    arguments: Sequence[str],
    environments: Sequence[Mapping[str, str]],
    scratch: Path,
    grace_seconds: float,
    stopping: str,
) -> Ended:
    """Run `python ARGUMENTS` once per environment, side by side, and return how they ended.

    Args:
        arguments: what every process is given.
        environments: what each sees beside the environment of this process.
        scratch: where their temporary files lie, so that these go with it even if the processes are killed.
        grace_seconds: how long they have after SIGTERM.
        stopping: what they do then, for the log.
    """
    shared = {_PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1", "TMPDIR": str(scratch)}
    processes: list[subprocess.Popen[bytes]] = []
    terminated: list[float] = []  # when SIGTERM arrived

    def pass_on(number: int, frame: FrameType | None) -> None:
        if not terminated:
            log.warning("SIGTERM: %s, within %g s", stopping, grace_seconds)
            terminated.append(time.monotonic())
        for process in processes:
            process.send_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        for own in environments:
            processes.append(subprocess.Popen([sys.executable, *arguments], env={**os.environ, **shared, **own}))
        code = _ended(processes, terminated, grace_seconds)
    finally:
        _kill(processes)
        signal.signal(signal.SIGTERM, before)
    return Ended(code, bool(terminated))


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


def leave_error(error: MotionEnhancerError, folder: Path) -> None:
    """Leave an expected error for the process that started this one."""
    fields = {"code": error.exit_code, "problem": error.problem, "source": error.source, "remedy": error.remedy}
    (folder / _ERROR).write_bytes(canonical_json(fields))


def raise_left_error(folder: Path) -> None:
    """Raise the expected error that a process left there, if one did."""
    if (left := folder / _ERROR).is_file():
        fields = json.loads(left.read_bytes())
        kinds = {kind.exit_code: kind for kind in (ParameterError, DataError, TryAgainError)}
        raise kinds[fields.pop("code")](**fields)
