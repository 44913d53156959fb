"""The manifests as a cluster would take them: valid, restricted, walled in, without a secret, switched by one line."""

import base64
import copy
import importlib.util
import ipaddress
import re

import kubernetes_validate
import pytest
from kubernetes.utils.quantity import parse_quantity

from components.core.units import readable_bytes
from components.kubeflow.cluster_check import KUBERNETES, SINCE
from components.kubeflow.scheduling import REQUIRED_KEYS, Profile
from components.models.registry import CHECKPOINTS
from components.plan.cost import ClipCost
from components.store.settings import KEYS
from docs.generate import CASES, WORDS, pipeline_default, shared_fields
from tests.manifests.checks import Pod, connects, lets, outside, pods, policies_for, reaches, restricted
from tests.manifests.conftest import MANIFESTS

OVERLAYS = sorted(folder.name for folder in (MANIFESTS / "overlays").iterdir())
FETCH, BOOTSTRAP = "motion-enhancer-models-fetch", "motion-enhancer-bootstrap"
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.20.10/32")
README = (MANIFESTS / "README.md").read_text(encoding="utf-8")

# What Argo puts on the pods of a run: KFP's mark, and labels that differ by run.
MARKS = {"workflows.argoproj.io/workflow": "any", "pipeline/runid": "any"}
RUN = Pod("pipeline", {"pipelines.kubeflow.org/v2_component": "true", **MARKS})
STRANGER = Pod("stranger", {"app": "notebook"})
DNS = Pod("dns", {"k8s-app": "kube-dns"}, "kube-system")
KFP = Pod("ml-pipeline", {"app": "ml-pipeline"}, "kubeflow")
METADATA = Pod("metadata", {"component": "metadata-grpc-server"}, "kubeflow")
SEAWEED = Pod("seaweedfs", {"app": "seaweedfs"}, "kubeflow")


def made(objects, kind):
    return [item for item in objects if item["kind"] == kind]


def pod(objects, name):
    (found,) = [one for one in pods(objects) if one.name == name]
    return found


@pytest.fixture(params=OVERLAYS)
def objects(request, build):
    return build(MANIFESTS / "overlays" / request.param)


def oldest():
    """The oldest Kubernetes that the README names."""
    return re.search(r"\| Kubernetes \| ([\d.]+) or newer", README)[1]


@pytest.mark.parametrize("version", [oldest(), kubernetes_validate.latest_version()])
def test_every_object_is_valid(objects, version):
    for item in objects:  # raises for a misspelt field, and for a kind without a schema: no custom resource is used
        kubernetes_validate.validate(item, version, strict=True)


def test_an_older_kubernetes_is_another_matter(objects):
    older = f"1.{int(oldest().split('.')[1]) - 1}"
    with pytest.raises(kubernetes_validate.ValidationError, match="onPodConditions"):
        kubernetes_validate.validate(made(objects, "Job")[0], older, strict=True)


def test_the_versions_of_the_readme_are_those_that_are_asked_for():
    kfp = re.search(r"\| Kubeflow Pipelines \| ([\d.]+) or newer", README)[1]
    assert {"securityContext": kfp}.items() <= {path[-1]: since for path, since in SINCE.items()}.items()
    assert oldest() == KUBERNETES


def test_the_namespace_warns_and_the_overlays_leave_it_alone(build, objects):
    (namespace,) = build(MANIFESTS / "namespace")
    levels = namespace["metadata"]["labels"]
    assert levels == {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("warn", "audit")}
    assert not made(objects, "Namespace")


def test_validation_can_fail(objects):
    job = copy.deepcopy(made(objects, "Job")[0])
    job["spec"]["template"]["spec"]["containers"][0]["comand"] = ["python"]
    with pytest.raises(kubernetes_validate.ValidationError, match="comand"):
        kubernetes_validate.validate(job, "1.32", strict=True)


def test_everything_lies_in_one_namespace(objects):
    assert {item["metadata"].get("namespace") for item in objects} == {"motion-enhancer"}
    for binding in made(objects, "RoleBinding"):
        assert [subject["namespace"] for subject in binding["subjects"]] == ["motion-enhancer"]
    labels = [item["metadata"]["labels"] for item in objects if item["kind"] != "ConfigMap"]
    assert {each["app.kubernetes.io/part-of"] for each in labels} == {"motion-enhancer"}


