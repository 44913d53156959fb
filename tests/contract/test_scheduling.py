"""Where the compiled pipeline's tasks run: a golden row per task and profile, and what each option of `compile` changes.

`scheduling.json` is read by people: `python -m tests.contract.test_scheduling` prints what it would be now.
"""

import contextvars
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import yaml
from kfp import compiler, dsl

import pipeline
from components.cli import main as cli
from components.kubeflow import component
from components.kubeflow.scheduling import PROFILE, Profile, run_limits

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).with_name("scheduling.json")
IMAGES = {variant: f"registry.example/{variant}@sha256:{'0' * 64}" for variant in ("gpu", "cpu")}
ON_GPU = {
    "ddim-inversion",
    "attention-capture",
    "vlm-attention",
    "sft",
    "baseline-eval",
    "tuned-eval",
    "tuned-attention",
}


def documents(profile, name="motion_enhancer"):
    """The pipeline's specification and platform specification, built again for the profile; tests of the command line build it whole."""
    known = getattr(pipeline, name)

    def built():
        PROFILE.set(profile)
        made = dsl.pipeline(
            known.pipeline_func, name=known.name, description=known.description, pipeline_config=run_limits()
        )
        with tempfile.TemporaryDirectory() as folder:
            compiler.Compiler().compile(made, f"{folder}/pipeline.yaml")
            return list(yaml.load_all(Path(folder, "pipeline.yaml").read_text(), Loader=yaml.CSafeLoader))

    with mock.patch.dict(component._IMAGES, IMAGES):
        return contextvars.copy_context().run(built)


def leaves(spec):
    """Container tasks by name, from all loops."""
    dags = [spec["root"]["dag"], *(item["dag"] for item in spec["components"].values() if "dag" in item)]
    tasks = {name: task for dag in dags for name, task in dag["tasks"].items()}
    return {
        name: task
        for name, task in tasks.items()
        if "executorLabel" in spec["components"][task["componentRef"]["name"]]
    }


def table(documents):
    """A row per task: everything that says where and how it runs."""
    spec, platform = documents
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    rows = {}
    for name, task in sorted(leaves(spec).items()):
        label = spec["components"][task["componentRef"]["name"]]["executorLabel"]
        rows[name] = row(task, spec["deploymentSpec"]["executors"][label]["container"], dict(executors[label]))
    return rows


def row(task, container, pod):
    resources = dict(container["resources"])
    asked = {
        part: resources.pop(f"resource{part[0].upper()}{part[1:]}", "")
        for part in ("cpuRequest", "cpuLimit", "memoryRequest", "memoryLimit")
    }
    accelerator = resources.pop("accelerator", None)
    retry, user = task.get("retryPolicy", {}), pod.pop("securityContext")
    found = {
        "image": container["image"].split("@")[0],
        "resources": " ".join(f"{part}={value}" for part, value in asked.items()),
        "accelerator": f"{accelerator['resourceType']}={accelerator['resourceCount']}" if accelerator else "",
        "selector": pod.pop("nodeSelector", {}).get("labels", {}),
        "toleration": [" ".join(item[part] for part in sorted(item)) for item in pod.pop("tolerations", [])],
        "timeout": pod.pop("activeDeadlineSeconds"),
        "retry": " ".join(f"{part}={value}" for part, value in sorted(retry.items())),
        "secrets": {
            item["secretName"]: sorted(pair["envVar"] for pair in item["keyToEnv"]) for item in pod.pop("secretAsEnv")
        },
        "mounts": [f"{item['mountPath']} claim {item['constant']}" for item in pod.pop("pvcMount", [])]
        + [f"{item['mountPath']} {item['medium']} {item['sizeLimit']}" for item in pod.pop("emptyDirMounts", [])],
        "user": " ".join(f"{part}={value}" for part, value in sorted(user.items())),
        "pull": pod.pop("imagePullPolicy"),
        "labels": pod.pop("podMetadata", {}).get("labels", {}),
    }
    # older spellings of the same, that KFP writes along
    left = {key for key in resources if key not in ("cpuRequest", "cpuLimit", "memoryRequest", "memoryLimit")}
    assert not left | set(pod), "the row leaves something out"
    return found


@pytest.fixture(scope="module")
def a100():
    return documents(Profile("a100"))


@pytest.fixture(scope="module")
def cpu():
    return documents(Profile("cpu"))


