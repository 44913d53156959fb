"""A run that goes on or is over: its tasks with state, time and cache hits, waiting for its end, and what it has published."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlparse

from tqdm import tqdm

from components.core.artifacts import Report
from components.core.errors import DataError, MotionEnhancerError, ParameterError, TryAgainError
from components.kubeflow import client_metadata
from components.kubeflow.client import Kubeflow, documents_of, get_run, talking_to, values_of
from components.kubeflow.client_cluster import exit_code, pod_log
from components.kubeflow.client_metadata import Execution, NoMetadataError, Published
from components.store.entries import Store

log = logging.getLogger(__name__)
OVER = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
_MISSED = 20  # looks in a row that may fail before `watch` gives up
_HOST = "give --host the address of KFP's UI, which passes on /ml_metadata, and not that of ml-pipeline alone"


@dataclass(frozen=True)
class Row:
    """A task over all its iterations. `cached` is None where only KFP's API was there to ask, which does not tell."""

    task: str
    state: str
    done: int
    begun: int
    cached: int | None
    seconds: float


@dataclass(frozen=True)
class Look:
    """A run as it stands."""

    run_id: str
    state: str
    error: str
    rows: list[Row]
    failed: list[Execution]
    tasks: int  # of the pipeline

    @property
    def finished(self) -> int:
        """Tasks of which every begun iteration has ended."""
        return sum(row.done == row.begun for row in self.rows)


def look(kubeflow: Kubeflow, run_id: str) -> Look:
    """A run's state and tasks.

    Raises:
        DataError: there is no such run.
        TryAgainError: unreachable.
    """
    run = get_run(kubeflow, run_id)
    names = _leaf_tasks(run)
    state, error = str(run.state or "PENDING"), str(run.error.message or "") if run.error is not None else ""
    try:
        found = client_metadata.executions(kubeflow, run_id)
    except NoMetadataError:
        log.info("%s passes on no metadata: cache hits are not told (%s)", kubeflow.where, _HOST)
        return Look(run_id, state, error, _from_api(run, names), [], len(names))
    failed = [item for item in found if item.state == "FAILED"]
    return Look(run_id, state, error, _from_metadata(found, time.time()), failed, len(names))


def _leaf_tasks(run: Any) -> set[str]:
    spec = documents_of(run)[0]
    components = spec.get("components", {})
    dags = [spec.get("root", {}).get("dag", {}), *(item["dag"] for item in components.values() if "dag" in item)]
    tasks = {name: task for dag in dags for name, task in dag.get("tasks", {}).items()}
    return {name for name, task in tasks.items() if "dag" not in components[task["componentRef"]["name"]]}


def _from_metadata(found: list[Execution], now: float) -> list[Row]:
    """One row a task, in the order they began; its time reaches from the first start to the last change."""
    tasks: dict[str, list[Execution]] = {}
    for item in found:
        tasks.setdefault(item.task, []).append(item)
    rows = []
    for task, items in tasks.items():
        states = [item.state for item in items]
        state = next((state for state in ("FAILED", "RUNNING", "NEW", "CANCELED") if state in states), "COMPLETE")
        if set(states) == {"CACHED"}:
            state = "CACHED"
        end = max(item.changed if item.done else now for item in items)
        rows.append(
            Row(
                task,
                state,
                sum(item.done for item in items),
                len(items),
                states.count("CACHED"),
                end - min(item.started for item in items),
            )
        )
    return rows


def _from_api(run: Any, names: set[str]) -> list[Row]:
    """The same from the run's own task details, which are Argo's nodes: those that are called like a task."""
    nodes: dict[str, list[Any]] = {}
    for item in (run.run_details.task_details or []) if run.run_details is not None else []:
        if item.display_name in names:
            nodes.setdefault(item.display_name, []).append(item)
    rows = []
    for task, items in nodes.items():
        states = [str(item.state) for item in items]
        state = next((state for state in ("FAILED", "RUNNING", "PENDING", "CANCELED") if state in states), "SUCCEEDED")
        started = min(item.start_time for item in items)
        ends = [item.end_time for item in items if item.end_time is not None and item.end_time.year > 1970]
        seconds = (max(ends) - started).total_seconds() if ends else 0.0
        rows.append(Row(task, state, sum(state in OVER for state in states), len(items), None, seconds))
    return rows


def table(found: Look) -> list[str]:
    """A look as lines of text."""
    width = max((len(row.task) for row in found.rows), default=4) + 2
    lines = [f"{'task':<{width}}{'state':<11}{'done':>9}{'cached':>8}{'seconds':>10}"]
    for row in found.rows:
        cached = "?" if row.cached is None else str(row.cached)
        lines.append(f"{row.task:<{width}}{row.state:<11}{f'{row.done}/{row.begun}':>9}{cached:>8}{row.seconds:>10.0f}")
    lines.append(
        f"run {found.run_id}: {found.state}, {found.finished} of {found.tasks} tasks{f', {found.error}' if found.error else ''}"
    )
    return lines


