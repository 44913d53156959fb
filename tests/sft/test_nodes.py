"""The launcher of a TrainJob against an API server: what it asks for, how it waits, what each refusal means."""

from pathlib import Path

import pytest

from components.core.errors import ParameterError, TryAgainError
from components.sft import nodes
from components.sft.nodes import named, train_on_nodes
from tests.sft.trainer import Cluster, serving

PATH = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team-video/trainjobs"
MANIFEST = {
    "metadata": {},
    "spec": {"activeDeadlineSeconds": 3600, "trainer": {"numNodes": 2, "args": ["-m", "components.sft.loop"]}},
}
COMPLETE = {"type": "Complete", "reason": "JobsCompleted", "message": ""}
JOB = Path("/scratch/sft-1/job.json")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(nodes, "POLL_S", 0.01)
    monkeypatch.setattr(nodes, "PATIENCE", 3)


@pytest.fixture
def launch(tmp_path):
    def run(cluster, deadline=3600):
        manifest = {**MANIFEST, "spec": {**MANIFEST["spec"], "activeDeadlineSeconds": deadline}}
        with serving(cluster, tmp_path) as jobs:
            return train_on_nodes(manifest, JOB, "sft-1", jobs)

    return run


def test_removes_an_earlier_try_creates_waits_and_removes(launch):
    cluster = Cluster(COMPLETE)
    cluster.jobs["sft-1"] = {"status": {"conditions": [{"type": "Failed", "status": "True"}]}}
    assert launch(cluster) == 0
    deleted, created, read = ("DELETE", f"{PATH}/sft-1"), ("POST", PATH), ("GET", f"{PATH}/sft-1")
    assert [cluster.requests[k] for k in (0, 1, 2, 3, -1)] == [deleted, read, created, read, deleted]
    assert not cluster.jobs


def test_a_failed_one_stays_for_its_logs(launch):
    cluster = Cluster({"type": "Failed", "reason": "JobFailed", "message": "node"})
    assert launch(cluster) == 1
    assert list(cluster.jobs) == ["sft-1"]


def test_time_that_is_up_is_worth_another_try_and_holds_no_nodes(launch):
    """Before the launcher's own deadline: nobody would remove the TrainJob after it."""
    cluster = Cluster({"type": "Suspended"})
    with pytest.raises(TryAgainError, match=r"suspended.*\n.*--timeout"):
        launch(cluster, deadline=0.1)
    assert not cluster.jobs


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, "token"), (403, "role"), (404, "install Kubeflow Trainer"), (422, "docs/cluster.md")],
    ids=str,
)
def test_a_refusal_says_what_to_do(launch, status, remedy):
    with pytest.raises(ParameterError, match=remedy):
        launch(Cluster(COMPLETE, faults=[0, status]))


def test_an_api_server_that_is_away_for_a_while_costs_nothing(launch):
    cluster = Cluster(COMPLETE, faults=[0, 0, 503, 500])
    assert launch(cluster) == 0
    assert len(cluster.requests) >= 6


def test_one_that_stays_away_ends_it_and_holds_no_nodes(launch):
    cluster = Cluster({"type": "Suspended"}, faults=[0, 0, 503, 503, 503])
    with pytest.raises(TryAgainError, match="503"):
        launch(cluster)
    assert not cluster.jobs


def test_nobody_listens(tmp_path):
    with serving(Cluster(), tmp_path) as jobs:
        pass
    with pytest.raises(TryAgainError, match="no Kubernetes API"):
        jobs.remove("sft-1")


def test_outside_of_a_pod(monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ParameterError, match="compiled for several nodes"):
        train_on_nodes(MANIFEST, JOB, "sft-1")


def test_it_belongs_to_the_launchers_pod(monkeypatch):
    monkeypatch.setenv("POD_NAME", "run-sft-1")
    monkeypatch.setenv("POD_UID", "6c84fb90")
    made = named(MANIFEST, "sft-1", JOB)
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "run-sft-1", "uid": "6c84fb90"}
    assert made["metadata"] == {"name": "sft-1", "ownerReferences": [owner]}
    assert made["spec"]["trainer"]["args"] == ["-m", "components.sft.loop", str(JOB)]
    assert MANIFEST["metadata"] == {}
