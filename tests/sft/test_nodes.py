"""The launcher of a TrainJob against an API server: what it asks for, how it waits, what each refusal means.

The official client speaks to the server by TLS, with the files of a service account.
"""

import datetime
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.core.errors import ParameterError, TryAgainError
from components.kubeflow.tree import ROOT
from components.sft import nodes
from components.sft.nodes import LAUNCH, NoAnswer, named, train_on_nodes
from tests.sft.trainer import Cluster, service_account, serving

PATH = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team-video/trainjobs"
MANIFEST = {
    "metadata": {},
    "spec": {"activeDeadlineSeconds": 3600, "trainer": {"numNodes": 2, "args": ["-m", "components.sft.loop"]}},
}
COMPLETE = {"type": "Complete", "reason": "JobsCompleted", "message": ""}
SUSPENDED = {"type": "Suspended"}
JOB = Path("/scratch/sft-1/job.json")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(nodes, "POLL_S", 0.01)
    monkeypatch.setattr(nodes, "PATIENCE", 3)


@pytest.fixture
def launch(tmp_path, monkeypatch):
    def run(cluster, deadline=3600):
        manifest = {**MANIFEST, "spec": {**MANIFEST["spec"], "activeDeadlineSeconds": deadline}}
        with serving(cluster, tmp_path, monkeypatch):
            return train_on_nodes(manifest, JOB, "sft-1")

    return run


class Eventful(Cluster):
    """A cluster in which something happens once, before or after it answers a request about a running TrainJob."""

    def __init__(self, create, method, *, before=None, after=None):
        super().__init__(create)
        self.method, self.before, self.after = method, before, after

    def answer(self, method, path, body, token):
        wanted = method == self.method and (self.jobs or method == "POST")
        if wanted and self.before:
            happens, self.before = self.before, None
            happens(self)
        answered = super().answer(method, path, body, token)
        if wanted and self.after:
            happens, self.after = self.after, None
            happens(self)
        return answered


def test_removes_an_earlier_try_creates_waits_and_removes(launch):
    cluster = Cluster(COMPLETE)
    cluster.put("sft-1")
    assert launch(cluster) == 0
    deleted, created, read = ("DELETE", f"{PATH}/sft-1"), ("POST", PATH), ("GET", f"{PATH}/sft-1")
    assert [cluster.requests[k] for k in (0, 1, 2, 3, -1)] == [deleted, read, created, read, deleted]
    assert not cluster.jobs


def test_an_earlier_try_that_does_not_go_away(launch, monkeypatch):
    cluster = Cluster(COMPLETE)
    cluster.put("sft-1")
    monkeypatch.setattr(cluster, "jobs", type("Held", (dict,), {"pop": dict.__getitem__})(cluster.jobs))
    with pytest.raises(TryAgainError, match="does not go away"):
        launch(cluster, deadline=0.1)
    assert ("POST", PATH) not in cluster.requests


def test_a_failed_one_stays_for_its_logs(launch):
    cluster = Cluster({"type": "Failed", "reason": "JobFailed", "message": "node"})
    assert launch(cluster) == 1
    assert list(cluster.jobs) == ["sft-1"]


def test_time_that_is_up_is_worth_another_try_and_holds_no_nodes(launch):
    """Before the launcher's own deadline: nobody would remove the TrainJob after it."""
    cluster = Cluster(SUSPENDED)
    with pytest.raises(TryAgainError, match=r"suspended.*\n.*--timeout"):
        launch(cluster, deadline=0.1)
    assert not cluster.jobs


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "token"),
        (403, "role"),
        (404, "install Kubeflow Trainer"),
        (409, "another run trains the same"),
        (422, "docs/cluster.md"),
    ],
    ids=str,
)
def test_a_refusal_says_what_to_do(launch, status, remedy):
    with pytest.raises(ParameterError, match=rf"create a TrainJob: {status} made to fail(.|\n)*{remedy}"):
        launch(Cluster(COMPLETE, faults=[0, status]))


def test_an_api_server_that_is_away_for_a_while_costs_nothing(launch):
    cluster = Cluster(COMPLETE, faults=[0, 0, 503, 429])
    assert launch(cluster) == 0
    assert len(cluster.requests) >= 6


def test_one_that_stays_away_ends_it_and_holds_no_nodes(launch):
    cluster = Cluster(SUSPENDED, faults=[0, 0, 503, 503, 503])
    with pytest.raises(NoAnswer, match="503"):
        launch(cluster)
    assert not cluster.jobs


