"""A run on a cluster as KFP's run API gives it: the state of its tasks, waiting for its end, and the report it made.

The API lists Argo's nodes. A task of ours is a node by its name (once per iteration); what it executes is a node
`executor`, which is SKIPPED where KFP's cache had the result. The API gives neither logs nor artifacts.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from components.core.artifacts import Report
from components.core.errors import DataError, ParameterError, TryAgainError
from components.kubeflow.client import Kubeflow, documents_of, get_run, values_of
from components.store.check import products
from components.store.entries import Store

log = logging.getLogger(__name__)
OVER = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
_ATTEMPTS = 20  # failed requests in a row before `watch` gives up


@dataclass(frozen=True)
class TaskStatus:
    """A task over all its iterations; `cached` of the done ones came from KFP's cache."""

    task: str
    state: str
    done: int
    begun: int
    cached: int
    seconds: float


@dataclass(frozen=True)
class RunStatus:
    """A run at one moment. `stale`: it is over, but its list of tasks stopped before that."""

    run_id: str
    state: str
    error: str
    tasks: list[TaskStatus]
    total: int  # tasks of the pipeline
    stale: bool

    @property
    def finished(self) -> int:
        """Tasks of which every begun iteration has ended."""
        return sum(item.done == item.begun for item in self.tasks)


def run_status(kubeflow: Kubeflow, run_id: str) -> RunStatus:
    """Ask for a run's state and tasks. Raises DataError: there is no such run; TryAgainError: unreachable."""
    run = get_run(kubeflow, run_id)
    names, nodes = _leaf_tasks(run), (run.run_details.task_details or []) if run.run_details is not None else []
    executors = [node for node in nodes if node.display_name == "executor"]
    skipped = {(node.start_time, node.end_time) for node in executors if node.state == "SKIPPED"}
    iterations: dict[str, list[Any]] = {}
    for node in sorted(nodes, key=lambda node: (node.start_time, node.display_name or "")):
        if node.display_name in names and node.state is not None:  # without a state it was left out
            iterations.setdefault(node.display_name, []).append(node)
    tasks = [_task_status(task, found, skipped) for task, found in iterations.items()]
    state, error = str(run.state or "PENDING"), str(run.error.message or "") if run.error is not None else ""
    going = any(item.done < item.begun for item in tasks)
    stale = state in OVER and (going or (state == "SUCCEEDED" and len(tasks) < len(names)))
    return RunStatus(run_id, state, error, tasks, len(names), stale)


def _leaf_tasks(run: Any) -> set[str]:
    spec = documents_of(run)[0]
    components = spec.get("components", {})
    dags = [spec.get("root", {}).get("dag", {}), *(item["dag"] for item in components.values() if "dag" in item)]
    tasks = {name: task for dag in dags for name, task in dag.get("tasks", {}).items()}
    return {name for name, task in tasks.items() if "dag" not in components[task["componentRef"]["name"]]}


def _task_status(task: str, nodes: list[Any], skipped: set[tuple[Any, Any]]) -> TaskStatus:
    """Sum up a task's iterations; its time reaches from the first start to the last end."""
    states = [str(node.state) for node in nodes]
    state = next((state for state in ("FAILED", "RUNNING", "PENDING", "CANCELED") if state in states), "SUCCEEDED")
    # a task from the cache takes no time, and its executor was skipped in that same moment
    cached = sum(node.start_time == node.end_time and (node.start_time, node.end_time) in skipped for node in nodes)
    ends = [node.end_time for node in nodes if node.end_time is not None and node.end_time.year > 1970]
    seconds = (max(ends) - min(node.start_time for node in nodes)).total_seconds() if ends else 0.0
    return TaskStatus(task, state, sum(state in OVER for state in states), len(nodes), cached, seconds)


def table(found: RunStatus) -> list[str]:
    """Return a status as lines of text."""
    width = max((len(item.task) for item in found.tasks), default=4) + 2
    lines = [f"{'task':<{width}}{'state':<11}{'done':>9}{'cached':>8}{'seconds':>10}"]
    for item in found.tasks:
        done = f"{item.done}/{item.begun}"
        lines.append(f"{item.task:<{width}}{item.state:<11}{done:>9}{item.cached:>8}{item.seconds:>10.0f}")
    if found.stale:
        lines.append("this list stopped before the run's end (Argo compresses long ones); the run's state is right")
    error = f", {found.error}" if found.error else ""
    return [*lines, f"run {found.run_id}: {found.state}, {found.finished} of {found.total} tasks{error}"]


def watch(kubeflow: Kubeflow, run_id: str, every: float, wait: Callable[[float], None] = time.sleep) -> RunStatus:
    """Ask every `every` seconds until the run is over: a bar on a terminal, elsewhere a log line at each change.

    Raises TryAgainError: KFP did not answer twenty times in a row; the run goes on.
    """
    missed, before = 0, ""
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
            if (now := f"{found.state}, {found.finished} of {found.total} tasks; {going}") != before and bar.disable:
                log.info("%s: %s", run_id, now)
            before = now
            if found.state in OVER:
                return found
            wait(every)


def fetch(kubeflow: Kubeflow, run_id: str, folder: Path, digest: str = "") -> list[Path]:
    """Bring a finished run's report out of the run's store, with the digests of the manifests it was made of.

    KFP's API does not name what a run published, so the report is the one whose provenance fits the run's parameters.
    `folder` gets `report.html` and `manifests.json`; nothing is written before both are there.

    Raises DataError: no such run, it is not over, or the store lacks the report; ParameterError: several reports fit,
    or the store cannot be opened; TryAgainError: KFP or the store cannot be reached.
    """
    run = get_run(kubeflow, run_id)
    if run.state != "SUCCEEDED":
        remedy = "wait for its end: motion-enhancer status --watch"
        raise DataError(f"run {run_id} is {run.state}", source=kubeflow.where, remedy=remedy)
    values = values_of(run)
    store = Store(str(values["store"]))
    report = store.manifest(digest, Report) if digest else _report_of(store, values)
    entry = store.entry("report", report.page.path.split("/")[1])
    read = {} if entry is None else {name: entry.reads.get(name) for name in ("priors", "model", "untouched", "tuned")}
    digests = {"report": report.digest, **read}
    files = {"report.html": store.read(report.page), "manifests.json": json.dumps(digests, indent=2).encode() + b"\n"}
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


def _report_of(store: Store, values: dict[str, Any]) -> Report:
    """Return the store's one report that was made with these parameters."""
    found = [item for item in products(store, [Report.KIND]) if isinstance(item, Report) and _fits(item, values)]
    if len(found) == 1:
        return found[0]
    if not found:
        remedy = "a run of motion_priors makes none; give another one's digest with --report"
        raise DataError("no report with this run's parameters", source=store.uri, remedy=remedy)
    remedy = f"give --report, one of: {', '.join(f'sha256:{item.digest}' for item in found)}"
    raise ParameterError(f"{len(found)} reports fit this run's parameters", source=store.uri, remedy=remedy)


def _fits(report: Report, values: dict[str, Any]) -> bool:
    """Return whether every parameter in a report's provenance has the run's value, and every model the run's name."""
    groups = [value for value in values.values() if isinstance(value, dict)]
    return all(
        all(values.get(name) == value for name, value in record.scalars.items())
        and all(Path(str(values.get(role))).name == model.name for role, model in record.models.items())
        and any(all(group.get(name) == value for name, value in record.params.items()) for group in groups)
        for record in report.provenance.values()
    )
