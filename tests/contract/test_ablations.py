"""The pipeline `ablations` of eight variants and two seeds: how large it is, and how many tasks it executes."""

import pytest
import yaml

from components.kubeflow.arguments import pipeline
from components.kubeflow.compile import as_yaml
from components.kubeflow.task_graph import followers, task_graph
from tests.contract.specs import definition, leaves, tasks

TRAININGS = 16


@pytest.fixture(scope="module")
def text():
    return as_yaml(pipeline("ablations"))


@pytest.fixture(scope="module")
def spec(text):
    return next(yaml.safe_load_all(text))


def executed(spec, counts):
    """Tasks by name, each as often as the loop that it is in has items."""
    found = dict.fromkeys(leaves(spec), 1)
    for task in tasks(spec).values():
        if "parameterIterator" in task:
            over = task["parameterIterator"]["items"]["inputParameter"].removeprefix("pipelinechannel--")
            found |= dict.fromkeys(definition(spec, task)["dag"]["tasks"], counts[over])
    return found


def test_it_stays_small(text, spec):
    assert len(text.encode()) < 150_000
    found = executed(spec, {"shards": 1, "benchmarks": 1, "trial_shards": TRAININGS})
    assert found["sft"] == found["tuned-eval"] == TRAININGS
    assert sum(found.values()) == 13 + 2 * TRAININGS < 100


def test_what_variants_share_is_done_by_one_task(spec):
    """It takes the whole list of variants; the import of benchmarks and the page take none."""
    found = {name for name, task in leaves(spec).items() if "variants" in task["inputs"]["parameters"]}
    assert set(leaves(spec)) - found == {"benchmark-import", "comparison"}
    assert "seed" not in leaves(spec)["sft"]["inputs"]["parameters"]
    assert "benchmark" not in leaves(spec)["tuned-eval"]["inputs"]["parameters"]


def test_the_untouched_model_is_evaluated_beside_the_extraction(spec):
    graph = task_graph(spec)
    assert "baseline-eval" not in followers(graph, {"dataset-import"})
    assert {"sft", "tuned-eval", "comparison"} <= followers(graph, {"dataset-import"})
