"""The training bench: its sides compute the same, its count of the processes' memory, and the 7B's real shape."""

import json

import pytest
import torch

from bench import loading, step_7b, training
from bench.language import SETUP
from components.models.vlm.model import load_vlm
from components.sft.processes import joined

CACHES = (training.step, training.sample, training.model)
OFFICIAL_BYTES = 16_584_333_312  # the published checkpoint's total_size, two bytes a parameter


@pytest.fixture
def small(monkeypatch):
    """The bench with a small model and a process group that ends with the test."""
    sizes = {"hidden": 64, "feed_forward": 128, "layers": 2, "heads": 4, "sections": [2, 3, 3]}
    monkeypatch.setattr(training, "SETUP", SETUP._replace(dtype=torch.float32, **sizes))
    monkeypatch.setattr(training, "NUM_FRAMES", 4)
    for one in CACHES:
        one.cache_clear()
    with joined(1.0) as group:
        for module in (training, step_7b):
            monkeypatch.setattr(module, "processes", lambda: group)
        yield
    for one in CACHES:
        one.cache_clear()


def test_sides_start_alike_and_alignment_changes_the_second_step(small):
    training.check_agreement()
    aligned, plain = (training.step(side)() for side in ("aligned", "plain"))
    assert aligned != plain


def test_sides_that_differ_are_refused(small):
    """An update later one side is ahead."""
    training.step("trainer")()
    with pytest.raises(RuntimeError, match="losses of the first two steps differ"):
        training.check_agreement()


def test_processes_memory_is_added_up_at_one_time():
    """Two processes' peaks at different times do not add up; at the same time they do."""
    one = [(0.0, 0, 0), (1.0, 0, 90), (3.0, 0, 10)]
    assert loading._most([*one, (0.0, 1, 0), (4.0, 1, 70)]) == 90
    assert loading._most([*one, (0.0, 1, 0), (2.0, 1, 70)]) == 160


def test_the_7b_has_its_real_shape(tmp_path):
    folder = step_7b.write_config(tmp_path / "7b", layers=28)
    vlm = load_vlm(folder, torch.float32, "cpu", rows=False, weights=False)
    assert 2 * sum(one.numel() for one in vlm.model.parameters()) == OFFICIAL_BYTES
    item = training.make_sample(folder, *step_7b.CLIP, step_7b.PRIOR)
    assert 2048 <= len(item.example.input_ids) <= 4096


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_tiny_step_is_measured(small, tuning, weight):
    found = json.loads(json.dumps(step_7b.measured(tuning, weight, layers=28, steps=2, tiny=True)))
    assert len(found["all"]) == 2
    assert min(found["all"]) > 0
    assert found["flops"] > 0
