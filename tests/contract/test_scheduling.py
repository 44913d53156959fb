"""Where the tasks of a compiled pipeline run: what each kind of task must have, and what options may not change."""

import functools
import re
from types import SimpleNamespace

import pytest
import yaml
from kubernetes.utils.quantity import parse_quantity

from components.kubeflow.compile import compiled_limits
from components.kubeflow.scheduling import device_bytes
from components.plan.limits import VARIABLE, Limits, Pod
from components.runtime.declaration import declared
from tests.command import motion_enhancer, python
from tests.contract.specs import container, definition, leaves, load, parameters, step_of, tasks

IMAGE = f"registry.example/steps@sha256:{'0' * 64}"
CPU = ("--profile", "cpu")
CHANGED = ["--parallelism=3", "--timeout=60", "--deadline=86400", "--retries=5", "--node-selector=pool=a100"]
CHANGED += ["--queue=gpus", "--store-secret=other-secret", "--model-claim=other-claim", "--scratch=1Ti"]
CHANGED += ["--pull-secret=login"]
CHANGED += ["--gpus-per-shard=2"]
SIZES = ("--gpus-per-shard=2", "--cpu=gpu=8", "--cpu=sft=6", "--cpu=cpu=2", "--memory=gpu=64Gi", "--memory=sft=90Gi")
SIZES += ("--memory=cpu=1Gi", "--timeout=43200", "--node-selector=nvidia.com/gpu.product=NVIDIA-A100-SXM4-40GB")


def pod(gpus, gib):
    """A pod with so many GPUs and GiB."""
    return Pod(gpus=gpus, memory=gib * 2**30)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Function from options of `compile` to the pipeline's two documents. A process compiles for one profile."""

    @functools.cache
    def made(*options):
        file = tmp_path_factory.mktemp("scheduled") / "pipeline.yaml"
        python("-m", "components.cli", "compile", "motion_enhancer", "-o", file, "--image", IMAGE, *options)
        return load(file)

    return made


def scheduled(documents):
    """Each task with its container, its pod and whether its step is one for a GPU."""
    spec, platform = documents
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, task in leaves(spec).items():
        on_gpu = declared(step_of(spec, task)).device == "gpu"
        pod = pods[definition(spec, task)["executorLabel"]]
        yield SimpleNamespace(name=name, task=task, on_gpu=on_gpu, container=container(spec, task), pod=pod)


def mounted(pod):
    """Claims and memory volumes by where they are mounted."""
    claims = {item["mountPath"]: item["constant"] for item in pod.get("pvcMount", [])}
    return claims | {item["mountPath"]: item.get("medium", "disk") for item in pod.get("emptyDirMounts", [])}


def pairs(secret):
    """Variables by the keys of a secret."""
    return {pair["secretKey"]: pair["envVar"] for pair in secret["keyToEnv"]}


def test_gpu_steps_get_what_a_gpu_node_needs_and_no_other_step_does(compiled):
    found = list(scheduled(compiled()))
    assert {one.on_gpu for one in found} == {True, False}
    for one in found:
        resources, mounts = one.container["resources"], mounted(one.pod)
        needs = ("accelerator" in resources, "nodeSelector" in one.pod, "tolerations" in one.pod, "/dev/shm" in mounts)
        assert set(needs) == {one.on_gpu}, one.name
        if one.on_gpu:
            accelerator, (toleration,) = resources["accelerator"], one.pod["tolerations"]
            assert accelerator["resourceType"] == toleration["key"] == "nvidia.com/gpu"
            assert int(accelerator["resourceCount"]) == (8 if one.name == "sft" else 4)
            assert mounts["/dev/shm"] == "Memory"
            assert "/models" in mounts


@pytest.mark.parametrize("options", [(), CPU])
def test_every_task_is_bounded_and_not_root_and_has_the_store(compiled, options):
    for one in scheduled(compiled(*options)):
        assert one.pod["securityContext"] == {"runAsUser": "65532", "runAsGroup": "65532", "runAsNonRoot": True}
        (variable,), (volume,) = one.pod["secretAsEnv"], one.pod["secretAsVolume"]
        assert (pairs(variable), variable.get("optional", False)) == ({"endpoint": "S3_ENDPOINT"}, False)
        assert (volume["mountPath"], volume["optional"]) == ("/etc/motion-enhancer/store", True)
        assert volume["secretName"] == variable["secretName"] == "motion-enhancer-store"
        assert int(one.pod["activeDeadlineSeconds"]) > 0
        assert one.task["retryPolicy"]["maxRetryCount"] > 0
        resources = one.container["resources"]
        assert 0 < resources["memoryRequest"] <= resources["memoryLimit"]
        assert 0 < resources["cpuRequest"] <= resources.get("cpuLimit", float("inf"))


