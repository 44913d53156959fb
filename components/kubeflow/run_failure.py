"""Why a run failed: what its steps wrote into the store (`failures/`), and for KFP's own drivers what KFP says.

KFP's launcher ends with 1 whatever the step's code was: its API knows that a task failed, never why.
"""

from __future__ import annotations

from typing import Any

from components.core.errors import DataError, MotionEnhancerError
from components.kubeflow.client import Kubeflow, get_run, values_of
from components.kubeflow.run_status import RunStatus
from components.store.entries import Store
from components.store.failures import TaskFailure, read_failures

_SECONDS = 30.0  # that the store may take to answer
_AGAIN = "a new submission takes what is done from the caches; see docs/troubleshooting.md"


def reasons(kubeflow: Kubeflow, found: RunStatus) -> list[str]:
    """Return lines that name each failed task with our exit code, the first line of its error, and the remedy.

    Where the list of tasks stands still, every record counts but those of tasks that it shows as succeeded: a task that
    succeeds deletes its own. Raises as `get_run`.
    """
    lines = [
        f"{name}, which is KFP's own, failed: {message or 'its API gives no message, the UI shows its log'}\n"
        f"  remedy: {_AGAIN}"
        for name, message in found.drivers.items()
    ]
    failed = {item.task: item.error for item in found.tasks if item.state == "FAILED"}
    if not failed and not found.stale:
        return lines or ["KFP does not show which task failed"]
    well = {item.task for item in found.tasks if item.state == "SUCCEEDED"}
    try:
        uri = _store_of(kubeflow, get_run(kubeflow, found.run_id))
        written = read_failures(Store(uri, _SECONDS / 60), found.run_id)
    except MotionEnhancerError as error:
        lines += [f"{task} failed{f': {message}' if message else ''}" for task, message in failed.items()]
        return [*lines, f"what the steps wrote about it cannot be read here: {error.problem}; {error.remedy}"]
    records = [item for item in written if _name(item) in failed or (found.stale and _name(item) not in well)]
    silent = failed.keys() - {_name(item) for item in records}
    lines += _grouped(records)
    for task in sorted(silent):
        said = f" KFP's message: {failed[task]}" if failed[task] else ""
        lines.append(f"{task} failed and wrote nothing: it was killed (memory, its node) or never began.{said}")
    if not failed and not records:
        lines.append("no task wrote why: one was killed (memory, its node) or never began; the UI shows which")
    return lines


def _name(failure: TaskFailure) -> str:
    """Return the task as KFP spells it."""
    return failure.task.replace("_", "-")


def _grouped(records: list[TaskFailure]) -> list[str]:
    """Return a line with a remedy for each failure, one for all iterations that say the same."""
    items: dict[tuple[str, int, str, str, str], list[str]] = {}
    for item in records:
        first = (item.problem.splitlines() or [""])[0]
        key = (_name(item), item.exit_code, first, item.source, item.remedy)
        items.setdefault(key, []).append(item.item)
    lines = []
    for (task, code, problem, source, remedy), which in items.items():
        iterations = f" ({', '.join(which)})" if any(which) else ""
        lines.append(f"{task}{iterations} ended with code {code}: {problem}\n  where:  {source}\n  remedy: {remedy}")
    return lines


def _store_of(kubeflow: Kubeflow, run: Any) -> str:
    """Return the address of a run's store. Raises DataError: neither run nor pipeline names one."""
    given = run.runtime_config.parameters if run.runtime_config is not None else None
    uri = (given or {}).get("store") or values_of(kubeflow, run).get("store")
    if not uri:
        raise DataError("the run has no parameter `store`", source=kubeflow.where, remedy="give a run of ours")
    return str(uri)
