"""What a leakage check excludes is no training sample; the model's manifest, card and log of samples say so."""

import pytest

from components.core import artifacts as a
from components.core.errors import DataError
from components.core.records import StepRecord
from components.sft.page import card
from components.sft.step import STEP
from tests.runner import published, put_manifest, run_step
from tests.sft.conftest import FAST, QWEN


def leakage(folder, lines, excluded):
    """A report that says so of these lines' videos."""
    more = {"training_name": "x.mp4", "benchmark": "f" * 64, "benchmark_name": "y.mp4", "protocols": ["favor"]}
    pairs = [a.Leak(kind="file", training=line.video.id, **more) for line in lines]
    record = StepRecord(version="1", params={}, scalars={})
    fields = {"training": 6, "benchmarks": {"favor": 9}, "pairs": pairs, "excluded": [one.video.id for one in excluded]}
    return put_manifest(folder, a.LeakageReport(kind="LeakageReport", provenance={"leakage_check": record}, **fields))


def train(world, tmp_path, lines, excluded):
    folder, found = world
    inputs = {"maps": found[QWEN], "leakage": leakage(tmp_path / "leakage", lines, excluded)}
    return run_step(STEP, tmp_path, folder / "store", {**FAST, "max_steps": 1}, {"vlm": QWEN}, inputs, form="checked")


def test_samples_of_an_excluded_video_are_left_out_and_said(world, made_priors, tmp_path):
    _, lines, _ = made_priors
    model = published(train(world, tmp_path, lines[:3], lines[:2]), "model", a.TunedModel)
    assert (model.samples, model.videos) == (4, 4)
    assert {item.unit: item.reason for item in model.left_out} == {
        line.sample.id: "leak: the same file as y.mp4 of favor" for line in lines[:2]
    }
    assert model.leakage.excluded_samples == model.leakage.excluded_videos == 2
    assert model.leakage.found == {"favor": {"file": 1}}
    assert "leakage_check" in model.provenance
    assert "6 training videos against favor: 2 training videos (2 samples) left out of training." in card(model)


def test_nothing_left_to_train_on_names_the_check(world, made_priors, tmp_path):
    _, lines, _ = made_priors
    with pytest.raises(DataError, match="leakage_check"):
        train(world, tmp_path, lines, lines)
