"""The compiled pipelines: KFP's own specification, typed wires, caching, and which task each parameter reaches."""

import json
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp import compiler, dsl
from kfp.dsl.types.type_utils import InconsistentTypeException
from kfp.pipeline_spec import pipeline_spec_pb2

import pipeline
from components.kubeflow.component import component

GOLDEN = Path(__file__).with_name("parameters.json")
NAMES = ("motion_priors", "fine_tune", "motion_enhancer")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    specs = {}
    for name in NAMES:
        compiler.Compiler().compile(getattr(pipeline, name), str(folder / f"{name}.yaml"))
        specs[name] = next(yaml.load_all((folder / f"{name}.yaml").read_text(), Loader=yaml.CSafeLoader))
    return specs


def tasks(spec):
    """Every task of all DAGs: (component name, task)."""
    dags = [spec["root"]["dag"], *(item["dag"] for item in spec["components"].values() if "dag" in item)]
    return [(name, task) for dag in dags for name, task in dag["tasks"].items()]


def leaves(spec):
    return [
        (name, task)
        for name, task in tasks(spec)
        if "executorLabel" in spec["components"][task["componentRef"]["name"]]
    ]


def reached(spec):
    """Task names by the pipeline parameter that reaches them, through loops."""
    root = set(spec["root"]["inputDefinitions"]["parameters"])
    found = {name: set() for name in root}
    for name, task in leaves(spec):
        for value in task.get("inputs", {}).get("parameters", {}).values():
            source = value.get("componentInputParameter", "").removeprefix("pipelinechannel--")
            if source in root:
                found[source].add(name)
            for parameter in root:
                if source.startswith(f"{parameter}-loop-item"):
                    found[parameter].add(name)
    return {key: sorted(value) for key, value in sorted(found.items())}


@pytest.mark.parametrize("name", NAMES)
def test_is_a_pipeline_spec_without_unknown_fields(compiled, name):
    json_format.ParseDict(compiled[name], pipeline_spec_pb2.PipelineSpec())


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_default_that_old_forms_accept(compiled, name):
    for parameter, spec in compiled[name]["root"]["inputDefinitions"]["parameters"].items():
        assert spec.get("defaultValue") not in (None, "", 0, 0.0, False, [], {}), parameter


@pytest.mark.parametrize("name", NAMES)
def test_parameters_reach_only_the_tasks_of_the_golden_table(compiled, name):
    assert reached(compiled[name]) == json.loads(GOLDEN.read_text())[name]


@pytest.mark.parametrize("name", NAMES)
def test_arguments_and_command(compiled, name):
    for executor in compiled[name]["deploymentSpec"]["executors"].values():
        container = executor["container"]
        assert container["command"][:2] == ["python", "-m"]
        assert len(container["args"]) == 2
        assert container["args"][1] == "{{$}}"
        assert "@sha256:" in container["image"]


@pytest.mark.parametrize("name", NAMES)
def test_caching_is_on_everywhere_but_plan(compiled, name):
    for task_name, task in leaves(compiled[name]):
        assert task.get("cachingOptions", {}).get("enableCache", False) is (task_name != "plan"), task_name


def test_a_wrong_wire_fails_at_compile_time():
    def wrong():
        videos = component(pipeline.DATASET_IMPORT, form="training")(
            source="x", source_digest="y", store="z", params={"max_failed": 0.5}, rerun="0"
        )
        component(pipeline.ATTENTION_CAPTURE)(
            trajectories=videos.outputs["videos"],
            shard="0/1",
            vdm="x",
            num_steps=1,
            text="both",
            seed=1,
            store="z",
            params={"rows": 2},
            rerun="0",
        )

    with pytest.raises(InconsistentTypeException, match="VideoDataset"):
        dsl.pipeline(wrong, name="wrong")