def test_profile_cpu_asks_for_no_gpu(compiled):
    assert "accelerator" in str(compiled())
    for word in ("accelerator", "nvidia", "nodeSelector", "tolerations", "/dev/shm"):
        assert word not in str(compiled(*CPU)), word


def test_options_reach_their_tasks(compiled):
    spec, platform = compiled(*CHANGED)
    loops = [task for task in tasks(spec).values() if "parameterIterator" in task]
    assert {task["iteratorPolicy"]["parallelismLimit"] for task in loops} == {3}
    assert platform["platforms"]["kubernetes"]["pipelineConfig"]["activeDeadlineSeconds"] == 86400
    for one in scheduled((spec, platform)):
        assert one.pod["activeDeadlineSeconds"] == "60"
        assert one.task["retryPolicy"]["maxRetryCount"] == 5
        store = [*one.pod["secretAsEnv"], *one.pod["secretAsVolume"]]
        assert [item["secretName"] for item in store] == ["other-secret", "other-secret"]
        assert mounted(one.pod).get("/models", "other-claim") == "other-claim"
        assert [item["secretName"] for item in one.pod["imagePullSecret"]] == ["login"]
        labels, selector = one.pod.get("podMetadata", {}).get("labels", {}), one.pod.get("nodeSelector", {})
        assert labels == ({"kueue.x-k8s.io/queue-name": "gpus"} if one.on_gpu else {})
        assert selector == ({"labels": {"pool": "a100"}} if one.on_gpu else {})


@pytest.mark.parametrize(("options", "gpus"), [((), 4), (("--gpus-per-shard=1",), 1), (tuple(CHANGED), 2), (CPU, 0)])
def test_a_pod_that_works_unit_by_unit_gets_a_process_and_its_share_of_a_node_per_gpu(compiled, options, gpus):
    for one in scheduled(compiled(*options)):
        told = {item["name"]: item["value"] for item in one.container.get("env", [])}
        by_unit = one.on_gpu and one.name != "sft"
        assert told.get("UNIT_PROCESSES", "1") == (str(max(1, gpus)) if by_unit else "1"), one.name
        if by_unit and gpus:
            resources = one.container["resources"]
            assert int(resources["accelerator"]["resourceCount"]) == gpus
            assert resources["resourceMemoryLimit"] == resources["resourceMemoryRequest"] == f"{100 * gpus}Gi"
            assert resources["resourceCpuRequest"] == str(10 * gpus)
            assert {item["sizeLimit"] for item in one.pod["emptyDirMounts"]} == {f"{16 * gpus}Gi"}


def test_memory_and_processors_go_by_class_of_step(compiled):
    for one in scheduled(compiled(*SIZES)):
        found = one.container["resources"]
        if not one.on_gpu:
            assert (found["resourceCpuRequest"], found["resourceCpuLimit"]) == ("1", "2")
            assert found["resourceMemoryRequest"] == found["resourceMemoryLimit"] == "1Gi", one.name
            continue
        wanted = ("48", "720Gi") if one.name == "sft" else ("16", "128Gi")
        assert (found["resourceCpuRequest"], found["resourceMemoryLimit"]) == wanted, one.name
        assert found["resourceMemoryRequest"] == found["resourceMemoryLimit"]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((), Limits(timeout=72 * 3600, shard=pod(4, 400), sft=pod(8, 800), device=80 * 10**9)),
        (SIZES, Limits(timeout=43200, shard=pod(2, 128), sft=pod(8, 720), device=40 * 10**9)),
        (tuple(CHANGED), Limits(timeout=60, shard=pod(2, 200), sft=pod(8, 800))),
        ((*CPU, "--memory=cpu=20Gi"), Limits(timeout=72 * 3600, shard=pod(0, 20), sft=pod(0, 20))),
    ],
)
def test_plan_alone_is_told_what_the_other_pods_may_take(compiled, options, wanted, tmp_path):
    documents = compiled(*options)
    (file := tmp_path / "pipeline.yaml").write_text(yaml.safe_dump_all(documents))
    assert compiled_limits(file) == wanted
    for one in scheduled(documents):
        told = {item["name"]: item["value"] for item in one.container.get("env", [])}
        assert (VARIABLE in told) == (one.name == "plan")
        if one.on_gpu:
            given = wanted.sft if one.name == "sft" else wanted.shard
            if given.gpus:
                assert int(one.container["resources"]["accelerator"]["resourceCount"]) == given.gpus
            assert int(parse_quantity(one.container["resources"]["resourceMemoryLimit"])) == given.memory
        assert one.pod["activeDeadlineSeconds"] == str(wanted.timeout)


