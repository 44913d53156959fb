"""`submit --check` through the real kubernetes client against a server that answers as a cluster does."""

import json

import pytest
import yaml

from components.kubeflow.client import read_package
from components.kubeflow.cluster_check import SINCE, needs
from components.kubeflow.scheduling import A100, REQUIRED_KEYS
from components.store.settings import KEYS as STORE_KEYS
from tests.command import motion_enhancer
from tests.s3_server import KEYS, closed_port, s3_server

VALUES = dict.fromkeys(STORE_KEYS, "canary-77aa")
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


def check(packages, profile="a100", *more):
    return motion_enhancer("submit", packages[profile], "--check", "--namespace", "team-a", *more)


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
    assert found.secrets == {"motion-enhancer-store": set(REQUIRED_KEYS)} == {"motion-enhancer-store": {"endpoint"}}
    assert found.claims == {"motion-enhancer-models"}
    assert found.fields == {"securityContext": "2.16"}
    assert needs(read_package(packages["cpu"])).gpus == {}
    assert needs([{}]).claims == set()


# fields of a pod in KFP 2.15.0's kubernetes_executor_config.proto
KNOWN = (
    "secretAsVolume secretAsEnv pvcMount nodeSelector podMetadata imagePullSecret imagePullPolicy configMapAsVolume "
)
KNOWN += (
    "configMapAsEnv activeDeadlineSeconds fieldPathAsEnv tolerations genericEphemeralVolume nodeAffinity podAffinity "
)
KNOWN += "enabledSharedMemory emptyDirMounts"


@pytest.mark.parametrize("profile", ["a100", "cpu", "nodes"])
def test_every_field_of_a_pod_has_a_version(packages, profile):
    """A field of a newer KFP that `compile` begins to write has to be told to `submit --check`."""
    (_, platform) = read_package(packages[profile])
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    newer = {path[3] for path in SINCE if path[:2] == ("deploymentSpec", "executors")}
    assert {field for pod in pods for field in pod} <= {*KNOWN.split(), *newer}
    mounts = {field for pod in pods for mount in pod.get("pvcMount", []) for field in mount}
    assert mounts <= {"constant", "mountPath", "pvcNameParameter", "subPath"}
    assert needs(read_package(packages[profile])).fields["securityContext"] == "2.16"


def test_everything_is_there(complete, kubeflow, packages, capsys):
    assert check(packages, "a100", "--host", kubeflow.url) == 0
    printed = capsys.readouterr()
    assert states(printed.out) == ["ok"] * 5 + ["?"]  # no S3_ENDPOINT: nothing is tried
    assert "KFP 2.16 or newer, for securityContext" in printed.out
    assert "2.17.0 at" in printed.out
    assert "v1.35.0" in printed.out
    assert "motion-enhancer plan" in printed.out
    assert "canary" not in printed.out + printed.err
    assert {path.split("?")[0] for _, path, _, _ in complete.requests} == {
        "/version/",
        "/api/v1/nodes",
        "/api/v1/namespaces/team-a/secrets/motion-enhancer-store",
        "/api/v1/namespaces/team-a/persistentvolumeclaims/motion-enhancer-models",
    }
    assert {method for method, _, _, _ in complete.requests + kubeflow.requests} == {"GET"}


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
    assert [state == "missing" for state in states(printed.out)] == [number == place for number in range(-2, 4)]
    assert said in printed.out
    assert said in printed.err
    assert "canary" not in printed.out + printed.err


def test_what_may_not_be_looked_at_is_no_verdict(complete, packages, capsys):
    """A user of one namespace may not list nodes; the profile cpu asks for none."""
    complete.answer.denied = {"nodes"}
    assert check(packages) == check(packages, "cpu") == 0
    assert states(capsys.readouterr().out)[:5] == ["?", "ok", "?", "ok", "ok"]  # KFP is not named, either


def test_the_store_is_tried_from_here(kubeflow, packages, capsys, monkeypatch):
    given = ("--host", kubeflow.url, "--set", "store=minio://bucket/store")
    with s3_server("bucket") as client:
        assert check(packages, "a100", *given) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "store:" in line]
        assert line.startswith("ok")
        assert "minio://bucket/store" in line
        assert "region: us-east-1" in line
        assert KEYS["S3_SECRET_KEY"] not in line
        assert not list(client.list_objects("bucket", recursive=True))
        assert check(packages, "a100", *given, "--set", "store=minio://absent/store") == 2
        assert "minio://absent/store" in capsys.readouterr().err
    for name, value in {**KEYS, "S3_ENDPOINT": f"http://127.0.0.1:{closed_port()}"}.items():
        monkeypatch.setenv(name, value)
    assert check(packages, "a100", *given) == 0  # the cluster may reach it under another name
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if "store:" in line] == ["?"]


