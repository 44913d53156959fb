"""`failures/<KFP run>/<task>….json`: how a task failed, for those who see nothing but KFP.

KFP's launcher ends with 1 whatever the step's code was, so its run API knows neither our code nor our sentence. A
failed task writes them here, a later try that succeeds deletes them. `failures/lists/<task>-….txt` are lists that are
too long for a message. Garbage collection deletes both by their age.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from pydantic import Field, ValidationError

from components.core.records import Record, sha256
from components.store.entries import Store

log = logging.getLogger(__name__)
RUN = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
FAILURE = re.compile(rf"failures/(?:{RUN}/[a-z0-9_]+(?:-[0-9a-f]{{16}})?\.json|lists/[a-z0-9_]+-[0-9a-f]{{16}}\.txt)")
SHOWN = 20  # lines of a list that a message repeats


class TaskFailure(Record):
    """How one task of a run ended, or one iteration of it: its last try."""

    run: str = Field(pattern=f"^{RUN}$", description="KFP's id of the run")
    task: str
    item: str = Field("", description="the shard, benchmark or part of the trainings of a loop's iteration")
    exit_code: int
    problem: str
    source: str
    remedy: str
    time: str = Field(description="when it ended, ISO 8601 in UTC")


def failure_path(run: str, task: str, item: str = "") -> str:
    """Return the record's path: one per task and iteration, so that the next try overwrites it."""
    return f"failures/{run}/{task}{f'-{sha256(item.encode())[:16]}' if item else ''}.json"


def write_failure(store: Store, failure: TaskFailure) -> None:
    """Write a record."""
    path = failure_path(failure.run, failure.task, failure.item)
    store.backend.put(path, failure.model_dump_json(indent=2).encode())


def forget_failure(store: Store, run: str, task: str, item: str = "") -> None:
    """Delete a record if there is one: the task has succeeded since."""
    store.backend.delete(failure_path(run, task, item))


def read_failures(store: Store, run: str) -> list[TaskFailure]:
    """Return the records of a run, by task and iteration; one that this code cannot read is left out with a warning."""
    found = []
    for listed in store.backend.walk(f"failures/{run}"):
        if not FAILURE.fullmatch(listed.path) or (data := store.backend.get(listed.path)) is None:
            continue
        try:
            found.append(TaskFailure.model_validate_json(data))
        except ValidationError:
            log.warning("%s/%s is no record of a failure that this version reads", store.uri, listed.path)
    return sorted(found, key=lambda failure: (failure.task, failure.item))


def shortened(store: Store, task: str, lines: Sequence[str]) -> list[str]:
    """Return a list as a message repeats it: if it is long, its first lines, and the address of a file that has all."""
    if (more := len(lines) - SHOWN) <= 0:
        return [*lines]
    return [*lines[:SHOWN], f"… and {more:,} more, all in {write_list(store, task, lines)}"]


def write_list(store: Store, task: str, lines: Sequence[str]) -> str:
    """Write a list with one line per item, named after its content; return its address."""
    data = "".join(f"{line}\n" for line in lines).encode()
    path = f"failures/lists/{task}-{sha256(data)[:16]}.txt"
    store.backend.put(path, data)
    return f"{store.uri}/{path}"
