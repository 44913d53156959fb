"""`manifests/README.md` followed to the letter: its commands, in their order, from no namespace to the Jobs."""

import base64
import json
import os
import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest
import yaml

from components.kubeflow.scheduling import Profile
from tests.kubeflow.kubeflow_server import kubeconfig
from tests.manifests.api_server import running
from tests.manifests.conftest import MANIFESTS
from tests.manifests.test_manifests import OVERLAYS, README

BLOCK = re.compile(r"^( *)```sh\n(.*?)^ *```", re.S | re.M)
REGISTRY, DIGEST = "registry.example:5000", f"sha256:{'7' * 64}"
STORED = {"any-s3": "https://s3.example.com", "minio": "http://motion-enhancer-minio:9000"}
STORED["smoke"] = STORED["minio"]


def setting_up(text):
    """The blocks of "Setting up" in their order, and the words before each."""
    section = text.split("## Setting up\n")[1].split("\n## ")[0]
    start = 0
    for found in BLOCK.finditer(section):
        yield section[start : found.start()], re.sub(rf"^{found[1]}", "", found[2], flags=re.M)
        start = found.end()


def script(text, overlay, login=False, after=""):
    """One shell script of these blocks. What the words before a block leave to the reader is done as they say."""
    lines = []
    for words, block in setting_up(text):
        condition = re.search(r"With overlay `([\w-]+)` the key", words)
        if (condition and condition[1] != overlay) or ("Login of the registry" in words and not login):
            continue
        lines.append(block.replace("OVERLAY=minio", f"OVERLAY={overlay}").replace("--timeout=6h", "--timeout=3s"))
        if "Fill in" in words and overlay in STORED:
            filled = f"s|^endpoint=.*|endpoint={STORED[overlay]}|; s|CHANGE-ME|0123456789|"
            lines.append(f"sed -i '{filled}' manifests/secrets/store.env")
    return "\n".join([*lines, after])


@pytest.fixture
def follow(kubectl, tree):
    """Function from a cluster, a README and an overlay to what following it did."""
    folder = tree.parent
    (folder / "bin").mkdir()
    (folder / "bin" / "kubectl").symlink_to(shutil.which(kubectl))
    (folder / "docker").mkdir()
    images = dict.fromkeys(("cpu", "gpu"), f"{REGISTRY}/team/motion-enhancer@{DIGEST}")
    (folder / "docker" / "images.lock.json").write_text(json.dumps(images, indent=2))

    def followed(cluster, overlay, text=README, **options):
        environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(folder),
            "KUBECONFIG": str(kubeconfig(folder / "kubeconfig", cluster.url)),
            "REGISTRY_USER": "me",
            "REGISTRY_PASSWORD": "canary-77aa",
        }
        command = ["bash", "-euo", "pipefail", "-c", script(text, overlay, **options)]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)

    return followed


def pulls(image, key):
    """A registry that holds what was locked and MinIO's releases, for everybody."""
    return image == f"{REGISTRY}/team/motion-enhancer@{DIGEST}" or "minio" in image


def profile(cluster, name):
    """What KFP makes of a profile: a namespace, and in it the key of KFP's store."""
    cluster.put("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    cluster.put(
        "secrets",
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {"name": "mlpipeline-minio-artifact", "namespace": name},
            "data": {"accesskey": "bWluaW8=", "secretkey": "bWluaW8xMjM="},
        },
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_from_no_namespace_to_the_jobs(follow, overlay):
    with running(pulls) as cluster:
        if overlay == "kfp-object-store":
            profile(cluster, "motion-enhancer")
        done = follow(cluster, overlay)
        assert done.returncode == 0, done.stderr
        jobs = {item["metadata"]["name"] for item in cluster.made("jobs", "motion-enhancer")}
        store = cluster.objects["secrets", "motion-enhancer", Profile().store_secret]["data"]
        shown = {name: base64.b64decode(value).decode() for name, value in store.items()}
    if overlay == "kfp-object-store":
        assert shown == {"endpoint": "http://seaweedfs.kubeflow:9000", "accesskey": "minio", "secretkey": "minio123"}
    fetch = set() if overlay == "smoke" else {"motion-enhancer-models-fetch"}
    assert jobs == {"motion-enhancer-bootstrap", *fetch}
    assert done.stdout.count("condition met") == len(jobs)


def test_in_another_namespace(follow):
    text = README.replace("NAMESPACE=motion-enhancer\n", "NAMESPACE=team-video\n")
    with running(pulls) as cluster:
        done = follow(cluster, "minio", text)
        assert done.returncode == 0, done.stderr
        assert {namespace for _, namespace, _ in cluster.objects} == {"", "team-video"}


def test_a_registry_with_a_login(follow):
    def private(image, key):
        return pulls(image, key) and (key or "minio" in image)

    with running(private) as cluster:
        assert "timed out" in follow(cluster, "any-s3").stderr
    with running(private) as cluster:
        done = follow(cluster, "any-s3", login=True)
        assert done.returncode == 0, done.stderr
        held = cluster.objects["secrets", "motion-enhancer", "motion-enhancer-registry"]["data"]
        assert list(held) == [".dockerconfigjson"]
    assert "canary" not in done.stdout + done.stderr


