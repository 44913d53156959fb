"""Predicted sizes of runs against two Workflows that KFP 2.17 and Argo 4.0.5 left (`recorded_workflows/`).

The pipeline that was compiled then is read back from the Workflow itself, whose arguments hold it.
"""

import base64
import functools
import gzip
import json
import lzma
import re
from pathlib import Path

import pytest

from components.core.errors import ParameterError
from components.kubeflow.client import defaults, read_package
from components.kubeflow.run_size import run_size, written_nodes
from components.plan.run_size import ARGO, CLIENT, ETCD, RunSize, estimated
from tests.command import motion_enhancer, python

RECORDED = Path(__file__).with_name("recorded_workflows")
COUNTS = [(1, 1), (2, 1), (4, 1), (8, 2), (10, 1), (44, 1), (60, 3)]
AFTER_SFT = ("report", "tuned-attention", "for-loop-5")  # what did not run where sft was killed


@functools.cache
def workflow(name):
    return json.loads(lzma.decompress((RECORDED / f"{name}.json.xz").read_bytes()))


def compiled(recorded):
    """The documents of the pipeline and the values of its parameters."""
    given = {item["name"]: item["value"] for item in recorded["spec"]["arguments"]["parameters"]}
    components, executors, pods = {}, {}, {}
    for name, text in given.items():
        kind, _, key = name.partition("-")
        found = json.loads(text)
        if "executorLabel" in found:
            label = found["executorLabel"]
            components[label.replace("exec-", "comp-")] = found
            executors[label] = {"container": json.loads(given[f"implementations-{key}"])}
        elif kind == "components" and key != "root":
            components[key] = found
        elif kind == "kubernetes":
            pods[key.replace("comp-", "exec-")] = found
    (entry,) = (item for item in recorded["spec"]["templates"] if item["name"] == "entrypoint")
    (runtime,) = (
        item["value"] for item in entry["dag"]["tasks"][0]["arguments"]["parameters"] if "runtime" in item["name"]
    )
    spec = {"pipelineInfo": {"name": "motion-enhancer"}, "root": json.loads(given["components-root"])}
    spec |= {"components": components, "deploymentSpec": {"executors": executors}}
    platform = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": pods}}}}
    return [spec, platform], json.loads(runtime)["parameterValues"]


def measured(recorded):
    """Nodes and bytes of a recorded Workflow, as Go writes JSON and zlib compresses at its level 5."""

    def size(value):
        return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())

    nodes = recorded["status"]["nodes"]
    text = json.dumps(nodes, ensure_ascii=False, separators=(",", ":")).encode()
    whole = size(recorded)
    packed = len(base64.b64encode(gzip.compress(text, 5)))
    return RunSize(len(nodes), whole, whole - len(text) + packed)


def described_then(kind, digest):
    """What artifacts were described by when the Workflows were recorded."""
    return {"digest": f"sha256:{digest}", "kind": kind, "lines": 3.0}


def near(predicted, wanted, tolerance):
    pairs = [(getattr(predicted, name), getattr(wanted, name)) for name in ("nodes", "whole", "packed")]
    return all(abs(one - other) <= tolerance * other for one, other in pairs)


def test_the_recorded_run_of_two_shards_to_the_node():
    recorded = workflow("workflow_2_shards")
    found, wanted = run_size(*compiled(recorded), described_then), measured(recorded)
    assert found.nodes == wanted.nodes == 187
    assert near(found, wanted, 0.02), (found, wanted)
    cut = len(recorded["metadata"]["name"])
    names = {item["name"][cut:] for item in recorded["status"]["nodes"].values()}
    predicted = written_nodes(*compiled(recorded))
    assert {item["name"][cut:] for item in predicted} == names


def test_what_ran_of_eight_shards_before_sft_was_killed():
    recorded = workflow("workflow_8_shards_sft_killed")
    (spec, platform), values = compiled(recorded)
    dag = spec["root"]["dag"]
    dag["tasks"] = {name: task for name, task in dag["tasks"].items() if name not in AFTER_SFT}
    del dag["outputs"]
    found, wanted = run_size([spec, platform], values, described_then), measured(recorded)
    assert near(found, wanted, 0.05), (found, wanted)
    assert found.whole > CLIENT  # the UI's Retry was refused: "larger than max (2318513 vs. 2097152)"
    assert abs(found.whole - 2318513) < 0.1 * 2318513


