"""What a task that KFP started leaves in the run's store about its end, for KFP itself hands on no exit code.

KFP's run id is part of every output's address, `<pipeline root>/<pipeline>/<run id>/<task>/…`. Where there is none (a
local run, `motion-enhancer step`) nothing is written: the process ends with the code.
"""

from __future__ import annotations

import logging
import os
import re
import traceback
from dataclasses import dataclass
from datetime import datetime, timezone

from components.core.errors import MotionEnhancerError
from components.core.records import Json
from components.store.entries import Store
from components.store.failures import RUN, TaskFailure, forget_failure, write_failure

log = logging.getLogger(__name__)
_LONGEST = 4000  # characters of a text: a step may list thousands of units
SECONDS = 20.0  # that the record may take, of the 30 that Kubernetes leaves a pod that it stops
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL")


@dataclass(frozen=True)
class Ending:
    """What a failure record says: exit code, problem, where it comes from, remedy."""

    code: int
    problem: str
    source: str
    remedy: str

    @classmethod
    def of(cls, error: MotionEnhancerError) -> Ending:
        """Return what an expected error says."""
        return cls(error.exit_code, error.problem, error.source, error.remedy)

    @classmethod
    def of_bug(cls, error: Exception) -> Ending:
        """Return an unexpected exception by its class and its last line."""
        kind, frame = type(error).__qualname__, traceback.extract_tb(error.__traceback__)[-1]
        last = ([*str(error).splitlines()] or [""])[-1].strip()
        place = f"{os.path.basename(frame.filename)}, line {frame.lineno}"
        return cls(1, f"a bug in this project: {kind}: {last}", place, "report it with the traceback of the task's log")


def run_id(task: str, executor_input: Json) -> str:
    """Return KFP's id of the run that an executor input belongs to; empty where KFP did not start the task."""
    groups = executor_input.get("outputs", {}).get("artifacts", {}).values()
    addresses = [str(item.get("uri", "")) for group in groups for item in group.get("artifacts", [])]
    pattern = re.compile(rf"/({RUN})/{re.escape(task.replace('_', '-'))}/")
    return next((found[1] for address in addresses if (found := pattern.search(address))), "")


def note_end(task: str, executor_input: Json, ending: Ending | None) -> None:
    """Write how a task failed into the run's store, or (None: it succeeded) delete what an earlier try wrote.

    Raises nothing and takes at most `SECONDS`: the task has ended, and a store that is away is no second error.
    """
    values = executor_input.get("inputs", {}).get("parameterValues", {})
    run, uri = run_id(task, executor_input), str(values.get("store", ""))
    if not run or not uri:
        return
    item = str(values.get("shard") or values.get("trial_shard") or values.get("benchmark") or "")
    try:
        store = Store(uri, SECONDS / 60)
        if ending is None:
            forget_failure(store, run, task, item)
            return
        texts = {name: without_secrets(getattr(ending, name))[:_LONGEST] for name in ("problem", "source", "remedy")}
        time = datetime.now(timezone.utc).isoformat(timespec="seconds")
        failure = TaskFailure(run=run, task=task, item=item, exit_code=ending.code, time=time, **texts)
        write_failure(store, failure)
    except MotionEnhancerError as error:
        log.warning("%s: the store has no note of this end: %s", task, error.problem)


def without_secrets(text: str) -> str:
    """Return a text without the values of this process's secret variables."""
    secrets = [value for name, value in os.environ.items() if _SECRET.search(name.upper()) and len(value) >= 6]
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, "…")
    return text
