"""Variants of one run: what they share is computed once, whatever ends in between, and nothing is silently left out."""

from collections import Counter
from itertools import product

import pytest

from components.core.artifacts import EvalResult
from components.runtime.variants import read_index
from components.store.entries import Store
from components.synthetic.scenes import write_set
from tests.ablations import Ablations

COUNT, ITEMS = 2, 1
SEEDS = [1, 2]
VARIANTS = [
    {"name": "aligned"},
    {"name": "1 step", "num_steps": 1},
    {"name": "no MHS", "params_head_selection": {"mhs": False}},
    {"name": "quarter", "head_ratio": 0.25, "token_ratio": 0.25},
    {"name": "plain SFT", "align_weight": 0},
    {"name": "uniform", "params_sft.prior_control": "uniform"},
    {"name": "other question", "params_benchmark_eval": {"system_prompt": "Answer in one letter."}},
    {"name": "as aligned", "num_steps": 2.0},
]
# of the variants above, those that are different work up to a step
TRAININGS = ("aligned", "1 step", "no MHS", "quarter", "plain SFT", "uniform")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A source and a benchmark."""
    tmp = tmp_path_factory.mktemp("ablations")
    write_set(tmp / "scenes", preset="scenes", count=COUNT, seed=5)
    write_set(tmp / "bench", preset="bench", count=ITEMS, seed=6)
    return tmp


@pytest.fixture(scope="module")
def ran(world):
    """All variants with both seeds, and the run's outputs."""
    run = Ablations(world, world / "store", world / "scenes", world / "bench", VARIANTS, SEEDS)
    run.run()
    return run


def entries(store):
    """How many pieces of work each step has done."""
    return Counter(path.relative_to(store).parts[0] for path in store.glob("*/*/entry.json"))


def ran_cases(run, task, name):
    """The cases that a task ran its step for, over the iterations of its loop."""
    found = [case for outputs in run.outputs[task] for case, _ in read_index(outputs[name])]
    return [case for case in found if not case.same_as]


def test_each_piece_of_work_is_done_once(ran):
    found = entries(ran.store)
    assert found["ddim_inversion"] == found["attention_capture"] == COUNT * 2  # numbers of steps
    assert len(ran_cases(ran, "ddim_inversion", "trajectories")) == 2
    assert len(ran_cases(ran, "head_selection", "heads")) == 4  # also of no heads left out, and of a quarter of them
    assert found["sft"] == len(TRAININGS) * len(SEEDS)
    assert len(ran_cases(ran, "sft", "model")) == len(TRAININGS) * len(SEEDS)
    evaluated = [*TRAININGS, "other question"]
    assert len(ran_cases(ran, "tuned_eval", "result")) == len(evaluated) * len(SEEDS)
    assert len(ran_cases(ran, "baseline_eval", "result")) == 2  # with either system prompt


def test_every_case_has_its_own_result(ran):
    store, found = Store((ran.store).as_uri()), {}
    for outputs in ran.outputs["tuned_eval"]:
        for case, folder in read_index(outputs["result"]):
            found[case.variant, case.seed] = store.opened(folder, EvalResult)
            assert case.benchmark == ran.shared["benchmarks"][0]
    assert set(found) == set(product([row["name"] for row in VARIANTS], SEEDS))
    digests = {key: result.digest for key, result in found.items()}
    for seed in SEEDS:
        assert digests["as aligned", seed] == digests["aligned", seed]
        assert digests["other question", seed] != digests["aligned", seed]
    made = {key: result.provenance["sft"] for key, result in found.items()}
    assert made["plain SFT", 2].scalars["align_weight"] == 0
    assert made["uniform", 1].params["prior_control"] == "uniform"
    assert {made["quarter", seed].scalars["seed"] for seed in SEEDS} == set(SEEDS)
    assert made["1 step", 1] == made["aligned", 1]  # the training's own parameters
    assert found["1 step", 1].provenance["ddim_inversion"].scalars["num_steps"] == 1