def test_bytes_of_the_nodes_as_argo_compressed_them():
    """128 KB and 237 KB were measured on that cluster, by Argo's own gzip; here it is zlib's."""
    for name, packed in (("workflow_2_shards", 128_000), ("workflow_8_shards_sft_killed", 237_000)):
        recorded = workflow(name)
        bare = len(json.dumps({**recorded, "status": {}}, ensure_ascii=False, separators=(",", ":")).encode())
        assert abs(measured(recorded).packed - bare - packed) < 0.1 * packed


@pytest.fixture(scope="module")
def predicted():
    """Sizes of the pipelines compiled for A100 nodes, by numbers of shards and benchmarks."""
    found = json.loads(python("-m", "tests.kubeflow.run_sizes", json.dumps(COUNTS)).stdout)
    return {name: [RunSize(**item) for item in sizes] for name, sizes in found.items()}


def test_what_plan_says_is_what_is_predicted(predicted):
    """After a change of parameters or outputs: `python -m tests.kubeflow.run_sizes`."""
    for name, sizes in predicted.items():
        for (shards, benchmarks), size in zip(COUNTS, sizes, strict=True):
            said = estimated(
                name, shards, benchmarks if name != "motion_priors" else 0, 2 if name == "ablations" else 0
            )
            assert said.nodes == size.nodes
            assert abs(said.whole - size.whole) < 0.02 * size.whole, (name, shards)
            assert abs(said.packed - size.packed) < 0.1 * size.packed, (name, shards)


def test_the_defaults_leave_room_for_the_uis_retry(whole_package):
    """All of motion_enhancer with its defaults, as it is compiled: specification, nodes, retries, GPUs."""
    documents = read_package(whole_package)
    found = run_size(documents, {})
    assert defaults(documents[0])["shards"] == ["0/2", "1/2"]
    assert found.nodes == 193
    assert found.whole < 1_400_000 < ETCD


def test_a_pod_mounts_its_secret_as_kfps_driver_writes_it(whole_package):
    """KFP 2.17's `driver/k8s.go`: volume and mount have the secret's name, and `optional` stands there always."""
    nodes = written_nodes(read_package(whole_package), {})
    given = [item for node in nodes for item in node.get("inputs", {}).get("parameters", [])]
    pods = [json.loads(item["value"]) for item in given if item["name"] == "pod-spec-patch"]
    name = "motion-enhancer-store"
    for pod in pods:
        assert {"name": name, "secret": {"secretName": name, "optional": True}} in pod["volumes"]
        mounts = pod["containers"][0]["volumeMounts"]
        assert {"name": name, "mountPath": "/etc/motion-enhancer/store"} in mounts
    assert pods


def test_a_size_forbids_what_it_is_too_large_for():
    assert not RunSize(1, ETCD, 1).warning
    assert "etcd takes unless" in RunSize(1, ETCD + 1, 1).warning
    assert "API server sends" in RunSize(1, CLIENT + 1, 1).warning
    RunSize(1, 2 * CLIENT, ARGO).check("shards")
    with pytest.raises(ParameterError, match="Argo keeps") as caught:
        RunSize(1, 2 * CLIENT, ARGO + 1).check("shards")
    assert "--gpus-per-shard" in str(caught.value)


@pytest.mark.parametrize(("shards", "code"), [(2, 0), (10, 0), (60, 2)])
def test_submit_says_it_and_stops_beyond_argos_limit(kubeflow, whole_package, capsys, shards, code):
    assert motion_enhancer("submit", whole_package, "--shards", shards, "--host", kubeflow.url) == code
    said = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert ("Retry of KFP's UI will be refused" in said) == (shards == 10)
    assert ("ends a run above it" in said) == (shards == 60)
    assert len(kubeflow.bodies("POST", "/apis/v2beta1/runs")) == (code == 0)