@pytest.mark.parametrize("kind", ["a100", "cpu"])
def test_every_task_has_its_row(kind, request):
    found, golden = table(request.getfixturevalue(kind)), json.loads(GOLDEN.read_text())[kind]
    assert found.keys() == golden.keys()
    for task, expected in golden.items():
        assert found[task] == expected, task


@pytest.mark.parametrize(
    ("kind", "name"), [("a100", "motion_enhancer"), ("cpu", "motion_enhancer"), ("a100", "fine_tune")]
)
def test_gpus_are_asked_by_gpu_tasks_alone_and_nobody_is_root(kind, name):
    for task, found in table(documents(Profile(kind), name)).items():
        on_gpu = kind == "a100" and task in ON_GPU
        assert bool(found["accelerator"]) is on_gpu, task
        assert bool(found["selector"]) is bool(found["toleration"]) is on_gpu, task
        assert any("/dev/shm" in mount for mount in found["mounts"]) is on_gpu, task
        assert found["image"].endswith("/gpu") is on_gpu, task
        assert found["user"] == "runAsGroup=65532 runAsNonRoot=True runAsUser=65532", task


def test_requests_do_not_exceed_limits(a100, cpu):
    for found in (*table(a100).values(), *table(cpu).values()):
        asked = dict(part.split("=") for part in found["resources"].split())
        assert int(asked["memoryRequest"][:-2]) <= int(asked["memoryLimit"][:-2])
        assert not asked["cpuLimit"] or int(asked["cpuRequest"]) <= int(asked["cpuLimit"])


def test_fine_tuning_is_one_pod_with_all_gpus_of_a_node(a100):
    found = table(a100)["sft"]
    assert found["accelerator"] == "nvidia.com/gpu=8"
    assert (
        int(re.search(r"cpuRequest=(\d+)", found["resources"])[1]) < 96
    )  # what a node of 8 A100s has; it keeps some for itself


# Options: the fields that they change, in which tasks, and none of them in a cache key --------------------------------

EVERY = "every task"
OPTIONS = {
    "parallelism": (3, {"parallelismLimit"}, "loops"),
    "timeout": (60, {"activeDeadlineSeconds"}, EVERY),
    "deadline": (86400, {"pipelineConfig.activeDeadlineSeconds"}, "the run"),
    "retries": (5, {"retryPolicy.maxRetryCount"}, EVERY),
    "node_selector": (
        {"pool": "a100"},
        {"nodeSelector.labels.pool", "nodeSelector.labels.nvidia.com/gpu.product"},
        "GPU tasks",
    ),
    "queue": ("gpus", {"podMetadata.labels.kueue.x-k8s.io/queue-name"}, "GPU tasks"),
    "store_secret": ("other", {"secretName", "constant"}, EVERY),
    "model_claim": ("other", {"constant"}, "GPU tasks and plan"),
}


