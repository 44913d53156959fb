"""`compile --sft-nodes`: only the sft task changes, and its TrainJob has fields that Kubeflow Trainer's v1alpha1 knows.

The field sets below are those of the TrainJob of Trainer 2.2 and 2.3 that may stand in a manifest of ours; an unknown
one fails.
"""

import json
import re
from pathlib import Path

import pytest
import yaml

from components.core.errors import ParameterError
from components.kubeflow.scheduling import A100, Profile
from components.kubeflow.trainjob import POD_LABELS, train_job
from components.sft.nodes import named
from components.store import settings
from components.store.address import open_backend
from tests.contract.specs import container as container_of
from tests.contract.specs import definition, leaves, load
from tests.kubeflow.conftest import IMAGE
from tests.s3_server import KEYS as MOTO_KEYS
from tests.s3_server import s3_server
from tests.store.mounted import mount

NODES = 4
ENV = {"name": str, "valueFrom": {"secretKeyRef": {"name": str, "key": str}}}
USER = {"runAsUser": int, "runAsGroup": int, "fsGroup": int, "runAsNonRoot": bool, "fsGroupChangePolicy": str}
OWN = {"allowPrivilegeEscalation": bool, "runAsNonRoot": bool, "capabilities": {"drop": [str]}}
EMPTY, CLAIM = {"medium": str, "sizeLimit": str}, {"claimName": str}
HELD = {"secretName": str, "optional": bool}
POD = {
    "serviceAccountName": str,
    "nodeSelector": {"*": str},
    "imagePullSecrets": [{"name": str}],
    "tolerations": [{"key": str, "operator": str, "value": str, "effect": str}],
    "securityContext": {**USER, "seccompProfile": {"type": str}},
    "volumes": [{"name": str, "emptyDir": EMPTY, "persistentVolumeClaim": CLAIM, "secret": HELD}],
    "containers": [{"name": str, "volumeMounts": [{"name": str, "mountPath": str}], "securityContext": OWN}],
}
LABELS = {"labels": {"*": str}}
REPLICATED = {"name": str, "template": {"metadata": LABELS, "spec": {"template": {"metadata": LABELS, "spec": POD}}}}
TRAINER = {
    **{"image": str, "command": [str], "args": [str], "env": [ENV], "numNodes": int, "numProcPerNode": int},
    "resourcesPerNode": {"limits": {"*": str}, "requests": {"*": str}},
}
PATCH = {"manager": str, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [REPLICATED]}}}}
SPEC = {"runtimeRef": {"name": str}, "activeDeadlineSeconds": int, "trainer": TRAINER, "runtimePatches": [PATCH]}
TRAIN_JOB = {"apiVersion": str, "kind": str, "metadata": LABELS, "spec": SPEC}
NAMED = {**TRAIN_JOB, "metadata": {"name": str, "annotations": {"*": str}, **LABELS}}


def faults(value, known, path=""):
    """Where a manifest has a field that is not known, or one of another type."""
    if isinstance(known, type):
        return [] if type(value) is known else [f"{path} is no {known.__name__}"]
    if type(value) is not type(known):
        return [f"{path} is no {type(known).__name__}"]
    if isinstance(value, list):
        return [fault for k, item in enumerate(value) for fault in faults(item, known[0], f"{path}[{k}]")]
    found = [f"{path}.{name}" for name in value if name not in known and "*" not in known]
    here = {name: known.get(name, known.get("*")) for name in value if name in known or "*" in known}
    return found + [fault for name, form in here.items() for fault in faults(value[name], form, f"{path}.{name}")]


@pytest.fixture(scope="module")
def one_node(packages):
    return load(packages["a100"])


@pytest.fixture(scope="module")
def several(packages):
    return load(packages["nodes"])


def container(documents):
    return documents[0]["deploymentSpec"]["executors"]["exec-sft"]["container"]


@pytest.fixture(scope="module")
def manifest(several):
    env = {item["name"]: item["value"] for item in container(several)["env"]}
    assert env["TMPDIR"] == "/scratch"
    return json.loads(env["SFT_TRAINJOB"])


