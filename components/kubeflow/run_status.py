"""A run on a cluster as KFP's run API gives it: the state of its tasks, and waiting for its end.

The API lists Argo's nodes. A task of ours is a node by its name (once per iteration); what it executes is a node
`executor`, which is SKIPPED where KFP's cache had the result; KFP's own part of a task is a node `…-driver`. The list
stands still once Argo compresses a run's nodes (about 1 MB). The API gives neither logs nor artifacts.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from tqdm import tqdm

from components.core.errors import DataError, TryAgainError
from components.kubeflow.client import Kubeflow, documents_of, get_run

log = logging.getLogger(__name__)
OVER = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
_OWN = ("root", "iteration", "iteration-item")  # what KFP calls the whole and the parts of every loop
_ATTEMPTS = 20  # failed requests in a row before `watch` gives up
_QUIET = timedelta(minutes=15)  # without a change in its list, a run may have one that stands still


@dataclass(frozen=True)
class TaskStatus:
    """A task over all its iterations; `cached` of the done ones came from KFP's cache. `error` is KFP's own message."""

    task: str
    state: str
    done: int
    begun: int
    cached: int
    seconds: float
    error: str = ""


@dataclass(frozen=True)
class RunStatus:
    """A run at one moment. `stale`: it is over, but its list of tasks stopped before that."""

    run_id: str
    state: str
    error: str
    tasks: list[TaskStatus]
    total: int | None  # tasks of the pipeline; None where KFP no longer has the pipeline
    stale: bool
    changed: datetime | None = None  # the last change that the list of tasks shows
    drivers: dict[str, str] = field(default_factory=dict)  # KFP's own parts that failed: its message, or nothing

    @property
    def finished(self) -> int:
        """Tasks of which every begun iteration has ended."""
        return sum(item.done == item.begun for item in self.tasks)

    @property
    def progress(self) -> str:
        """Say how many tasks are finished."""
        return f"{self.finished} tasks" if self.total is None else f"{self.finished} of {self.total} tasks"

    @property
    def note(self) -> str:
        """Say that the list of tasks stands still, or that it may; empty where nothing looks like it."""
        if self.stale:
            return "this list stopped before the run's end (Argo compresses long ones); the run's state is right"
        if self.state in OVER or self.changed is None or datetime.now(timezone.utc) - self.changed < _QUIET:
            return ""
        when = f"the last change in this list is of {self.changed:%Y-%m-%d %H:%M} UTC"
        return f"{when}: a long task, or a list that stands still (Argo compresses long ones)"


def run_status(kubeflow: Kubeflow, run_id: str) -> RunStatus:
    """Ask for a run's state and tasks. Raises DataError: there is no such run; TryAgainError: unreachable."""
    run = get_run(kubeflow, run_id)
    nodes = (run.run_details.task_details or []) if run.run_details is not None else []
    try:
        spec = documents_of(kubeflow, run)[0]
        names = leaf_tasks(spec)
    except DataError:  # a version that was deleted: what has a driver is a task, but for KFP's own loops
        spec, shown = {}, {str(node.display_name) for node in nodes}
        names = {name for name in shown if f"{name}-driver" in shown} - set(_OWN)
    executors = [node for node in nodes if node.display_name == "executor"]
    skipped = {(node.start_time, node.end_time) for node in executors if node.state == "SKIPPED"}
    iterations: dict[str, list[Any]] = {}
    for node in sorted(nodes, key=lambda node: (node.start_time, node.display_name or "")):
        if node.display_name in names and node.state is not None:  # without a state it was left out
            iterations.setdefault(node.display_name, []).append(node)
    tasks = [_task_status(task, found, skipped) for task, found in iterations.items()]
    # a single try has a number behind its name, and another one may have gone well
    failed = {str(node.display_name): node for node in nodes if node.state == "FAILED"}
    drivers = [name for name in failed if name.endswith("-driver")]
    times = [time for node in nodes for time in (node.start_time, node.end_time) if _is_set(time)]
    state, error = str(run.state or "PENDING"), _message(run)
    going = any(item.done < item.begun for item in tasks)
    return RunStatus(
        run_id=run_id,
        state=state,
        error=error,
        tasks=tasks,
        total=len(names) if spec else None,
        stale=_stale(state, going, len(tasks) < len(names), bool(nodes) and not failed),
        changed=max(times, default=None),
        drivers={_driver(name, spec, set(failed)): _message(failed[name]) for name in drivers},
    )


def _stale(state: str, going: bool, fewer: bool, good: bool) -> bool:
    """Return whether a run is over and its list is not: tasks go on, are not there, or none of a failed run failed."""
    return state in OVER and (going or (state == "SUCCEEDED" and fewer) or (state == "FAILED" and good))