def flat(value, path=""):
    """Every scalar of nested dictionaries and lists, by path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {path: value}
    return {key: inner for name, item in items for key, inner in flat(item, f"{path}/{name}").items()}


def changed(before, after):
    """Paths of what differs between two compiled pipelines."""
    one, other = flat(before), flat(after)
    return {path for path in one.keys() | other.keys() if one.get(path) != other.get(path)}


@pytest.fixture(scope="module")
def with_option():
    return {option: documents(Profile("a100", **{option: value})) for option, (value, _, _) in OPTIONS.items()}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_changes_its_fields_and_nothing_else(option, a100, with_option):
    _, fields, _ = OPTIONS[option]
    paths = changed(a100, with_option[option])
    # a claim and a secret are written twice, the second time as a constant of a parameter that nobody uses
    ends = {field for field in fields for path in paths if path.replace("/", ".").endswith(field.replace("/", "."))}
    assert ends == fields
    stray = [
        path for path in paths if not any(path.replace("/", ".").endswith(field.replace("/", ".")) for field in fields)
    ]
    assert not stray


@pytest.mark.parametrize(
    "option", [name for name, (_, _, where) in OPTIONS.items() if where not in ("loops", "the run")]
)
def test_an_option_reaches_the_tasks_that_it_is_for(option, a100, with_option):
    before, after = table(a100), table(with_option[option])
    reached = {task for task in before if before[task] != after[task]}
    assert (
        reached
        == {EVERY: set(before), "GPU tasks": ON_GPU, "GPU tasks and plan": ON_GPU | {"plan"}}[OPTIONS[option][2]]
    )


def test_parallelism_bounds_every_loop(with_option):
    spec, _ = with_option["parallelism"]
    dags = [spec["root"]["dag"], *(item["dag"] for item in spec["components"].values() if "dag" in item)]
    loops = [task for dag in dags for task in dag["tasks"].values() if "parameterIterator" in task]
    assert len(loops) == 5
    assert {task["iteratorPolicy"]["parallelismLimit"] for task in loops} == {3}


def key_material(spec):
    """What KFP hashes of each task beside its input values: interface, image, command, arguments."""
    parts = {}
    for name, task in leaves(spec).items():
        definition = spec["components"][task["componentRef"]["name"]]
        container = spec["deploymentSpec"]["executors"][definition["executorLabel"]]["container"]
        parts[name] = (definition, task.get("inputs"), [container[part] for part in ("image", "command", "args")])
    return parts


@pytest.mark.parametrize("option", OPTIONS)
def test_no_option_enters_a_cache_key(option, a100, with_option):
    assert key_material(with_option[option][0]) == key_material(a100[0])


def test_retries_of_0_leave_no_policy():
    assert {found["retry"] for found in table(documents(Profile("cpu", retries=0))).values()} == {""}


def test_local_runs_are_told_nothing_of_clusters():
    (spec,) = documents(Profile())
    assert not any("resources" in item["container"] for item in spec["deploymentSpec"]["executors"].values())
    assert not any("retryPolicy" in task for task in leaves(spec).values())


# The command line -----------------------------------------------------------------------------------------------------


def test_the_command_line_compiles_what_its_options_say(tmp_path):
    words = [
        "--parallelism",
        "4",
        "--timeout",
        "600",
        "--deadline",
        "7200",
        "--retries",
        "3",
        "--queue",
        "gpus",
        "--store-secret",
        "mine",
        "--model-claim",
        "models",
        "--node-selector",
        "a=b",
        "--node-selector",
        "c.example/d=E",
        "--sft-nodes",
        "2",
        "--scratch-claim",
        "shared",
        "--image",
        IMAGES["gpu"],
    ]
    command = [
        sys.executable,
        "-m",
        "components.cli.main",
        "compile",
        "fine_tune",
        "-o",
        str(tmp_path / "made.yaml"),
        *words,
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    profile = Profile("a100", 4, 600, 7200, 3, {"a": "b", "c.example/d": "E"}, "gpus", "mine", "models", 2, "shared")
    expected = json.loads(
        json.dumps(documents(profile, "fine_tune")).replace("registry.example/cpu@", "registry.example/gpu@")
    )
    assert list(yaml.load_all((tmp_path / "made.yaml").read_text(), Loader=yaml.CSafeLoader)) == expected


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--profile", "h100"),
        ("--profile", "local"),
        ("--parallelism", "0"),
        ("--parallelism", "many"),
        ("--timeout", "0"),
        ("--timeout", "1h"),
        ("--deadline", "0"),
        ("--retries", "-1"),
        ("--retries", str(2**31)),
        ("--node-selector", "pool"),
        ("--node-selector", "=a100"),
        ("--node-selector", "pool=two words"),
        ("--queue", "My Queue"),
        ("--queue", "q" * 64),
        ("--store-secret", ""),
        ("--store-secret", "under_score"),
        ("--model-claim", "-x"),
        ("--sft-nodes", "0"),
        ("--scratch-claim", "A"),
    ],
)
def test_a_bad_value_ends_with_2_and_names_its_option(option, value, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        cli.main(["compile", "--image", IMAGES["gpu"], "-o", str(tmp_path / "made.yaml"), f"{option}={value}"])
    assert ended.value.code == 2
    assert option in re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)
    assert not (tmp_path / "made.yaml").exists()


def test_profile_cpu_has_no_gpu_nodes_to_select(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        cli.main(
            [
                "compile",
                "--profile",
                "cpu",
                "--node-selector",
                "a=b",
                "--image",
                IMAGES["gpu"],
                "-o",
                str(tmp_path / "made.yaml"),
            ]
        )
    assert ended.value.code == 2
    assert "--node-selector" in capsys.readouterr().err


if __name__ == "__main__":
    lines = {
        kind: {task: json.dumps(row) for task, row in table(documents(Profile(kind))).items()}
        for kind in ("a100", "cpu")
    }
    body = ",\n".join(
        f'"{kind}": {{\n' + ",\n".join(f'  "{task}": {text}' for task, text in rows.items()) + "\n}"
        for kind, rows in lines.items()
    )
    sys.stdout.write("{\n" + body + "\n}\n")
