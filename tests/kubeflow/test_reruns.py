"""The reference's table "which parameter re-runs what", and the compiled graph behind it."""

import re

import pytest

import pipeline
from components.kubeflow.task_graph import followers, parameter_tasks, task_graph
from docs import generate as docs

TABLE = (docs.DOCS / "reference.md").read_text().split("<!-- generated: reruns -->")[1].split("<!-- end: reruns -->")[0]
AFTER_PRIORS = "leakage-check vlm-attention sft tuned-eval tuned-attention report"
AFTER_CAPTURE = f"head-selection token-selection prior-set {AFTER_PRIORS}"


def rows():
    """By parameter and pipeline ("" where a row is for all): the tasks that it executes, and those that follow."""
    found = {}
    for line in TABLE.splitlines():
        if line.startswith("| `"):
            names, *cells = line.split("|")[1:4]
            for name, made in re.findall(r"`(\w+)`(?: \((\w+)\))?", names):
                assert (name, made) not in found
                found[name, made] = [set(re.findall(r"`([\w-]+)`", cell)) for cell in cells]
    return found


def row(name, made=""):
    """What the README says of a parameter, in a pipeline with a row of its own for it or in all others."""
    return rows().get((name, made)) or rows()[name, ""]


@pytest.mark.parametrize(
    ("name", "executed", "following"),
    [
        ("token_ratio", "token-selection", f"prior-set {AFTER_PRIORS}"),
        ("rerun_attention_capture", "attention-capture", AFTER_CAPTURE),
        ("rerun_sft", "sft", "tuned-eval tuned-attention report"),
        ("align_weight", "sft", "tuned-eval tuned-attention report"),
        ("rerun_baseline_eval", "baseline-eval", "report"),
        ("rerun_report", "report", ""),
        ("vlm", "vlm-attention sft baseline-eval", "tuned-eval tuned-attention report"),
        ("source", "dataset-import", f"ddim-inversion attention-capture {AFTER_CAPTURE}"),
        ("rerun_vlm_attention", "vlm-attention", "sft tuned-eval tuned-attention report"),
    ],
)
def test_known_rows(name, executed, following):
    """By hand, from the method's steps and what was seen executed in local runs."""
    assert row(name) == [set(executed.split()), set(following.split())]


def test_the_baseline_stays_cached_whatever_happens_to_priors_and_training():
    names = "token_ratio head_ratio num_steps text align_weight params_sft rerun_attention_capture rerun_sft"
    for name in names.split():
        assert "baseline-eval" not in set.union(*row(name))


def test_in_fine_tune_the_same_name_may_reach_less():
    assert row("priors", "fine_tune") == [{"prior-set"}, set(AFTER_PRIORS.split())]
    following = {"leakage-check", "sft", "baseline-eval", "tuned-eval", "tuned-attention", "report"}
    assert row("params_dataset_import", "fine_tune") == [{"benchmark-import"}, following]
    assert row("seed", "fine_tune")[0] == {"sft"}


@pytest.mark.parametrize("made", docs.ALONE)
def test_every_parameter_of_every_pipeline_does_what_its_row_says(made):
    """With the tasks that the pipeline has."""
    spec = getattr(pipeline, made).pipeline_spec
    tasks, reached = task_graph(spec), parameter_tasks(spec)
    for name, direct in reached.items():
        digest = ("plan", f"{name.removesuffix('s')}_digest")
        first = {*direct, *(task for task, sources in tasks.items() if digest in sources)} - {"plan"}
        executed, following = row(name, made)
        assert followers(tasks, first) == (executed | following) & set(tasks), name
    assert {name for name, of in rows() if of in ("", made)} >= set(reached)