def test_pods_are_restricted(objects):
    for one in pods(objects):
        assert not restricted(one.spec), one.name
        assert one.spec["securityContext"]["runAsUser"] == one.spec["securityContext"]["runAsGroup"] == 65532
        assert one.spec["automountServiceAccountToken"] is False
        assert one.spec["serviceAccountName"] == "motion-enhancer-jobs"
        for container in one.spec["containers"] + one.spec.get("initContainers", []):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
            for bound in ("requests", "limits"):
                held = container["resources"][bound]
                assert {"cpu", "memory", "ephemeral-storage"} == set(held), f"{one.name}: {bound}"
                assert parse_quantity(held["ephemeral-storage"]) >= written(one.spec), f"{one.name}: {bound}"


def written(spec):
    """Bytes that a pod's own folders may take of its node's disk."""
    return sum(parse_quantity(item["emptyDir"]["sizeLimit"]) for item in spec["volumes"] if "emptyDir" in item)


OWN, POD = ("containers", 0, "securityContext"), ("securityContext",)


@pytest.mark.parametrize(
    ("place", "value", "finding"),
    [
        (("hostNetwork",), True, "hostNetwork"),
        (("hostPID",), True, "hostPID"),
        (("volumes", 0), {"name": "host", "hostPath": {"path": "/"}}, "volume host"),
        ((*POD, "sysctls"), [{"name": "kernel.msgmax", "value": "1"}], "sysctl kernel.msgmax"),
        ((*POD, "runAsUser"), 0, "root"),
        ((*POD, "runAsNonRoot"), False, "root"),
        ((*POD, "runAsNonRoot"), None, "bootstrap: may be root"),
        ((*POD, "seccompProfile"), {"type": "Unconfined"}, "seccomp"),
        ((*POD, "seccompProfile"), None, "bootstrap: no seccomp profile"),
        ((*OWN, "seccompProfile"), {"type": "Unconfined"}, "bootstrap: seccomp"),
        ((*OWN, "runAsUser"), 0, "bootstrap: root"),
        ((*OWN, "runAsNonRoot"), False, "bootstrap: root"),
        ((*OWN, "privileged"), True, "bootstrap: privileged"),
        ((*OWN, "allowPrivilegeEscalation"), None, "bootstrap: privilege escalation"),
        ((*OWN, "capabilities"), {}, "bootstrap: capabilities not dropped"),
        ((*OWN, "capabilities"), {"drop": ["ALL"], "add": ["SYS_ADMIN"]}, "bootstrap: capabilities added"),
        ((*OWN, "procMount"), "Unmasked", "bootstrap: procMount"),
        ((*OWN, "seLinuxOptions"), {"type": "spc_t"}, "bootstrap: SELinux"),
        ((*OWN, "appArmorProfile"), {"type": "Unconfined"}, "bootstrap: AppArmor"),
        (("containers", 0, "ports"), [{"containerPort": 1, "hostPort": 1}], "bootstrap: host port"),
        (("containers", 0, "livenessProbe"), {"httpGet": {"host": "elsewhere", "port": 1}}, "bootstrap: probe host"),
    ],
)
def test_the_profile_finds_what_breaks_it(build, place, value, finding):
    spec = copy.deepcopy(pod(build(MANIFESTS / "overlays" / "minio"), BOOTSTRAP).spec)
    target = spec
    for key in place[:-1]:
        target = target[key]
    if value is None:
        del target[place[-1]]
    else:
        target[place[-1]] = value
    assert finding in restricted(spec)


def test_images_are_pinned(objects):
    for one in pods(objects):
        for container in one.spec["containers"]:
            assert re.fullmatch(r"[a-z0-9./-]+(:RELEASE\.[0-9TZ-]+|@sha256:[0-9a-f]{64})", container["image"]), one.name