def test_what_ends_it_is_raised_where_the_removal_fails_too(launch, caplog):
    cluster = Cluster(SUSPENDED, faults=[0, 0, 503, 503, 500, 403])
    with pytest.raises(NoAnswer, match="500"):
        launch(cluster)
    assert "may hold its nodes: cannot get a TrainJob: 403" in caplog.text


def test_nobody_listens(tmp_path, monkeypatch):
    with serving(Cluster(), tmp_path, monkeypatch):
        pass
    with pytest.raises(NoAnswer, match="no Kubernetes API"):
        train_on_nodes(MANIFEST, JOB, "sft-1")


def test_a_server_of_another_authority_sees_no_token(tmp_path, monkeypatch):
    cluster, other = Cluster(COMPLETE), tmp_path / "other"
    other.mkdir()
    with serving(cluster, tmp_path, monkeypatch) as account:
        (account / "ca.crt").write_bytes((service_account(other, "") / "ca.crt").read_bytes())
        with pytest.raises(NoAnswer, match="CERTIFICATE_VERIFY_FAILED"):
            train_on_nodes(MANIFEST, JOB, "sft-1")
    assert cluster.requests == []


def test_a_renewed_token_is_read(tmp_path, monkeypatch):
    """The client reads the file again after a minute; its minutes are of no length here."""

    def renew(cluster):
        cluster.token = "renewed"
        (tmp_path / "serviceaccount/token").write_text(cluster.token)

    clock = SimpleNamespace(datetime=datetime.datetime, timedelta=lambda **_: datetime.timedelta())
    monkeypatch.setattr("kubernetes.config.incluster_config.datetime", clock)
    cluster = Eventful(COMPLETE, "POST", after=renew)
    with serving(cluster, tmp_path, monkeypatch):
        assert train_on_nodes(MANIFEST, JOB, "sft-1") == 0


@pytest.mark.parametrize("ends", [TryAgainError("told to stop", source="a signal", remedy="run again"), SystemExit(75)])
@pytest.mark.parametrize("when", ["POST", "GET", "between"])
def test_a_signal_that_raises_passes_through_and_holds_no_nodes(launch, monkeypatch, when, ends):
    """While it creates, while it asks, and while it sleeps between two polls, which then would last 20 s."""

    def handler(*_):
        raise ends

    def stop(_):
        if when == "between":
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        else:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)  # the request is under way

    if when == "between":
        monkeypatch.setattr(nodes, "POLL_S", 20.0)
    cluster = Eventful(SUSPENDED, "GET" if when == "between" else when, after=stop)
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(type(ends)) as caught:
            launch(cluster, deadline=20)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value is ends
    assert ("POST", PATH) in cluster.requests
    assert not cluster.jobs


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_later_launch_that_took_its_name_stays(launch, method):
    """Seen while it waits, and between its last look and its removal."""
    cluster = Eventful(COMPLETE, method, before=lambda cluster: cluster.put("sft-1"))
    if method == "DELETE":
        assert launch(cluster) == 0
    else:
        with pytest.raises(ParameterError, match="the TrainJob is gone"):
            launch(cluster, deadline=2)
    assert list(cluster.jobs) == ["sft-1"]


def test_one_that_somebody_deleted(launch):
    with pytest.raises(ParameterError, match="deleted or replaced"):
        launch(Eventful(COMPLETE, "GET", before=lambda cluster: cluster.jobs.clear()))


def test_outside_of_a_pod(monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ParameterError, match="compiled for several nodes"):
        train_on_nodes(MANIFEST, JOB, "sft-1")


def test_it_belongs_to_the_launchers_pod(monkeypatch):
    monkeypatch.setenv("POD_NAME", "run-sft-1")
    monkeypatch.setenv("POD_UID", "6c84fb90")
    made = named(MANIFEST, "sft-1", JOB)
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "run-sft-1", "uid": "6c84fb90"}
    assert len(made["metadata"].pop("annotations")[LAUNCH]) == 32
    assert made["metadata"] == {"name": "sft-1", "ownerReferences": [owner]}
    assert made["spec"]["trainer"]["args"] == ["-m", "components.sft.loop", str(JOB)]
    assert MANIFEST["metadata"] == {}


def test_a_training_on_one_node_imports_no_client():
    code = "import sys, components.sft.nodes, components.sft.step; print('kubernetes' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "False"
