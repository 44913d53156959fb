"""The compiled pipelines: KFP's own specification, typed wires, caching, and which parameter reaches which task."""

import re
from pathlib import Path

import pytest
from google.protobuf import json_format
from kfp import dsl
from kfp.dsl.types.type_utils import InconsistentTypeException
from kfp.pipeline_spec import pipeline_spec_pb2
from pydantic_core import PydanticUndefined

from components.kubeflow.arguments import PIPELINES
from components.kubeflow.component import component
from components.kubeflow.descriptions import shared_fields
from components.runtime import parameters as declarations
from components.runtime.declaration import declared
from components.runtime.parameters import PipelineDefault
from components.steps import STEPS
from tests.command import python
from tests.contract.specs import container, leaves, parameters, step_of, tasks


def test_is_a_pipeline_spec_without_unknown_fields(spec):
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())


def test_every_parameter_has_a_default_that_old_forms_accept(spec):
    for name, definition in parameters(spec).items():
        assert definition.get("defaultValue") not in (None, "", 0, 0.0, False, [], {}), name


def test_compiling_gives_the_same_bytes_in_every_process():
    code = "from components.kubeflow.arguments import pipeline\nfrom components.kubeflow.compile import as_yaml\n"
    code += f"print(*[as_yaml(pipeline(name)) for name in {PIPELINES}])"
    one, other = (python("-c", code, PYTHONHASHSEED=seed).stdout for seed in "12")
    assert one == other
    assert one.count("# Kubeflow pipeline") == len(PIPELINES)


def test_a_shared_default_stands_once():
    """Steps declare a shared parameter by its field and give it no default of their own, whatever its name is."""
    known = {name: marks(field) for name, field in shared_fields().items()}
    text = Path(declarations.__file__).read_text()
    assert len(re.findall(r"\bPipelineDefault\(", text)) == len(known)
    assert all(len(found) == 1 for found in known.values())
    for step in map(declared, STEPS):
        for form in map(step.form, step.forms or [""]):
            for name, field in form.shared.model_fields.items():
                assert field.default in (PydanticUndefined, None), (step.name, name)
                assert marks(field) == known.get(name, []), (step.name, name)


def marks(field):
    return [mark for mark in field.metadata if isinstance(mark, PipelineDefault)]


def origin(value):
    """The pipeline parameter, the task or the constant that an input's value comes from."""
    if "taskOutputParameter" in value:
        return value["taskOutputParameter"]["producerTask"]
    if "runtimeValue" in value:
        return value["runtimeValue"]["constant"]
    return value["componentInputParameter"].removeprefix("pipelinechannel--")


def expected(spec, name, task, key):
    """What an input of a task must come from: the parameter of its name, or the task's own one."""
    own = {"params": f"params_{step_of(spec, task)}", "rerun": f"rerun_{name.replace('-', '_')}"}
    looped = {"shard": "shards-loop-item", "benchmark": "benchmarks-loop-item", "trial_shard": "trial_shards-loop-item"}
    return "plan" if key.endswith("_digest") else {**own, **looped}.get(key, key)


def test_every_input_comes_from_the_parameter_of_its_name(spec):
    used = set()
    for name, task in leaves(spec).items():
        found = {key: origin(value) for key, value in task["inputs"]["parameters"].items()}
        if name == "plan":  # it is never cached
            assert found.pop("rerun") == "0"
        assert found == {key: expected(spec, name, task, key) for key in found}, name
        used |= {value.removesuffix("-loop-item") for value in found.values() if name != "plan"}
    assert used == {*parameters(spec), "plan"} - {"priors", "over_limits"}


def test_loops_run_over_the_list_of_their_name(spec):
    for task in tasks(spec).values():
        if "parameterIterator" in task:
            loop = task["parameterIterator"]
            assert loop["itemInput"] == f"{loop['items']['inputParameter']}-loop-item"


def test_arguments_and_command_and_caching_of_all_but_plan(spec):
    for name, task in leaves(spec).items():
        asked = container(spec, task)
        assert asked["command"][:3] == ["python", "-m", "components"]
        assert [word.replace("_", "-") for word in asked["args"]] == [name, "{{$}}"]
        assert "@sha256:" in asked["image"]
        assert task.get("cachingOptions", {}).get("enableCache", False) is (name != "plan"), name


def test_local_runs_ask_for_nothing_of_a_cluster(documents):
    (spec,) = documents  # no document for Kubernetes
    for task in leaves(spec).values():
        assert "resources" not in container(spec, task)
        assert "retryPolicy" not in task


def test_a_wrong_wire_fails_at_compile_time():
    def wrong():
        shared = {"store": "z", "store_patience": 1.0, "rerun": "0"}
        imported = component(declared("dataset_import"), form="training")
        videos = imported(source="x", source_digest="y", params={"max_failed": 0.5}, **shared).outputs["videos"]
        shared |= {"shard": "0/1", "vdm": "x", "num_steps": 1, "text": "both", "seed": 1, "params": {"rows": 2}}
        component(declared("attention_capture"))(trajectories=videos, **shared)

    with pytest.raises(InconsistentTypeException, match="VideoDataset"):
        dsl.pipeline(wrong, name="wrong")