def watch(kubeflow: Kubeflow, run_id: str, every: float, wait: Callable[[float], None] = time.sleep) -> Look:
    """Look again every `every` seconds until the run is over: a bar on a terminal, elsewhere a log line at each change.

    Raises:
        TryAgainError: KFP could not be asked twenty times in a row; the run goes on.
    """
    missed, before = 0, ""
    with tqdm(total=None, desc=run_id, unit="task", disable=not sys.stderr.isatty()) as bar:
        while True:
            try:
                found, missed = look(kubeflow, run_id), 0
            except TryAgainError as error:
                missed += 1
                if missed == _MISSED:
                    raise
                log.warning("asking again in %.0f s: %s", every, error.problem)
                wait(every)
                continue
            bar.total, bar.n = found.tasks, found.finished
            going = " ".join(f"{row.task} {row.done}/{row.begun}" for row in found.rows if row.done < row.begun)
            bar.set_postfix_str(going)
            if (now := f"{found.state}, {found.finished} of {found.tasks} tasks; {going}") != before and bar.disable:
                log.info("%s: %s", run_id, now)
            before = now
            if found.state in OVER:
                return found
            wait(every)


def verdict(kubeflow: Kubeflow, found: Look) -> tuple[int | None, str]:
    """The exit code of the first failed task's own process and the end of its log; no code where its log does not tell."""
    if not found.failed or not found.failed[0].pod:
        return None, ""
    try:
        text = pod_log(kubeflow, found.run_id, found.failed[0].pod, found.failed[0].namespace)
    except MotionEnhancerError as error:
        return None, str(error)
    return exit_code(text), "\n".join(text.splitlines()[-25:])


def task_logs(kubeflow: Kubeflow, run_id: str, task: str) -> dict[str, str]:
    """The logs of a task by pod, one for each iteration that was executed.

    Raises:
        ParameterError: no such task, or the host passes on no metadata.
        DataError: no such run, no iteration was executed, or a log is gone.
    """
    get_run(kubeflow, run_id)
    found = _metadata(client_metadata.executions, kubeflow, run_id)
    mine = [item for item in found if item.task == task.replace("_", "-")]
    if not mine:
        remedy = f"use {', '.join(dict.fromkeys(item.task for item in found)) or 'it later: none has begun'}"
        raise ParameterError(f"run {run_id} has begun no task {task!r}", source="command line", remedy=remedy)
    pods = [item for item in mine if item.pod and item.state != "CACHED"]
    if not pods:
        remedy = "its log is that of the run which computed it"
        raise DataError(
            f"{task} was not executed in run {run_id}: its result came from KFP's cache", source="KFP", remedy=remedy
        )
    return {item.pod: pod_log(kubeflow, run_id, item.pod, item.namespace) for item in pods}


def _metadata(question: Callable[[Kubeflow, str], Any], kubeflow: Kubeflow, run_id: str) -> Any:
    try:
        return question(kubeflow, run_id)
    except NoMetadataError as error:
        raise ParameterError(
            "this host does not tell what KFP's metadata store holds", source=kubeflow.where, remedy=_HOST
        ) from error


def fetch(kubeflow: Kubeflow, run_id: str, folder: Path, namespace: str) -> list[Path]:
    """What a finished run made, as files: its manifests' digests, and where it made a report, that page and its summary.

    `manifests.json` lists every manifest that the run published; `report.html` comes out of the run's own store,
    `summary.md` out of KFP's, through the UI.

    Raises:
        DataError: no such run, it is not over, or the store lacks the report.
        ParameterError: the host passes on no metadata, or the store cannot be opened.
        TryAgainError: KFP or the store cannot be reached.
    """
    run = get_run(kubeflow, run_id)
    if run.state != "SUCCEEDED":
        raise DataError(
            f"run {run_id} is {run.state}",
            source=kubeflow.where,
            remedy="wait for its end: motion-enhancer status --watch",
        )
    found: list[Published] = _metadata(client_metadata.artifacts, kubeflow, run_id)
    manifests = [
        {"task": item.task, "output": item.output, **_named(item)} for item in found if "digest" in item.metadata
    ]
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "manifests.json"]
    written[0].write_text(json.dumps(manifests, indent=2) + "\n")
    if (report := next((item["digest"] for item in manifests if item["kind"] == Report.KIND), None)) is not None:
        store = Store(str(values_of(run)["store"]))
        written.append(folder / "report.html")
        written[-1].write_bytes(store.read(store.manifest(report, Report).page))
        for item in found:
            if (item.task, item.output) == ("report", "summary"):
                written.append(folder / "summary.md")
                written[-1].write_bytes(_artifact(kubeflow, item, namespace))
    return written


def _named(item: Published) -> dict[str, str]:
    return {"kind": item.metadata.get("kind", ""), "digest": item.metadata["digest"]}


def _artifact(kubeflow: Kubeflow, item: Published, namespace: str) -> bytes:
    """A file of KFP's own store through its UI, as its previews get it."""
    place = urlparse(item.uri)
    query = {"source": place.scheme, "bucket": place.netloc, "key": place.path.lstrip("/"), "namespace": namespace}
    if session := item.metadata.get("store_session_info"):
        query["providerInfo"] = session
    with talking_to(kubeflow.where, f"KFP's UI does not hand out {item.uri}"):
        return kubeflow.raw("GET", f"/artifacts/get?{urlencode(query)}")[0]
