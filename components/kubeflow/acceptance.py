"""The acceptance test of anybody's cluster: the smoke's pipeline three times, and what the store says that they did.

First run, the same again, the same with a new nonce for one task; then the report. What a run did is read from the
store, which holds for every version of KFP: a task that is executed writes its manifest again, a piece of work that is
computed writes its entry. Listings are compared with listings, so nobody's clock matters. What came from KFP's cache is
asked of its API as well, where its list of tasks is whole. The store is a prefix of its own, fresh and used by no other
run.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes.client.exceptions import ApiException

from components.core.artifacts import Report
from components.core.errors import DataError, MotionEnhancerError, ParameterError, TryAgainError
from components.core.records import sha256
from components.core.units import counted
from components.kubeflow import client, run_failure, run_report, run_status
from components.kubeflow.cluster_check import ask
from components.kubeflow.task_graph import Tasks, followers, task_graph
from components.store.access import check_access
from components.store.entries import Store
from components.store.names import MANIFEST, PART

log = logging.getLogger(__name__)
EXPERIMENT = "motion-enhancer acceptance test"
_NODE = re.compile(r"\.([a-z0-9-]+)(?:\(\d+\))?\.executor(?:\(\d+\))?$")  # Argo's name of a pod that is a step's
# what plan remembers of file headers, what failed tasks wrote, and copies of entries
_NOT_COMPUTED = ("plan", "failures", "indexes")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: `ok`, `failed`, `?` where KFP's API does not tell, `not run` after a failure."""

    what: str
    state: str
    seen: str = ""

    @property
    def holds(self) -> bool:
        """Whether this does not fail the test."""
        return self.state in ("ok", "?")


@dataclass(frozen=True)
class Done:
    """A run that succeeded: what KFP says of it, the tasks whose manifests it wrote, objects of work by folder."""

    status: run_status.RunStatus
    published: set[str]
    computed: Counter[str]


@dataclass(frozen=True)
class Smoke:
    """What is run: the compiled pipeline, its parameters, the task that is run again, and how."""

    package: Path
    values: dict[str, Any]
    task: str = "sft"
    account: str = ""
    every: float = 15.0
    limit: float = 7200.0
    wait: Callable[[float], None] = time.sleep


class Disturbance:
    """Deletes one pod of a run while its task is executed, as a drained or preempted node does."""

    def __init__(self, api: Any, namespace: str) -> None:
        self._api, self._namespace, self.deleted = api, namespace, ""
        self._pods("nothing")  # these credentials must be good before anything is submitted

    def attempt(self, run_id: str) -> None:
        """Delete a running pod of a step, the first that is met; never `plan`, which is over at once.

        Raises ParameterError: not allowed. A cluster that does not answer is asked again the next time.
        """
        try:
            self._attempt(run_id)
        except TryAgainError as error:
            log.warning("no pod deleted yet: %s", error.problem)

    def _attempt(self, run_id: str) -> None:
        for pod in [] if self.deleted else self._pods(run_id):
            node = _NODE.search((pod.metadata.annotations or {}).get("workflows.argoproj.io/node-name", ""))
            if node is None or node[1] == "plan" or pod.status.phase != "Running":
                continue
            name = pod.metadata.name
            if self._allowed(ask(self._api.delete_namespaced_pod, name, self._namespace)) is not None:
                self.deleted = f"{name}, of {node[1]}"
                log.info("deleted the pod %s", self.deleted)
                return

    def _pods(self, run_id: str) -> list[Any]:
        found = ask(self._api.list_namespaced_pod, self._namespace, label_selector=f"pipeline/runid={run_id}")
        return [] if found is None else list(self._allowed(found).items)

    def _allowed(self, answer: Any) -> Any:
        if isinstance(answer, ApiException):
            problem = f"these credentials may not list and delete pods in {self._namespace}"
            raise ParameterError(problem, source="KUBECONFIG", remedy="ask who may, or leave --disturb out")
        return answer


