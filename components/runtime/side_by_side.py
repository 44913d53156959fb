"""The units of one task in several processes, one per GPU of its pod: what makes a shard fat.

The task's own process looks up what is remembered. What is left it deals out, every n-th group of units, to processes
of the very same task with one GPU each. These compute, write entries into the store, and nothing else. When they have
ended, the task's own process finds their entries, goes on alone, and writes the outputs, as if it had computed all of
it.

`UNIT_PROCESSES` in the environment says how many; `compile --gpus-per-shard` sets it.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from components.core.errors import ParameterError, TryAgainError
from components.core.records import Json, canonical_json
from components.runtime.launch import raise_left_error, run_processes
from components.runtime.stages import Spent

log = logging.getLogger(__name__)
PROCESSES = "UNIT_PROCESSES"
GRACE_S = 10.0  # after SIGTERM; a process ends at once, the units under way are lost
_PART = "UNIT_PART"  # a file that says what one of the processes is to do
_DEVICES = "CUDA_VISIBLE_DEVICES"


class PartDone(Exception):
    """One of several processes has computed its part: the rest of the step is not its business."""


@dataclass(frozen=True)
class Part:
    """What one of several processes computes.

    Attributes:
        rank: which of `count` it is, from 0 on.
        count: how many there are.
        keys: of its pieces of work.
        folders: what the task's own process laid out for all of them, by name.
        left: where it leaves an error.
    """

    rank: int
    count: int
    keys: frozenset[str]
    folders: Mapping[str, Path]
    left: Path

    @property
    def name(self) -> str:
        """How its lines of the log begin."""
        return f"[{self.rank + 1}/{self.count}]"


def own_part() -> Part | None:
    """Return what this process is to compute, if it is one of several."""
    if (file := os.environ.get(_PART)) is None:
        return None
    found = json.loads(Path(file).read_bytes())
    folders = {name: Path(folder) for name, folder in found["folders"].items()}
    return Part(found["rank"], found["count"], frozenset(found["keys"]), folders, Path(file).parent)


def leave_spent(part: Part, spent: Spent) -> None:
    """Leave the time that one of several processes has spent for the task's own."""
    (part.left / f"spent-{part.rank}.json").write_bytes(canonical_json(asdict(spent)))


def processes() -> int:
    """Return how many processes a task's units are to be computed in."""
    text = os.environ.get(PROCESSES, "1")
    if not text.isdecimal() or not int(text):
        raise ParameterError(f"{text!r} is no number of processes", source=PROCESSES, remedy="a whole number from 1 on")
    return int(text)


def compute(
    step: str,
    task: str,
    executor_input: Json,
    groups: Sequence[Sequence[str]],
    folders: Mapping[str, Callable[[], Path]],
) -> Spent:
    """Compute pieces of work in processes of the same task; what fails by its data is left to the caller.

    Args:
        step: the step.
        task: the task.
        executor_input: KFP's, as the task was given it.
        groups: keys of the work; a group goes to one process, and groups are dealt out in order.
        folders: what all processes read; filled before they start.

    Returns:
        The time that their loops over units spent, of all together.

    Raises:
        MotionEnhancerError: what one of the processes ended with, which ended the others; SIGTERM is a TryAgainError.
    """
    count = min(processes(), len(groups))
    paths = {name: str(path()) for name, path in folders.items()}
    devices = os.environ.get(_DEVICES, "").split(",") if os.environ.get(_DEVICES) else [str(k) for k in range(count)]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count))
    log.info("%s: %d units in %d processes", task, sum(map(len, groups)), count)
    with tempfile.TemporaryDirectory(prefix="units-") as folder:
        scratch, environments = Path(folder), []
        for rank in range(count):
            keys = list(chain.from_iterable(groups[rank::count]))
            part = {"rank": rank, "count": count, "keys": keys, "folders": paths}
            (file := scratch / f"part-{rank}.json").write_bytes(canonical_json(part))
            device = devices[rank % len(devices)]
            environments.append({_PART: str(file), _DEVICES: device, "OMP_NUM_THREADS": threads})
        arguments = ["-m", "components", step, task, json.dumps(executor_input)]
        code, terminated = run_processes(arguments, environments, scratch, GRACE_S, "its processes end")
        if terminated:
            remedy = "run again: units that were finished are remembered"
            raise TryAgainError("stopped by SIGTERM", source=task, remedy=remedy)
        raise_left_error(scratch)
        spent = Spent()
        for file in scratch.glob("spent-*.json"):
            spent.add(Spent(**json.loads(file.read_bytes())))
    if code < 0:
        problem = f"one of {count} processes was killed by signal {-code}"
        raise TryAgainError(problem, source=task, remedy="run again; if that is 9: more memory")
    if code:
        raise RuntimeError(f"one of {count} processes ended with code {code}; its traceback is above")
    return spent