def leaf_tasks(spec: dict[str, Any]) -> set[str]:
    """Return the tasks of a compiled pipeline that are containers."""
    return {name for name, inner in _tasks(spec).items() if inner is None}


def _tasks(spec: dict[str, Any]) -> dict[str, Any]:
    """Return all tasks of a compiled pipeline, at any depth: of a loop the tasks inside it, else None."""
    components = spec.get("components", {})
    dags = [spec.get("root", {}).get("dag", {}), *(item["dag"] for item in components.values() if "dag" in item)]
    tasks = {
        name: components[task["componentRef"]["name"]] for dag in dags for name, task in dag.get("tasks", {}).items()
    }
    return {name: component.get("dag", {}).get("tasks") for name, component in tasks.items()}


def _driver(name: str, spec: dict[str, Any], failed: set[str]) -> str:
    """Return a driver's name; with the loop that failed for the drivers of loops, which are all called the same."""
    loops = [f"{loop} ({', '.join(inner)})" for loop, inner in _tasks(spec).items() if inner and loop in failed]
    return f"{name} of {', '.join(loops)}" if loops and name.removesuffix("-driver") in _OWN else name


def _is_set(time: datetime | None) -> bool:
    return time is not None and time.year > 1970


def _message(item: Any) -> str:
    """Return the newest error that KFP gives with a run or a node; empty where it gives none."""
    errors = [item.error, *(change.error for change in reversed(item.state_history or []))]
    return next((str(error.message).strip() for error in errors if error is not None and error.message), "")


def _task_status(task: str, nodes: list[Any], skipped: set[tuple[Any, Any]]) -> TaskStatus:
    """Sum up a task's iterations; its time reaches from the first start to the last end."""
    states = [str(node.state) for node in nodes]
    state = next((state for state in ("FAILED", "RUNNING", "PENDING", "CANCELED") if state in states), "SUCCEEDED")
    # a task from the cache takes no time, and its executor was skipped in that same moment
    cached = sum(node.start_time == node.end_time and (node.start_time, node.end_time) in skipped for node in nodes)
    ends = [node.end_time for node in nodes if _is_set(node.end_time)]
    seconds = (max(ends) - min(node.start_time for node in nodes)).total_seconds() if ends else 0.0
    error = next((message for node in nodes if node.state == "FAILED" and (message := _message(node))), "")
    return TaskStatus(task, state, sum(state in OVER for state in states), len(nodes), cached, seconds, error)


def table(found: RunStatus) -> list[str]:
    """Return a status as lines of text."""
    width = max((len(item.task) for item in found.tasks), default=4) + 2
    lines = [f"{'task':<{width}}{'state':<11}{'done':>9}{'cached':>8}{'seconds':>10}"]
    for item in found.tasks:
        done = f"{item.done}/{item.begun}"
        lines.append(f"{item.task:<{width}}{item.state:<11}{done:>9}{item.cached:>8}{item.seconds:>10.0f}")
    if note := found.note:
        lines.append(note)
    if found.total is None:
        lines.append("KFP no longer has this run's pipeline: how many tasks it has is not known")
    error = f", {found.error}" if found.error else ""
    return [*lines, f"run {found.run_id}: {found.state}, {found.progress}{error}"]


def watch(kubeflow: Kubeflow, run_id: str, every: float, wait: Callable[[float], None] = time.sleep) -> RunStatus:
    """Ask every `every` seconds until the run is over: a bar on a terminal, elsewhere a log line at each change.

    Raises TryAgainError: KFP did not answer twenty times in a row; the run goes on.
    """
    missed, before, noted = 0, "", False
    with tqdm(total=None, desc=run_id, unit="task", disable=not sys.stderr.isatty()) as bar:
        while True:
            try:
                found, missed = run_status(kubeflow, run_id), 0
            except TryAgainError as error:
                missed += 1
                if missed == _ATTEMPTS:
                    raise
                log.warning("asking again in %.0f s: %s", every, error.problem)
                wait(every)
                continue
            bar.total, bar.n = found.total, found.finished
            going = " ".join(f"{item.task} {item.done}/{item.begun}" for item in found.tasks if item.done < item.begun)
            bar.set_postfix_str(going)
            if (now := f"{found.state}, {found.progress}; {going}") != before and bar.disable:
                log.info("%s: %s", run_id, now)
            before = now
            if found.state in OVER:
                return found
            if found.note and not noted:
                log.warning("%s", found.note)
                noted = True
            wait(every)
