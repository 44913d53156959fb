"""A KFP of this machine that executes what is submitted to it, under kfp.local with tasks as processes.

Beside a run's state it shows a list of tasks as KFP 2.17 does: a node per iteration, and its `executor`, SKIPPED in the
same moment where the cache had the result. `python -m tests.infrastructure.executing_kfp PACKAGE ARGUMENTS FOLDER` is
one run: kfp.local takes one per process.
"""

import json
import sys
import threading
import uuid
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import yaml

from components.kubeflow.local import ProcessEngine, run_compiled
from tests.command import python
from tests.kubeflow.kubeflow_server import Kfp, as_json


class LocalKfp(Kfp):
    """`before` is called with a run's number as it is submitted."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.counts, self.before, self.said = folder, {}, lambda number: None, []

    def api(self, method, path, query, body):
        if path != "/runs" or method != "POST":
            return super().api(method, path, query, body)
        self.before(len(self.runs))
        run_id = str(uuid.uuid4())
        self.runs[run_id] = {**body, "run_id": run_id, "state": "RUNNING"}
        threading.Thread(target=self.execute, args=(self.runs[run_id],), daemon=True).start()
        return as_json(self.runs[run_id])

    def execute(self, run):
        version = run["pipeline_version_reference"]["pipeline_version_id"]
        (spec,) = (item["pipeline_spec"] for item in self.versions if item["pipeline_version_id"] == version)
        package, arguments = self.folder / "pipeline.yaml", self.folder / "arguments.json"
        package.write_text(yaml.safe_dump_all([spec["pipeline_spec"], spec["platform_spec"]]))
        arguments.write_text(json.dumps(run["runtime_config"]["parameters"]))
        done = python("-m", "tests.infrastructure.executing_kfp", package, arguments, self.folder, code=None)
        self.said.append(done.stderr)
        executed = [] if done.returncode else json.loads(done.stdout.splitlines()[-1])
        counts = Counter(task.replace("_", "-") for task, code in executed)
        self.counts = self.counts or dict(counts)
        run["run_details"] = {"task_details": nodes(self.counts, counts)}
        good = executed and not any(code for _, code in executed)
        run["state"] = "SUCCEEDED" if good else "FAILED"


def nodes(counts, executed):
    """KFP's list: of each task as many iterations as `counts` says, of which `executed` were."""
    moments = (datetime(2026, 11, 29) + timedelta(seconds=second) for second in range(10**6))
    found = []
    for task, count in counts.items():
        for iteration in range(count):
            start = next(moments)
            cached = iteration >= executed[task]
            end = start if cached else next(moments)
            times = {"start_time": f"{start.isoformat()}Z", "end_time": f"{end.isoformat()}Z"}
            found.append({"display_name": task, "state": "SUCCEEDED", **times})
            found.append({"display_name": "executor", "state": "SKIPPED" if cached else "SUCCEEDED", **times})
    return found


if __name__ == "__main__":
    package, arguments, folder = map(Path, sys.argv[1:])
    journal = run_compiled(package, json.loads(arguments.read_text()), folder, ProcessEngine())
    sys.__stdout__.write(f"\n{json.dumps([(run.task, run.code) for run in journal.runs])}\n")