@pytest.mark.parametrize(
    ("label", "gigabytes"),
    [
        ("NVIDIA-A100-SXM4-80GB", 80),
        ("NVIDIA-A100-SXM4-80GB-MIG-3g.40gb", 40),
        ("Tesla-V100-SXM2-16GB", 16),
        ("a100", None),
    ],
)
def test_a_gpus_memory_is_that_of_its_label(label, gigabytes):
    assert device_bytes({"pool": "x", "nvidia.com/gpu.product": label}) == (gigabytes and gigabytes * 10**9)


@pytest.mark.parametrize(("options", "size"), [((), "200Gi"), (CPU, "200Gi"), (tuple(CHANGED), "1Ti")])
def test_fine_tuning_alone_gets_local_disk_where_it_writes_temporary_files(compiled, options, size):
    for one in scheduled(compiled(*options)):
        sizes = {item["mountPath"]: item["sizeLimit"] for item in one.pod.get("emptyDirMounts", [])}
        assert sizes.pop("/tmp", None) == (size if one.name == "sft" else None)
        assert set(sizes) <= {"/dev/shm"}
        assert "TMPDIR" not in str(one.container)


def test_nothing_of_scheduling_is_a_parameter_or_in_a_cache_key(compiled):
    """KFP hashes a task's interface, image, command and arguments beside the values of its inputs."""

    def key(spec):
        parts = ("image", "command", "args")
        return {
            name: (definition(spec, task), task["inputs"], [container(spec, task)[part] for part in parts])
            for name, task in leaves(spec).items()
        }

    (before, _), (after, platform) = compiled(), compiled(*CHANGED)
    assert key(after) == key(before)
    assert parameters(after) == parameters(before)
    assert "pipelinechannel" not in str(platform)
    assert not any("{{" in str(one.container["resources"]) for one in scheduled((after, platform)))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--profile", "h100"),
        ("--profile", "local"),
        ("--parallelism", "0"),
        ("--timeout", "1h"),
        ("--deadline", "0"),
        ("--retries", "11"),
        ("--timeout", str(10**8 + 1)),
        ("--node-selector", "pool"),
        ("--node-selector", "pool=two words"),
        ("--queue", "My Queue"),
        ("--queue", "q" * 64),
        ("--store-secret", ""),
        ("--store-secret", "team.store"),
        ("--store-secret=shared --model-claim", "shared"),
        ("--model-claim", "-x"),
        ("--pull-secret", "Login"),
        ("--sft-nodes", "0"),
        ("--scratch-claim", "A"),
        ("--scratch", "200GB"),
        ("--scratch", "0Gi"),
        ("--profile=cpu --node-selector", "a=b"),
        ("--profile=cpu --sft-nodes", "2"),
        ("--gpus-per-shard", "0"),
        ("--profile=cpu --gpus-per-shard", "2"),
        ("--cpu", "8"),
        ("--cpu", "gpu=500m"),
        ("--cpu", "all=8"),
        ("--memory", "gpu=64GB"),
        ("--memory", "gpu=16Gi"),
        ("--profile=cpu --memory", "gpu=64Gi"),
    ],
)
def test_a_bad_value_ends_with_2_and_names_its_option(option, value, capsys, tmp_path):
    *before, option = option.split()
    made = tmp_path / "made.yaml"
    assert motion_enhancer("compile", "--image", IMAGE, "-o", made, *before, f"{option}={value}") == 2
    assert option in re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)
    assert not made.exists()
