"""What the KFP UI shows of the pipelines: a description of every parameter, titles, and something to look at."""

import json
import re

import pytest
from pydantic import BaseModel

from components.kubeflow.descriptions import help_of, shared_fields
from components.runtime.declaration import declared
from components.runtime.parameters import pipeline_default
from components.steps import STEPS
from tests.contract.specs import definition, leaves, parameters, tasks

RENDERED = {"system.Metrics", "system.Markdown", "system.HTML"}


def test_shared_parameters_are_the_declarations_own(spec):
    shared = {name: field for name, field in shared_fields().items() if name in parameters(spec)}
    assert set(shared) >= {"store", "seed", "shards"}
    for name, field in shared.items():
        assert parameters(spec)[name]["description"] == field.description
        assert parameters(spec)[name]["defaultValue"] == pipeline_default(field)


def test_the_description_lists_every_parameter_in_the_forms_order(spec):
    lines = spec["pipelineInfo"]["description"].splitlines()
    assert [found[1] for line in lines if (found := re.match(r"- (\w+) – \S.*", line))] == sorted(parameters(spec))
    for name, item in parameters(spec).items():
        assert item["description"] == help_of(name)


def test_a_rerun_parameter_belongs_to_a_task(spec):
    reruns = [name.removeprefix("rerun_").replace("_", "-") for name in parameters(spec) if name.startswith("rerun_")]
    assert set(reruns) <= set(leaves(spec))


@pytest.mark.parametrize("name", STEPS)
def test_every_field_is_described(name):
    def check(model):
        for field, info in model.model_fields.items():
            if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
                check(info.annotation)
            else:
                assert info.description, f"{name}.{field}"

    check(declared(name).params)


def test_every_task_and_loop_has_a_title_of_its_own(spec):
    titles = {name: task["taskInfo"]["name"] for name, task in tasks(spec).items()}
    assert not set(titles) & set(titles.values())  # KFP's own title is the task's name
    assert len(set(titles.values())) == len(titles)


def test_loops_differ_in_what_the_graph_has_room_for(spec):
    """The UI shows about 14 characters of a title."""
    loops = [task["taskInfo"]["name"] for task in tasks(spec).values() if "parameterIterator" in task]
    assert len({name[:12] for name in loops}) == len(loops) > 0
    assert all(name[0].isdigit() for name in loops)


def test_outputs_are_python_names_and_every_step_shows_something(spec):
    for name, task in leaves(spec).items():
        outputs = definition(spec, task)["outputDefinitions"]
        artifacts = outputs.get("artifacts", {})
        assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", key) for key in (*artifacts, *outputs.get("parameters", {})))
        assert RENDERED & {item["artifactType"]["schemaTitle"] for item in artifacts.values()}, name


def test_the_description_is_small_enough_for_every_kfp(spec):
    """Servers before 2.16 keep 65535 bytes of it."""
    assert len(json.dumps(spec["pipelineInfo"]["description"], ensure_ascii=False).encode()) < 32_000
