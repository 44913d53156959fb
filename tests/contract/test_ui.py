"""What the KFP UI shows of the pipelines: a description with every parameter, titles on tasks and loops, outputs with names that speak."""

import json
import re

import pytest
import yaml
from kfp import compiler

import pipeline
from components.kubeflow.descriptions import help_of
from components.runtime.parameters import Scalars
from docs.generate import STEPS, declaration

NAMES = ("motion_priors", "fine_tune", "motion_enhancer")
RENDERED = {"system.Metrics", "system.Markdown", "system.HTML"}


@pytest.fixture(scope="module", params=NAMES)
def spec(request, tmp_path_factory):
    """A pipeline as its compiled file says it."""
    file = tmp_path_factory.mktemp("ui") / "pipeline.yaml"
    compiler.Compiler().compile(getattr(pipeline, request.param), str(file))
    return next(yaml.load_all(file.read_text(), Loader=yaml.CSafeLoader))


def dags(spec):
    return [spec["root"]["dag"], *(item["dag"] for item in spec["components"].values() if "dag" in item)]


def parameters(spec):
    return spec["root"]["inputDefinitions"]["parameters"]


def lines_of(spec):
    return spec["pipelineInfo"]["description"].splitlines()


# Descriptions ---------------------------------------------------------------------------------------------------------


def test_the_description_begins_with_what_the_pipeline_does(spec):
    first, *_ = lines_of(spec)
    assert len(first.split()) > 8
    assert first.endswith(".")


def test_the_description_has_one_line_a_parameter_in_the_forms_order(spec):
    listed = [found[1] for line in lines_of(spec) if (found := re.match(r"- (\w+) – \S.*", line))]
    assert listed == sorted(parameters(spec))


def test_the_help_is_the_declarations_own(spec):
    shared = set(parameters(spec)) & set(Scalars.model_fields)
    assert shared >= {"store", "seed", "shards"}
    for name in shared:
        text = Scalars.model_fields[name].description
        assert f"- {name} – {text}" in lines_of(spec)
        assert parameters(spec)[name]["description"] == text
        assert parameters(spec)[name]["defaultValue"] == getattr(Scalars(), name)


def test_every_field_of_a_steps_parameters_has_its_line(spec):
    for name in parameters(spec):
        if name.startswith("params_"):
            lines = lines_of(spec)
            start = next(number for number, line in enumerate(lines) if line.startswith(f"- {name} "))
            block = [line.strip() for line in lines[start + 1 :]]
            block = block[
                : next((number for number, line in enumerate(lines[start + 1 :]) if line.startswith("- ")), len(block))
            ]
            for field, info in declaration(name.removeprefix("params_")).params.model_fields.items():
                assert field in parameters(spec)[name]["description"]
                inner = getattr(info.annotation, "model_fields", None)
                for key, item in (
                    {f"{field}.{key}": item for key, item in inner.items()}.items() if inner else [(field, info)]
                ):
                    assert f"- {key} – {item.description}" in block


def test_every_input_has_a_description_in_the_file(spec):
    for name, item in parameters(spec).items():
        assert item.get("description") == help_of(name), name
        assert "\n" not in item["description"]


def test_a_nonce_says_which_task_it_is_for(spec):
    for name in parameters(spec):
        if name.startswith("rerun_"):
            assert name.removeprefix("rerun_").replace("_", "-") in {
                task for dag in dags(spec) for task in dag["tasks"]
            }
            assert name.removeprefix("rerun_").replace("_", "-") in parameters(spec)[name]["description"]


def test_an_undescribed_parameter_is_an_error():
    with pytest.raises(KeyError):
        help_of("new_parameter")


@pytest.mark.parametrize("name", STEPS)
def test_every_field_is_described(name):
    def check(model):
        for field, info in model.model_fields.items():
            inner = info.annotation
            if isinstance(inner, type) and hasattr(inner, "model_fields"):
                check(inner)
            else:
                assert info.description, f"{name}.{field}"

    check(declaration(name).params)


# The graph ------------------------------------------------------------------------------------------------------------


def test_every_task_and_loop_has_a_title(spec):
    found = []
    for dag in dags(spec):
        for name, task in dag["tasks"].items():
            title = task["taskInfo"]["name"]
            assert title[:1].isupper() or title[:1].isdigit(), title
            assert title != name
            assert "-" not in title.split(" ")[0], title  # for-loop-1 is what KFP says by itself
            if name.startswith("for-loop"):
                assert re.match(r"(Shards|Benchmarks): \w+", title)
            found.append(title)
    assert len(found) == len(set(found))


def test_outputs_have_names_that_speak(spec):
    seen = set()
    for component in spec["components"].values():
        if "executorLabel" in component:
            outputs = component.get("outputDefinitions", {})
            artifacts = outputs.get("artifacts", {})
            seen |= {(name, item["artifactType"]["schemaTitle"]) for name, item in artifacts.items()}
            for name in (*artifacts, *outputs.get("parameters", {})):
                assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
                assert len(name) >= 4
                assert name not in {"output", "outputs", "data", "artifact", "file", "files", "value"}
    titles = {}
    for name, title in seen:
        if title not in RENDERED:
            titles.setdefault(title, set()).add(name)
    assert all(len(names) == 1 for names in titles.values()), titles  # a kind has one name wherever it is made
    assert (
        len({name for names in titles.values() for name in names}) >= len(titles) - 1
    )  # AttentionMaps and VlmMaps are both maps


def test_a_person_finds_something_to_look_at_at_every_step(spec):
    for name, component in spec["components"].items():
        if "executorLabel" in component:
            kinds = {
                item["artifactType"]["schemaTitle"]
                for item in component["outputDefinitions"].get("artifacts", {}).values()
            }
            assert kinds & RENDERED, name


def test_the_description_is_small_enough_for_every_kfp(spec):
    """Servers before 2.16 keep 65535 bytes of it."""
    assert len(json.dumps(spec["pipelineInfo"]["description"], ensure_ascii=False).encode()) < 32_000
