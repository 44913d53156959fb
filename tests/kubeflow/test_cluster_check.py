"""`submit --check` through the real kubernetes client against a server that answers as a cluster does."""

import json

import pytest

from components.kubeflow.client import read_package
from components.kubeflow.cluster_check import needs
from components.kubeflow.scheduling import A100, OPTIONAL_KEYS, SECRET_KEYS
from tests.command import motion_enhancer

VALUES = dict.fromkeys({**SECRET_KEYS, **OPTIONAL_KEYS}, "canary-77aa")
SECRET, CLAIM = ("team-a", "secrets", "motion-enhancer-store"), "motion-enhancer-models"
SMALLER = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"}


@pytest.fixture
def complete(cluster):
    """A cluster that has everything."""
    cluster.answer.node(A100, 8)
    cluster.answer.node({"kubernetes.io/os": "linux"}, 0)
    cluster.answer.secret("team-a", "motion-enhancer-store", VALUES)
    cluster.answer.claim("team-a", "motion-enhancer-models")
    return cluster


def check(packages, profile="a100"):
    return motion_enhancer("submit", packages[profile], "--check", "--namespace", "team-a")


def disk(state, size):
    """Another node has a larger disk and too few GPUs."""
    state.nodes[0]["status"]["allocatable"]["ephemeral-storage"] = size
    state.node(A100, 4)


def states(printed):
    """First words of the table's lines."""
    return [line.split()[0] for line in printed.splitlines()[:-1]]


def test_what_a_pipeline_needs_is_read_from_the_compiled_file(packages):
    found = needs(read_package(packages["a100"]))
    assert found.gpus == {(tuple(A100.items()), "nvidia.com/gpu"): 8}  # those of sft, the largest
    assert found.disks == {(tuple(A100.items()), "nvidia.com/gpu"): 200 * 2**30}
    assert found.secrets == {"motion-enhancer-store": set(SECRET_KEYS)}
    assert found.claims == {"motion-enhancer-models"}
    assert needs(read_package(packages["cpu"])).gpus == {}
    assert needs([{}]).claims == set()


def test_everything_is_there(complete, packages, capsys):
    assert check(packages) == 0
    printed = capsys.readouterr()
    assert states(printed.out) == ["ok", "ok", "ok"]
    assert "motion-enhancer plan" in printed.out
    assert "canary" not in printed.out + printed.err
    assert {path.split("?")[0] for _, path, _, _ in complete.requests} == {
        "/api/v1/nodes",
        "/api/v1/namespaces/team-a/secrets/motion-enhancer-store",
        "/api/v1/namespaces/team-a/persistentvolumeclaims/motion-enhancer-models",
    }
    assert {method for method, _, _, _ in complete.requests} == {"GET"}


@pytest.mark.parametrize(
    ("break_it", "place", "said"),
    [
        (lambda state: state.nodes[0]["status"]["allocatable"].update({"nvidia.com/gpu": "4"}), 0, "offers 4"),
        (lambda state: disk(state, "100Gi"), 0, "largest local disk offers 107 GB, fine-tuning asks for 215 GB"),
        (lambda state: state.nodes[0]["spec"].update(unschedulable=True), 0, "--node-selector"),
        (lambda state: state.nodes[0]["metadata"].update(labels=SMALLER), 0, "--node-selector"),
        (lambda state: state.items.pop(SECRET), 1, "kubectl create secret generic motion-enhancer-store -n team-a"),
        (lambda state: state.items[SECRET]["data"].pop("endpoint"), 1, "no endpoint"),
        (lambda state: state.items.pop(("team-a", "persistentvolumeclaims", CLAIM)), 2, "team-a"),
        (lambda state: state.claim("team-a", CLAIM, "Lost"), 2, "lost"),
    ],
    ids=["few GPUs", "small disk", "closed", "other label", "no secret", "no key", "no claim", "lost claim"],
)
def test_what_is_missing_is_named_with_its_remedy(complete, packages, capsys, break_it, place, said):
    break_it(complete.answer)
    assert check(packages) == 2
    printed = capsys.readouterr()
    assert [state == "missing" for state in states(printed.out)] == [number == place for number in range(3)]
    assert said in printed.out
    assert said in printed.err
    assert "canary" not in printed.out + printed.err


def test_what_may_not_be_looked_at_is_no_verdict(complete, packages, capsys):
    """A user of one namespace may not list nodes; the profile cpu asks for none."""
    complete.answer.denied = {"nodes"}
    assert check(packages) == check(packages, "cpu") == 0
    assert states(capsys.readouterr().out)[:3] == ["?", "ok", "ok"]


def test_nothing_is_submitted(complete, packages, kubeflow):
    assert motion_enhancer("submit", packages["a100"], "--check", "--namespace", "team-a", "--host", kubeflow.url) == 0
    assert not kubeflow.requests


def test_no_cluster(alone, packages, capsys):
    assert check(packages) == 2
    assert "KUBECONFIG" in capsys.readouterr().err


def test_an_unreachable_cluster_is_75(cluster, packages, capsys):
    cluster.shutdown()
    cluster.server_close()
    assert check(packages) == 75
    assert "cannot reach the cluster" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "code"), [(401, 2), (500, 75)])
def test_refusals(cluster, packages, capsys, status, code):
    cluster.broken = (status, "application/json", json.dumps({"kind": "Status", "message": "canary"}).encode())
    assert check(packages) == code
    error = capsys.readouterr().err
    assert cluster.url in error
    assert "kube-token" not in error