def test_jobs_of_another_image_come_after_the_old_ones_are_deleted(follow):
    (delete,) = re.findall(r"`(kubectl -n \$NAMESPACE delete job [^`]+)`", README)
    apply = "kubectl apply -k manifests/overlays/$OVERLAY"
    other = f"sed -i 's/{'7' * 64}/{'8' * 64}/' manifests/base/kustomization.yaml"
    with running(lambda image, key: True) as cluster:
        refused = follow(cluster, "smoke", after=f"{other}; {apply}")
        assert refused.returncode != 0
        assert "field is immutable" in refused.stderr
        done = follow(cluster, "smoke", after=f"{other}; {delete}; {apply}")
        assert done.returncode == 0, done.stderr
        (job,) = cluster.made("jobs", "motion-enhancer")
    assert job["spec"]["template"]["spec"]["containers"][0]["image"].endswith("8" * 64)


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        ("kubectl apply -k manifests/namespace", 'namespaces "motion-enhancer" not found'),
        ("kubectl apply -k manifests/secrets", "timed out waiting for the condition"),
        ('sed -i "s|\\(name', "timed out waiting for the condition"),
        ("kubectl apply -k manifests/overlays", "no matching resources found"),
    ],
    ids=["namespace", "secrets", "image", "overlay"],
)
def test_a_step_that_is_left_out_is_noticed(follow, left_out, said):
    (line,) = [line for line in README.splitlines() if line.strip().startswith(left_out)]
    with running(pulls) as cluster:
        done = follow(cluster, "minio", README.replace(line, ""))
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("base/bootstrap.yaml", "backoffLimit: 6", "backofLimit: 6", "backofLimit"),
        ("base/bootstrap.yaml", "runAsNonRoot: true", "runAsNonRoot: false", "timed out"),
        ("base/bootstrap.yaml", "name: motion-enhancer, key: STORE", "name: motion-enhancer, key: STRE", "timed out"),
        ("base/models.yaml", "claimName: motion-enhancer-models", "claimName: other", "timed out"),
        ("base/rbac.yaml", "name: motion-enhancer-jobs", "name: motion-enhancer-job", "timed out"),
        ("overlays/minio/minio.yaml", "component: bootstrap}", "component: other}", "timed out"),
    ],
)
def test_a_manifest_that_is_wrong_is_noticed(follow, tree, file, old, new, said):
    text = (tree / file).read_text()
    assert old in text
    (tree / file).write_text(text.replace(old, new))
    with running(pulls) as cluster:
        done = follow(cluster, "minio")
    assert done.returncode != 0
    assert said in done.stderr


# `workflowDefaults` of KFP 2.17.0's manifests
EXPRESSION = "lastRetry.status == 'Error' || asInt(lastRetry.exitCode) > 0"
STOCK = """spec:
  ttlStrategy:
    secondsAfterCompletion: 3600
    secondsAfterSuccess: 3600
    secondsAfterFailure: 3600
  templateDefaults:
    retryStrategy:
      limit: '2'
      retryPolicy: OnError
"""


def test_kfps_tries_are_changed_and_taken_back(kubectl, tmp_path):
    """On the ConfigMap of KFP 2.17.0, whose other entries stay."""
    text = README.split("## Tries of a task")[1].split("\n## ")[0]
    commands = [re.findall(r"kubectl .* --patch-file \S+", block)[0] for _, block in BLOCK.findall(text)]
    executor = "imagePullPolicy: IfNotPresent\n"
    given = {"artifactRepository": "archiveLogs: true\n", "executor": executor, "workflowDefaults": STOCK}
    with running() as cluster:
        names = {"name": "workflow-controller-configmap", "namespace": "kubeflow"}
        map_ = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": names, "data": given}
        cluster.put("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kubeflow"}})
        cluster.put("configmaps", map_)
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig(tmp_path / "k", cluster.url)), "HOME": str(tmp_path)}
        seen = []
        for command in commands:
            words = [kubectl, *command.split()[1:]]
            subprocess.run(words, cwd=MANIFESTS.parent, env=environment, check=True, capture_output=True)
            seen.append(cluster.objects["configmaps", "kubeflow", "workflow-controller-configmap"]["data"])
    changed = STOCK.replace("OnError", "Always") + f"      expression: {EXPRESSION}\n"
    assert yaml.safe_load(changed)["spec"]["templateDefaults"]["retryStrategy"]["expression"] == EXPRESSION
    assert seen == [{**given, "workflowDefaults": changed}, given]


# of a run whose sft was killed: what Argo held of each node with a retry strategy when its last try had ended
ENDED = {
    "pod of sft": ("Failed", "137"),
    "sft": ("Failed", "-1"),
    "root": ("Failed", "-1"),
    "entrypoint": ("Failed", "-1"),
}


def test_pods_are_tried_again_and_groups_of_tasks_are_not():
    """Argo's expressions have `asInt`, `||` and `lastRetry`; -1 is the code of what has none."""

    def again(status, code):
        names = {"asInt": int, "lastRetry": SimpleNamespace(status=status, exitCode=code)}
        return eval(EXPRESSION.replace("||", "or"), {"__builtins__": {}}, names)

    assert [name for name, ended in ENDED.items() if again(*ended)] == ["pod of sft"]
    assert again("Failed", "1")
    assert again("Error", "-1")  # a deleted pod