def test_commands_and_models_exist(objects):
    for job in pods(made(objects, "Job")):
        python, flag, module = job.spec["containers"][0]["command"]
        assert (python, flag) == ("python", "-m")
        assert importlib.util.find_spec(module), f"{job.name} runs {module}, which is not there"
    (settings,) = made(objects, "ConfigMap")
    assert set(settings["data"]["MODELS"].split()) <= set(CHECKPOINTS)
    assert settings["data"]["STORE"].startswith("minio://")


def test_every_pod_is_walled_in(objects):
    for one in [*pods(objects), RUN]:
        for direction in ("Ingress", "Egress"):
            assert policies_for(one, objects, direction), f"{one.name}: no policy for {direction}"
        assert not connects(STRANGER, one, objects, 9000)
        assert not lets(one, STRANGER, objects, "Egress", 443)
        assert lets(one, DNS, objects, "Egress", 53, "UDP")


def test_what_a_run_needs_it_reaches(objects):
    for target, port in ((KFP, 8887), (METADATA, 8080), (SEAWEED, 8333)):
        assert lets(RUN, target, objects, "Egress", port)
        assert not lets(RUN, target, objects, "Egress", 22)
    assert reaches(RUN, objects, "10.96.0.1", 443)
    assert reaches(RUN, objects, "172.18.0.2", 6443)
    assert not reaches(RUN, objects, "10.0.0.7", 22)


def test_the_store_is_reached_by_its_users_alone(build):
    for overlay in ("minio", "smoke"):
        objects = build(MANIFESTS / "overlays" / overlay)
        store = pod(objects, "motion-enhancer-minio")
        allowed = {one.name for one in [*pods(objects), RUN] if connects(one, store, objects, 9000)}
        assert allowed == {"pipeline", BOOTSTRAP}
        assert not connects(RUN, store, objects, 9001)
        (service,) = made(objects, "Service")
        assert service["spec"]["selector"].items() <= store.labels.items()
        target = service["spec"]["ports"][0]["targetPort"]
        assert store.spec["containers"][0]["ports"] == [{"name": target, "containerPort": 9000}]
    objects = build(MANIFESTS / "overlays" / "kfp-object-store")
    allowed = {one.name for one in [*pods(objects), RUN] if lets(one, SEAWEED, objects, "Egress", 8333)}
    assert allowed == {"pipeline", BOOTSTRAP}
    objects = build(MANIFESTS / "overlays" / "any-s3")
    allowed = {one.name for one in [*pods(objects), RUN] if reaches(one, objects, "203.0.113.9", 443)}
    assert allowed == {"pipeline", BOOTSTRAP, FETCH}
    assert not reaches(RUN, objects, "203.0.113.9", 80)


def test_only_the_fetch_reaches_the_internet(objects):
    known = [ipaddress.ip_network(cidr) for cidr in (*PRIVATE, "203.0.113.0/24")]
    for one in [*pods(objects), RUN]:
        ranges = [ipaddress.ip_network(cidr) for cidr in outside(one, objects)]
        inside = [cidr for cidr in ranges for near in known if cidr.version == near.version and cidr.subnet_of(near)]
        far = set(ranges) - set(inside)
        assert bool(far) == (one.name == FETCH), f"{one.name}: {far}"


def test_the_fetch_reaches_nothing_else(build):
    objects = build(MANIFESTS / "overlays" / "minio")
    fetch = pod(objects, FETCH)
    assert all(reaches(fetch, objects, address, 443) for address in ("3.165.1.1", "2600:9000::1"))
    assert not reaches(fetch, objects, "3.165.1.1", 80)
    inner = "10.1.2.3 100.64.0.1 127.0.0.1 169.254.169.254 172.31.0.1 192.168.0.1 fd00::1 fe80::1"
    assert not [address for address in inner.split() if reaches(fetch, objects, address, 443)]


def test_only_the_fetch_sees_the_hub_token(objects):
    seen = {one.name for one in pods(objects) if "motion-enhancer-hub" in str(one.spec)}
    assert seen == {one.name for one in pods(objects)} & {FETCH}
    assert "motion-enhancer-hub" not in str(made(objects, "Role"))


