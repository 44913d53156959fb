"""A KFP whose runs are over at once: it answers with recorded lists of tasks, and does to the store what runs do."""

import copy
import gzip
import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from components.core.artifacts import Report
from components.core.records import StepRecord, canonical_json, sha256
from components.kubeflow.run_status import leaf_tasks
from components.kubeflow.task_graph import followers, task_graph
from components.store.entries import Store, WorkFolder
from components.store.failures import TaskFailure, write_failure
from tests.kubeflow.kubeflow_server import Kfp, as_json

RECORDED = {
    file.name.split(".")[0]: json.loads(gzip.decompress(file.read_bytes()))
    for file in Path(__file__).with_name("recorded").glob("*.json.gz")
}
LATER = {"leakage-check": "prior-set"}
PAGE = b"<!doctype html>\n<title>the report of a run</title>"


@dataclass
class Act:
    """What one run does: whose list of tasks KFP shows (and until when), the tasks executed, the steps that compute."""

    shows: str
    until: str = "9999"
    executes: set[str] = field(default_factory=set)
    computes: set[str] = field(default_factory=set)
    page: bytes = PAGE
    failure: dict = field(default_factory=dict)


class ExecutingKfp(Kfp):
    """Every submitted run is the next act; `after` is called with the store once a run has written to it."""

    def __init__(self, *acts):
        super().__init__()
        self.acts, self.after = list(acts), lambda number, store: None

    def api(self, method, path, query, body):
        if path != "/runs" or method != "POST":
            return super().api(method, path, query, body)
        number, act = len(self.runs), self.acts[len(self.runs)]
        run_id, recorded = str(uuid.uuid4()), RECORDED[act.shows]
        shown = {key: copy.deepcopy(recorded[key]) for key in ("run_details", "state", "state_history", "created_at")}
        nodes = [node for node in with_later_tasks(shown["run_details"]["task_details"]) if is_shown(node, act)]
        self.runs[run_id] = {**body, **shown, "run_id": run_id, "run_details": {"task_details": nodes}}
        version = body["pipeline_version_reference"]["pipeline_version_id"]
        (spec,) = (item["pipeline_spec"] for item in self.versions if item["pipeline_version_id"] == version)
        store = Store(body["runtime_config"]["parameters"]["store"])
        self.execute(act, run_id, spec["pipeline_spec"], store)
        self.after(number, store)
        return as_json(self.runs[run_id])

    def execute(self, act, run_id, spec, store):
        """Write what the executed tasks publish, and the entries that steps compute."""
        store.backend.put(f"plan/{'a' * 32}/entry.json", run_id.encode())  # plan is executed by every run
        for step in act.computes:
            work = WorkFolder(store, step, "1", sha256(step.encode())[:32])
            work.put("file", "bin", run_id.encode())
            work.finish("unit", {}, {})
        tasks, digests = task_graph(spec), {}
        for task in sorted(leaf_tasks(spec) - {"plan", "report"}):
            manifest = canonical_json({"kind": task, "provenance": {key: {} for key in above(tasks, task)}})
            digests[task] = sha256(manifest)
            if task in act.executes:
                store.backend.put(f"manifests/{digests[task]}.json", manifest)
        if "report" in act.executes:
            self.report(act, store, digests, above(tasks, "report"))
        if act.failure:
            write_failure(store, TaskFailure(run=run_id, time="2026-11-29T18:02:24+00:00", **act.failure))

    def report(self, act, store, digests, provenance):
        work = WorkFolder(store, "report", "1", "e" * 32)
        reads = {"priors": digests["prior-set"], "model": digests["sft"]}
        for name, task in {"untouched": "baseline-eval", "tuned": "tuned-eval"}.items():
            reads[name] = {"motionbench": digests[task]}
        if "report" in act.computes:
            work.put("page", "html", act.page)
            entry = work.finish("report", reads, {})
        else:
            entry = store.entry("report", "e" * 32)
        records = dict.fromkeys(provenance, StepRecord(version="1", params={}, scalars={}))
        store.publish(Report(kind="Report", provenance=records, page=entry.ref("page", "report")))


def is_shown(node, act):
    return node.get("start_time", "") < act.until


def with_later_tasks(nodes):
    """The list with the tasks that pipelines got after the runs were recorded, at the time of one beside them."""
    return nodes + [
        {**node, "display_name": node["display_name"].replace(beside, task)}
        for task, beside in LATER.items()
        for node in nodes
        if node.get("display_name", "").startswith(beside)
    ]


def above(tasks, task):
    """The task and all that led to it, as a manifest names them; `plan` publishes none."""
    return sorted(name.replace("-", "_") for name in tasks if name != "plan" and task in followers(tasks, {name}))