def test_has_no_field_that_trainer_does_not_know(manifest):
    assert faults(manifest, TRAIN_JOB) == []
    broken = json.loads(json.dumps(manifest).replace("numNodes", "nodes"))
    assert faults(broken, TRAIN_JOB) == [".spec.trainer.nodes"]


def test_asks_for_whole_nodes(manifest, several):
    trainer = manifest["spec"]["trainer"]
    assert manifest["spec"]["runtimeRef"] == {"name": "torch-distributed"}
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (NODES, 8)
    assert [each["nvidia.com/gpu"] for each in trainer["resourcesPerNode"].values()] == ["8", "8"]
    assert trainer["image"] == container(several)["image"] == IMAGE


def test_its_pods_get_what_a_gpu_step_gets(manifest):
    (patch,) = manifest["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert job["name"] == pod["containers"][0]["name"] == "node"  # as in the runtime
    assert pod["nodeSelector"] == A100
    assert "imagePullSecrets" not in pod
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    claims = {item["name"]: item.get("persistentVolumeClaim", {}).get("claimName") for item in pod["volumes"]}
    own = {"models": "motion-enhancer-models", "scratch": "shared"}
    assert claims == {"dshm": None, "tmp": None, "store": None, **own}
    (tmp,) = (item["emptyDir"] for item in pod["volumes"] if item["name"] == "tmp")
    assert tmp == {"sizeLimit": "200Gi"}
    mounts = {item["name"]: item["mountPath"] for item in pod["containers"][0]["volumeMounts"]}
    assert mounts.pop("store") == "/etc/motion-enhancer/store"
    assert mounts == {"dshm": "/dev/shm", "tmp": "/tmp", "models": "/models", "scratch": "/scratch"}


def test_its_pods_open_the_store_of_the_mounted_secret(manifest, monkeypatch, tmp_path):
    """Variables and files of a pod, made of its manifest and of a secret."""
    (job,) = manifest["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    monkeypatch.setattr(settings, "FOLDER", tmp_path / settings.FOLDER.relative_to("/"))
    with s3_server("bucket") as client:
        access, key = MOTO_KEYS.values()
        held = {"endpoint": client._base_url._url.geturl(), "accesskey": access, "secretkey": key}
        secrets = {"motion-enhancer-store": held}
        for name in settings.KEYS.values():
            monkeypatch.delenv(name, raising=False)
        for item in manifest["spec"]["trainer"]["env"]:
            reference = item["valueFrom"]["secretKeyRef"]
            monkeypatch.setenv(item["name"], secrets[reference["name"]][reference["key"]])
        volumes = {item["name"]: item["secret"] for item in pod["volumes"] if "secret" in item}
        for item in pod["containers"][0]["volumeMounts"]:
            if item["name"] in volumes:
                assert volumes[item["name"]]["optional"] is True
                mount(tmp_path / item["mountPath"].lstrip("/"), secrets[volumes[item["name"]]["secretName"]])
        open_backend("minio://bucket/store", 0.05).put("x", b"1")
        assert [item.object_name for item in client.list_objects("bucket", recursive=True)] == ["store/x"]


def test_the_launcher_asks_for_no_gpu_and_sees_the_same_volumes(several):
    assert "accelerator" not in container(several)["resources"]
    pod = several[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-sft"]
    mounts = {item["constant"]: item["mountPath"] for item in pod["pvcMount"]}
    assert mounts == {"motion-enhancer-models": "/models", "shared": "/scratch"}
    fields = {item["name"]: item["fieldPath"] for item in pod["fieldPathAsEnv"]}
    account = {"POD_SERVICE_ACCOUNT": "spec.serviceAccountName"}
    assert fields == {"POD_NAME": "metadata.name", "POD_UID": "metadata.uid", **account}
    assert "nodeSelector" not in pod


WEB = {"AWS_ROLE_ARN": "arn:aws:iam::1:role/store", "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token"}
EKS = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials"}
KEYS = {"S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "s"}


@pytest.mark.parametrize(
    ("environment", "account"), [({}, None), (WEB, "runs"), (EKS, "runs"), ({**WEB, **KEYS}, None)], ids=str
)
def test_workers_of_a_launcher_with_a_role_get_its_service_account(manifest, monkeypatch, environment, account):
    for name in (*WEB, *EKS, *KEYS):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**environment, "POD_SERVICE_ACCOUNT": "runs"}.items():
        monkeypatch.setenv(name, value)
    made = named(manifest, "sft-1", Path("/scratch/job.json"))
    assert faults(made, NAMED) == []
    (patch,) = made["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert job["template"]["spec"]["template"]["spec"].get("serviceAccountName") == account
    assert "serviceAccountName" not in str(manifest)


def test_workers_of_a_launcher_whose_keys_are_mounted_need_no_service_account(manifest, monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "FOLDER", tmp_path)
    for name, value in {**WEB, "POD_SERVICE_ACCOUNT": "runs"}.items():
        monkeypatch.setenv(name, value)
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    assert "serviceAccountName" in str(named(manifest, "sft-1", Path("/scratch/job.json")))
    mount(tmp_path, {"accesskey": "a", "secretkey": "s"})
    assert "serviceAccountName" not in str(named(manifest, "sft-1", Path("/scratch/job.json")))


def test_no_other_task_changes_and_no_interface_or_command(one_node, several):
    """KFP hashes a task's interface, image, command and arguments beside the values of its inputs."""

    def parts(documents):
        spec, pods = documents[0], documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        for name, task in leaves(spec).items():
            made = dict(container_of(spec, task))
            key = definition(spec, task), task, [made.pop(part) for part in ("image", "command", "args")]
            yield name, (key, (made, pods[definition(spec, task)["executorLabel"]]))

    before, after = dict(parts(one_node)), dict(parts(several))
    assert {name: key for name, (key, _) in before.items()} == {name: key for name, (key, _) in after.items()}
    assert [name for name in before if before[name] != after[name]] == ["plan", "sft"]  # plan is told how many nodes


def test_queue_node_selector_login_and_number_of_gpus_reach_the_job():
    chosen = {"queue": "gpus", "node_selector": {"pool": "a"}, "scratch": "1Ti", "pull_secret": "login"}
    made = train_job(Profile("a100", sft_nodes=2, **chosen), "image", 4)
    assert faults(made, TRAIN_JOB) == []
    assert "'imagePullSecrets': [{'name': 'login'}]" in str(made)
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert "'nodeSelector': {'pool': 'a'}" in str(made)
    trainer = made["spec"]["trainer"]
    assert trainer["numProcPerNode"] == 4
    asked = {"cpu": "40", "memory": "400Gi", "ephemeral-storage": "1Ti", "nvidia.com/gpu": "4"}
    assert trainer["resourcesPerNode"]["requests"] == asked


@pytest.mark.parametrize(("kind", "nodes"), [("cpu", 2), ("a100", 0)])
def test_nodes_that_cannot_be(kind, nodes):
    with pytest.raises(ParameterError, match="--sft-nodes"):
        Profile(kind, sft_nodes=nodes)


def test_what_the_page_asks_of_the_cluster_fits():
    page = (Path(__file__).resolve().parents[2] / "docs/cluster.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    found = {item["kind"]: item for item in yaml.safe_load_all(block)}
    assert found["PersistentVolumeClaim"]["metadata"]["name"] == Profile.scratch_claim
    assert found["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    assert found["Role"]["rules"] == [
        {"apiGroups": ["trainer.kubeflow.org"], "resources": ["trainjobs"], "verbs": ["create", "get", "delete"]}
    ]
    assert found["RoleBinding"]["roleRef"]["name"] == found["Role"]["metadata"]["name"]
    policy = found["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= POD_LABELS.items()
    assert policy["ingress"][0]["from"] == policy["egress"][0]["to"] == [{"podSelector": policy["podSelector"]}]