def test_no_secret_is_committed(objects, build, tree):
    assert not made(objects, "Secret")
    for one in pods(objects):
        for variable in one.spec["containers"][0]["env"]:
            if re.search("KEY|TOKEN|USER|PASSWORD", variable["name"]):
                assert set(variable["valueFrom"]) == {"secretKeyRef"}, variable["name"]
    assert (MANIFESTS / "secrets" / ".gitignore").read_text() == "*.env\n"
    for example in (tree / "secrets").glob("*.example"):
        example.rename(example.with_suffix(""))
    store, hub = sorted(build(tree / "secrets"), key=lambda item: item["metadata"]["name"], reverse=True)
    decoded = {name: base64.b64decode(value) for name, value in store["data"].items()}
    change = b"CHANGE-ME"
    assert decoded == {"endpoint": b"http://motion-enhancer-minio:9000", "accesskey": change, "secretkey": change}
    assert hub["data"]["token"] in ("", None)


def test_the_optional_keys_of_the_example_are_those_that_pods_take(tree, build):
    secrets = tree / "secrets"
    (secrets / "hub.env").write_text("token=\n")
    (secrets / "ca.pem").write_text(text := "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    example = (secrets / "store.env.example").read_text()
    (secrets / "store.env").write_text(re.sub(r"^# (\w+=)", r"\1", example, flags=re.MULTILINE))
    file = secrets / "kustomization.yaml"
    file.write_text(file.read_text().replace("envs: [store.env]}", "envs: [store.env], files: [cabundle=ca.pem]}"))
    (store,) = (item for item in build(secrets) if item["metadata"]["name"] == Profile().store_secret)
    assert set(store["data"]) == set(KEYS)
    assert base64.b64decode(store["data"]["cabundle"]).decode() == text


def test_the_bootstrap_takes_what_a_step_takes_of_the_stores_secret(objects):
    variables = pod(objects, BOOTSTRAP).spec["containers"][0]["env"]
    given = {item["name"]: item["valueFrom"].get("secretKeyRef") for item in variables if item["name"] != "STORE"}
    assert {item["key"]: name for name, item in given.items()} == KEYS
    assert {item["key"] for item in given.values() if not item.get("optional")} == set(REQUIRED_KEYS)


def test_rights_are_few(objects):
    assert not [item["kind"] for item in objects if item["kind"].startswith("Cluster")]
    (role,) = made(objects, "Role")
    each = [(kind, verb, rule) for rule in role["rules"] for kind in rule["resources"] for verb in rule["verbs"]]
    may = {(kind, verb): rule.get("resourceNames") for kind, verb, rule in each}
    assert may == {
        ("configmaps", "get"): ["kfp-launcher"],
        ("secrets", "get"): ["mlpipeline-minio-artifact"],
        ("pods", "get"): None,
        ("workflowtaskresults", "create"): None,
        ("workflowtaskresults", "patch"): None,
    }
    (binding,) = made(objects, "RoleBinding")
    assert [subject["name"] for subject in binding["subjects"]] == ["motion-enhancer"]


def test_names_agree(objects):
    """With the compiled pipeline's, and among the objects."""
    profile = Profile()
    (claim,) = made(objects, "PersistentVolumeClaim")
    assert claim["metadata"]["name"] == profile.model_claim
    accounts = {item["metadata"]["name"] for item in made(objects, "ServiceAccount")}
    for one in pods(objects):
        secrets = set(re.findall(r"'secretKeyRef': {'key': '\w+', 'name': '([\w-]+)'", str(one.spec)))
        assert secrets
        assert secrets <= {profile.store_secret, "motion-enhancer-hub"}
        assert set(re.findall(r"'claimName': '([\w-]+)'", str(one.spec))) <= {profile.model_claim}
        settings = set(re.findall(r"'configMapKeyRef': {'key': '\w+', 'name': '([\w-]+)'", str(one.spec)))
        assert settings <= {"motion-enhancer"}
        assert one.spec["serviceAccountName"] in accounts


def test_each_overlay_has_its_line():
    assert sorted(re.findall(r"^\| `([\w-]+)` \| [^|]+ \|$", README.split("## ")[0], re.M)) == OVERLAYS


def test_minio_is_switched_by_one_line(build, tree):
    before = pod(build(MANIFESTS / "overlays" / "minio"), "motion-enhancer-minio")
    file = tree / "overlays" / "minio" / "kustomization.yaml"
    lines = file.read_text().splitlines()
    (old,) = [line for line in lines if line.startswith("  - {name: minio,")]
    (new,) = [line.replace("# ", "") for line in lines if line.startswith("  # - {name: minio,")]
    file.write_text("\n".join(new if line == old else line for line in lines))
    after = pod(build(tree / "overlays" / "minio"), "motion-enhancer-minio")
    assert before.spec["containers"][0].pop("image") == "quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z"
    assert after.spec["containers"][0].pop("image") == "docker.io/pgsty/silo:RELEASE.2026-08-06T00-00-00Z"
    assert before == after


def test_a_kustomization_of_ones_own(build, tree):
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    (tree.parent / "mine").mkdir()
    (tree.parent / "mine" / "kustomization.yaml").write_text(block)
    objects = build(tree.parent / "mine")
    images = {one.spec["containers"][0]["image"].split("@")[0] for one in pods(objects)}
    silo = "docker.io/pgsty/silo:RELEASE.2026-08-06T00-00-00Z"
    assert images == {"registry.mine.example/video/motion-enhancer-cpu", silo}
    assert {item["metadata"]["namespace"] for item in objects} == {"team-video"}
    assert made(objects, "RoleBinding")[0]["subjects"][0]["namespace"] == "team-video"
    (store,) = made(objects, "StatefulSet")
    assert store["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] == "2500Gi"


# parameters in billions, as the classes count them on the meta device: transformer, text encoder and VAE; the whole VLM
PARAMETERS = {
    "cogvideox-5b": 5.570 + 4.762 + 0.216,
    "cogvideox1.5-5b": 5.571 + 4.762 + 0.216,
    "qwen2.5-vl-3b": 3.755,
    "qwen2.5-vl-7b": 8.292,
    "internvl3-2b": 2.089,
    "internvl3-8b": 7.944,
}


def test_the_models_volume_holds_the_registry(build):
    (claim,) = made(build(MANIFESTS / "overlays" / "minio"), "PersistentVolumeClaim")
    volume = parse_quantity(claim["spec"]["resources"]["requests"]["storage"])
    gigabytes = {name: 2 * count for name, count in PARAMETERS.items()}
    assert gigabytes.keys() == CHECKPOINTS.keys()
    (settings,) = made(build(MANIFESTS / "overlays" / "minio"), "ConfigMap")
    everything, fetched = sum(gigabytes.values()), sum(gigabytes[name] for name in settings["data"]["MODELS"].split())
    assert f"registry take {everything:.0f} GB, the two of `MODELS` {fetched:.0f} GB" in " ".join(README.split())
    assert everything * 1e9 < 0.9 * int(volume)


def test_minios_volume_holds_what_the_readme_says(build):
    """By the formulas that `plan` prints."""
    clip, fields = ClipCost(CASES[0][1], *CASES[0][2]), shared_fields()
    steps, ratio = (pipeline_default(fields[name]) for name in ("num_steps", "token_ratio"))
    maps, trajectory = clip.map_bytes(WORDS), clip.trajectory_bytes(steps, 2)
    kept = maps + 4 * ratio * WORDS * clip.tokens
    rows = re.findall(r"^\| ([\d ]+) \| ([\d.]+ .B) \| ([\d.]+ .B) \| `(\d+Gi)`(, the default)? \|$", README, re.M)
    assert [row[0] for row in rows] == ["1 000", "5 000", "25 000"]
    (stateful,) = made(build(MANIFESTS / "overlays" / "minio"), "StatefulSet")
    default = stateful["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]
    for videos, small, large, volume, is_default in rows:
        count = int(videos.replace(" ", ""))
        predicted = count * kept, count * (kept + trajectory)
        assert (small, large) == tuple(map(readable_bytes, predicted))
        assert predicted[1] < 0.8 * int(parse_quantity(volume))  # the rest: videos, states of a training
        assert bool(is_default) == (volume == default)