class Acceptance:
    """One acceptance test. `checks` fills as it goes on.

    Args:
        kubeflow: from `connect`.
        smoke: what is run.
        folder: where the report goes.
        disturbance: deletes a pod of the first run, if one is given.
    """

    def __init__(
        self, kubeflow: client.Kubeflow, smoke: Smoke, folder: Path, disturbance: Disturbance | None = None
    ) -> None:
        self.kubeflow, self.smoke, self.folder, self.disturbance = kubeflow, smoke, folder, disturbance
        self.store, self.checks = Store(str(smoke.values["store"])), list[Check]()
        spec = client.read_package(smoke.package)[0]
        self.tasks: Tasks = task_graph(spec)
        self.publishing = {name for name in run_status.leaf_tasks(spec) if _publishes(spec, name)}
        again, rerun = "same again: ", f"rerun {smoke.task}: "
        self.titles = [
            "pipeline uploaded",
            "first run: succeeds",
            *(["first run: goes on after a deleted pod"] if disturbance else []),
            "first run: every task publishes what it made",
            f"{again}succeeds",
            f"{again}computes nothing",
            f"{again}executes plan alone",
            f"{again}the others from KFP's cache",
            f"{rerun}succeeds",
            f"{rerun}computes nothing that is there",
            f"{rerun}executes it and what follows, no other",
            f"{rerun}the others from KFP's cache",
            "report: fetched, and is a page",
            "report: its digests hold",
        ]

    def run(self) -> list[Check]:
        """Do everything; after a failure that leaves nothing to look at the other checks are `not run`."""
        self._probe()
        try:
            self._runs()
        except MotionEnhancerError as error:
            self._hold(False, f"{error.problem}\nremedy: {error.remedy}")
        return [*self.checks, *(Check(title, "not run") for title in self.titles[len(self.checks) :])]

    def _runs(self) -> None:
        uploaded = client.upload(self.kubeflow, self.smoke.package, self.store.uri.rpartition("/")[2])
        self._hold(True, f"{uploaded.name}, version {uploaded.version_id}")

        def submit() -> str:
            return client.submit(self.kubeflow, uploaded, self.smoke.values, EXPERIMENT, self.smoke.account)

        first = self._run(submit, self.disturbance)
        missing = sorted(self.publishing - first.published)
        seen = f"nothing of {', '.join(missing)}" if missing else f"{counted(len(first.published), 'task')}, "
        self._hold(not missing, seen if missing else f"{seen}{counted(sum(first.computed.values()), 'object')} of work")
        self._unchanged(self._run(submit), {"plan"})
        wanted = followers(self.tasks, {self.smoke.task}) | {"plan"}
        rerun = self._run(lambda: client.rerun(self.kubeflow, first.status.run_id, [self.smoke.task], None, False)[0])
        self._unchanged(rerun, wanted)
        self._report(rerun.status.run_id)

    def _hold(self, holds: bool | None, seen: str) -> None:
        """Add the next check; None: this KFP does not tell."""
        made = Check(self.titles[len(self.checks)], "?" if holds is None else "ok" if holds else "failed", seen)
        self.checks.append(made)
        log.info("%s: %s (%s)", made.state, made.what, seen.partition("\n")[0])

    def _probe(self) -> None:
        """Try what a run does with the store, which is new. Raises ParameterError, TryAgainError, DataError."""
        check_access(self.store.backend)
        if left := list(self._listed()):
            problem = f"{len(left)} objects lie in the new store already, e.g. {left[0]}"
            raise DataError(problem, source=self.store.uri, remedy="give another --store")

    def _listed(self) -> dict[str, tuple[str, float]]:
        return {item.path: (item.stamp, item.modified) for item in self.store.backend.walk()}

    def _run(self, submit: Callable[[], str], disturbance: Disturbance | None = None) -> Done:
        """Submit a run and wait for its end. Raises DataError: it did not succeed; TryAgainError: nor end in time."""
        before, started = self._listed(), time.monotonic()
        run_id = submit()
        log.info("%s", self.kubeflow.page(run_id))

        def wait(seconds: float) -> None:
            if disturbance is not None:
                disturbance.attempt(run_id)
            if time.monotonic() - started > self.smoke.limit:
                remedy = f"look at its pods: {self.kubeflow.page(run_id)}; or a larger --limit"
                raise TryAgainError(f"run {run_id} goes on after {self.smoke.limit:.0f} s", source="KFP", remedy=remedy)
            self.smoke.wait(seconds)

        status = run_status.watch(self.kubeflow, run_id, self.smoke.every, wait)
        if status.state != "SUCCEEDED":
            why = "\n".join([f"run {run_id}: {status.state}", *run_failure.reasons(self.kubeflow, status)])
            raise DataError(why, source="KFP", remedy=f"see {self.kubeflow.page(run_id)}")
        self._hold(True, f"run {run_id}, {time.monotonic() - started:.0f} s")
        if disturbance is not None:
            self._hold(bool(disturbance.deleted), disturbance.deleted or "no running pod of a step was seen")
        return self._what_was_done(status, before)

    def _what_was_done(self, status: run_status.RunStatus, before: dict[str, tuple[str, float]]) -> Done:
        """Return what was written to the store since `before`."""
        published, computed = set[str](), Counter[str]()
        for path, stamp in self._listed().items():
            folder = path.partition("/")[0]
            if before.get(path) == stamp or folder in _NOT_COMPUTED:
                continue
            if match := MANIFEST.fullmatch(path):
                published.add(_task_of(json.loads(self.store.manifest_bytes(match[1]) or b"{}"), self.tasks))
            elif not PART.fullmatch(path):  # written again with their manifest
                computed[folder] += 1
        return Done(status, published, computed)

    def _unchanged(self, done: Done, wanted: set[str]) -> None:
        """Check that a run computed nothing, and that `wanted` were executed and no other."""
        written = ", ".join(f"{folder}: {count}" for folder, count in sorted(done.computed.items()))
        self._hold(not done.computed, f"objects written: {written or 'none but of plan'}")
        self._hold(*_compared(done.published, wanted & self.publishing, "published again"))
        executed = {item.task for item in done.status.tasks if item.cached < item.begun}
        holds, seen = _compared(executed, wanted, "executed")
        listed = f"{len(done.status.tasks)} of {done.status.total} tasks listed"
        if done.status.stale:  # what it does list may still show too much
            more = executed - wanted
            self._hold(False if more else None, f"{seen}: {listed}" if more else f"KFP's list stopped early: {listed}")
        else:
            self._hold(holds, f"{seen}; {listed}")

    def _report(self, run_id: str) -> None:
        """Fetch a run's report and check that it is a page, and that all its digests are of what the store holds."""
        page, manifests = run_report.fetch(self.kubeflow, run_id, self.folder)
        data, digests = page.read_bytes(), json.loads(manifests.read_bytes())
        self._hold(data.lstrip()[:14].lower() == b"<!doctype html", f"{page}, {len(data)} bytes")
        report = self.store.manifest(digests["report"], Report)
        named = {name: digests.get(name) for name in ("priors", "model")}
        for name in ("untouched", "tuned"):
            named |= {f"{name} {protocol}": digest for protocol, digest in (digests.get(name) or {"?": None}).items()}
        wrong = [name for name, digest in named.items() if not digest or self.store.manifest_bytes(digest) is None]
        wrong += [] if sha256(data) == report.page.sha256 else ["the page"]
        self._hold(not wrong, f"not in the store: {', '.join(wrong)}" if wrong else f"sha256:{digests['report']}")


def _compared(seen: set[str], wanted: set[str], what: str) -> tuple[bool, str]:
    """Return whether two sets of tasks are equal, and a sentence about it."""
    parts = {"too much": seen - wanted, "too little": wanted - seen}
    wrong = "; ".join(f"{name}: {', '.join(sorted(tasks))}" for name, tasks in parts.items() if tasks)
    return not wrong, f"{what}: {wrong or ', '.join(sorted(seen)) or 'none'}"


def _publishes(spec: client.Spec, task: str) -> bool:
    """Whether a task has a manifest among its outputs."""
    outputs = spec["components"].get(f"comp-{task}", {}).get("outputDefinitions", {}).get("artifacts", {})
    return any(item["artifactType"]["schemaTitle"].startswith("system.MotionEnhancer") for item in outputs.values())


def _task_of(manifest: dict[str, Any], tasks: Tasks) -> str:
    """Return the task that wrote a manifest: of those that led to it the one that no other of them follows."""
    names = {name.replace("_", "-") for name in manifest.get("provenance", {})}
    last = [name for name in names if followers(tasks, {name}) & names == {name}]
    return last[0] if len(last) == 1 else str(manifest.get("kind", "a manifest"))
