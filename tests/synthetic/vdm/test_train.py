"""Training the small scenes model: the loss in closed form, a run that goes on exactly, the card, its own seeds."""

import re

import pytest
import torch

from components.core.errors import ParameterError
from components.kubeflow.tree import ROOT
from components.synthetic.training import rate
from components.synthetic.vdm.card import read_card
from components.synthetic.vdm.network import (
    TRAINING_SEEDS,
    VALIDATION_SEED,
    Architecture,
    Recipe,
    make_denoiser,
    noise_levels,
    velocity_loss,
)
from components.synthetic.vdm.train import TrainingScenes, VideoModelTraining, train
from tests.synthetic.trainings import assert_same_training

TINY = Architecture(layers=1, heads=2, num_frames=9)
SMALL = Recipe(**TINY.model_dump(), steps=4, batch=5, warmup=1, validation_clips=5)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def whole(one_thread, tmp_path_factory):
    """A checkpoint of four updates in one go."""
    return train(tmp_path_factory.mktemp("whole") / "model", SMALL, workers=0)


def test_training_lowers_the_loss_of_a_batch():
    model, alpha_bar = make_denoiser(0, TINY), noise_levels()
    scenes = TrainingScenes(TRAINING_SEEDS[2], 5, 0.0, TINY.num_frames)
    batch = VideoModelTraining.joined([scenes[position] for position in range(5)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3)
    losses = []
    for _ in range(8):
        loss = velocity_loss(model, *batch, alpha_bar).mean()
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.8 * losses[0]


def test_v_is_what_the_schedule_says():
    """With no signal left v is −x₀, with no noise it is ε."""
    x, e = torch.full((2, 5, 9, 12, 12), 2.0), torch.full((2, 5, 9, 12, 12), 3.0)

    class Asked(torch.nn.Module):
        def forward(self, noisy, timesteps, ids):
            return torch.zeros_like(noisy)

    alpha_bar = torch.cat([torch.ones(1), torch.zeros(999)])
    losses = velocity_loss(Asked(), x, e, torch.tensor([0, 999]), torch.zeros(2, 16, dtype=torch.long), alpha_bar)
    assert losses.tolist() == [9.0, 4.0]
    assert float(noise_levels()[-1]) == 0.0


def test_a_resumed_training_is_the_same_bit_for_bit(whole, tmp_path):
    folder = tmp_path / "model"
    assert train(folder, SMALL, workers=0, stop_after=2) is None
    assert not folder.exists()
    parts = train(folder, SMALL, workers=0)
    assert read_card(parts).recipe == SMALL
    assert_same_training(whole, parts, 4)


def test_other_recipes_states_and_existing_folders_are_refused(whole, tmp_path):
    with pytest.raises(ParameterError, match="exists"):
        train(whole, SMALL, workers=0)
    train(tmp_path / "model", SMALL, workers=0, stop_after=1)
    with pytest.raises(ParameterError, match="another recipe"):
        train(tmp_path / "model", SMALL.model_copy(update={"batch": 10}), workers=0)


def test_no_other_video_shares_a_training_seed():
    """No number of the reserved range stands in tests, benches, settings or the Makefile but where it is reserved."""
    reserved = re.compile(r"\b7_?3(?:4[01]|50)_?\d{3}\b")
    patterns = ("tests/**/*.py", "bench/*.py", "components/**/*.py", "components/**/*.json", "Makefile")
    files = [file for pattern in patterns for file in ROOT.glob(pattern)]
    # where they are reserved, and the shipped model's record of them
    assert {file.name for file in files if reserved.search(file.read_text())} == {"network.py", "training.json"}
    assert VALIDATION_SEED == TRAINING_SEEDS[-1] != TRAINING_SEEDS[SMALL.seed]
    with pytest.raises(ParameterError, match="scene seed 1"):
        TrainingScenes(1, 5, 0.1)


def test_the_learning_rate_ends_at_zero():
    assert [round(rate(step, 10, 2), 6) for step in (1, 2, 6, 10)] == [0.5, 1.0, 0.5, 0.0]