def test_nothing_is_submitted(complete, packages, kubeflow):
    assert motion_enhancer("submit", packages["a100"], "--check", "--namespace", "team-a", "--host", kubeflow.url) == 0
    assert {method for method, _, _, _ in kubeflow.requests} == {"GET"}


@pytest.mark.parametrize(
    ("tag", "deadline", "code", "said"),
    [
        ("2.15.2", False, 2, "it refuses the run (securityContext is unknown to it): upgrade KFP"),
        ("2.5.0", False, 2, "KFP 2.16 or newer"),
        ("2.16.0", False, 0, "2.16.0 at"),
        ("2.16.1", True, 2, "activeDeadlineSeconds is unknown to it"),
        ("2.17.0-rc.1", True, 0, "KFP 2.17 or newer, for activeDeadlineSeconds"),
        ("3.0.0", True, 0, "3.0.0 at"),
        ("unknown", False, 0, "a build of its own"),
        ("", False, 0, "no version at"),
    ],
)
def test_kfps_version_is_compared_with_what_the_file_needs(kubeflow, packages, capsys, tag, deadline, code, said):
    kubeflow.answer.tag = tag
    spec, platform = read_package(packages["a100"])
    if deadline:
        platform["platforms"]["kubernetes"]["pipelineConfig"] = {"activeDeadlineSeconds": 86400}
    file = packages["a100"].with_name("deadline.yaml")
    file.write_text(yaml.safe_dump_all([spec, platform]))
    assert check({"a100": file}, "a100", "--host", kubeflow.url) == code
    printed = capsys.readouterr().out
    assert said in printed
    assert states(printed)[0] == ("missing" if code else "ok" if tag[:1].isdigit() else "?")


def test_the_version_that_kfps_ui_passes_on(complete, kubeflow, packages, capsys):
    """Its server answers for the API's, under names of its own."""
    health = {"apiServerReady": True, "apiServerTagName": "2.15.0", "frontendTagName": "2.17.0", "multi_user": False}
    kubeflow.broken = (200, "application/json", json.dumps(health).encode())
    assert check(packages, "a100", "--host", kubeflow.url) == 2
    assert "2.15.0 at" in capsys.readouterr().out


def test_a_pull_secret_is_a_login(complete, packages, capsys, tmp_path):
    spec, platform = read_package(packages["a100"])
    for pod in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        pod["imagePullSecret"] = [{"secretName": "login"}]
    file = tmp_path / "login.yaml"
    file.write_text(yaml.safe_dump_all([spec, platform]))
    assert check({"a100": file}) == 2
    assert "kubectl create secret docker-registry login -n team-a" in capsys.readouterr().out
    complete.answer.secret("team-a", "login", {".dockerconfigjson": "canary-77aa"})
    assert check({"a100": file}) == 0
    assert "canary" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "state"),
    [("v1.29.0", "ok"), ("v1.31.7-gke.1265000", "ok"), ("v1.28.15", "missing"), ("v1.9.0", "missing"), ("", "?")],
)
def test_kubernetes_version(complete, packages, capsys, version, state):
    complete.answer.version = version
    assert check(packages) == (2 if state == "missing" else 0)
    assert states(capsys.readouterr().out)[1] == state


def test_kfp_answers_and_no_kubeconfig_is_there(kubeflow, packages, capsys):
    assert check(packages, "a100", "--host", kubeflow.url) == 0
    printed = capsys.readouterr().out
    assert states(printed)[:2] == ["ok", "?"]
    assert "not looked at: no kubeconfig; set KUBECONFIG" in printed
    kubeflow.answer.tag = "2.14.3"
    assert check(packages, "a100", "--host", kubeflow.url) == 2


def test_a_kubeconfig_is_there_and_no_kfp_answers(complete, packages, capsys):
    assert check(packages) == 0
    printed = capsys.readouterr().out
    assert states(printed)[:5] == ["?", "ok", "ok", "ok", "ok"]
    assert "name it with --host" in printed


def test_a_host_that_is_named_must_answer(complete, packages, capsys):
    """It is no guess, so silence is an error and not a question mark."""
    assert check(packages, "a100", "--host", "http://127.0.0.1:9") == 75
    assert "cannot reach KFP" in capsys.readouterr().err


def test_no_cluster(alone, packages, capsys):
    assert check(packages) == 2
    said = capsys.readouterr().err
    assert "KUBECONFIG" in said
    assert "--host" in said


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
