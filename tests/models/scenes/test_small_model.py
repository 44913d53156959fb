"""The small scenes model: its constructed VAE against closed forms, training that goes on exactly, and a card that is true or refused."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from components.core.errors import DataError, ParameterError
from components.media.scenes import VOCABULARY, draw, make_clip
from components.models.scenes.card import read_card
from components.models.scenes.code import closed_form, exact_inverse, make_vae
from components.models.scenes.data import TRAINING_SEEDS, VALIDATION_SEED, TrainingScenes, joined
from components.models.scenes.network import make_denoiser, noise_levels, save_pipeline, velocity_loss
from components.models.scenes.settings import Recipe
from components.models.scenes.text import make_tokenizer, unknown_words
from components.models.scenes.train import rate, train
from components.models.vdm import load_vdm

ROOT = Path(__file__).resolve().parents[3]
SMALL = Recipe(steps=4, batch=5, warmup=1, validation_clips=5)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def whole(one_thread, tmp_path_factory):
    """A checkpoint of four updates in one go."""
    return train(tmp_path_factory.mktemp("whole") / "model", SMALL, workers=0)


def scene_frames(index, size=48):
    return draw(make_clip("scenes", TRAINING_SEEDS[1], index, (size, size), 17).scene, (size, size))[0]


def test_the_vae_computes_the_closed_form():
    """Worked out here from the definition: mean and half differences of 4 × 4 pixels and 4 frames, the first frame alone."""
    frames = scene_frames(0)
    vae = make_vae(48)
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        code = vae.encode(pixels).latent_dist.mode()[0].permute(1, 0, 2, 3).numpy()
    assert np.abs(code - closed_form(frames)).max() < 0.03
    block = frames[1:5, 8:12, 16:20].astype(np.float64) / 127.5 - 1  # latent frame 1, row 2, column 4
    expected = [*5 * block.mean((0, 1, 2)), *10 * (block[:, :, :2].mean((0, 1, 2)) - block[:, :, 2:].mean((0, 1, 2))) / 2]
    expected += [*10 * (block[:, :2].mean((0, 1, 2)) - block[:, 2:].mean((0, 1, 2))) / 2]
    np.testing.assert_allclose(closed_form(frames)[1, :, 2, 4], expected, atol=1e-5)


def test_the_inverse_gives_back_what_the_code_can_tell():
    coarse = np.random.default_rng(0).integers(0, 256, (1, 24, 24, 3)).astype(np.uint8).repeat(2, 1).repeat(2, 2)
    flat = coarse.reshape(1, 12, 4, 12, 4, 3)
    flat = np.broadcast_to(flat.mean((2, 4), keepdims=True), flat.shape).reshape(1, 48, 48, 3).round().astype(np.uint8)
    np.testing.assert_allclose(exact_inverse(closed_form(flat.repeat(5, 0))), flat.repeat(5, 0), atol=0.01)


def test_the_real_loader_opens_it(whole):
    vdm = load_vdm(whole, "float32", "cpu")
    clip = torch.from_numpy(scene_frames(3))
    latents = vdm.encode_video(clip)
    assert latents.shape == (1, 5, 9, 12, 12)
    assert np.abs(latents[0].numpy() - closed_form(clip.numpy())).max() < 0.03
    pieces = vdm.tokenize("the red square moves left")
    assert [(piece.start, piece.end) for piece in pieces] == [(0, 3), (4, 7), (8, 14), (15, 20), (21, 25)]
    assert vdm.decode_latents(latents).shape == (17, 48, 48, 3)


def test_the_closed_vocabulary():
    tokenizer = make_tokenizer()
    assert all(unknown_words(word, tokenizer) == [] for word in VOCABULARY)
    assert unknown_words("the dog moves left and the dog stays") == ["dog"]


def test_training_lowers_the_loss_of_a_batch():
    model, alpha_bar = make_denoiser(0), noise_levels()
    scenes = TrainingScenes(TRAINING_SEEDS[2], 5, 0.0)
    batch = joined([scenes[position] for position in range(5)])
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
    for file in whole.rglob("*"):
        if file.is_file():
            assert (parts / file.relative_to(whole)).read_bytes() == file.read_bytes(), file.name
    logs = [(path.with_name(f"{path.name}-states") / "log.jsonl").read_text() for path in (whole, parts)]
    assert logs[0] == logs[1]
    assert [json.loads(line)["step"] for line in logs[0].splitlines()] == [1, 2, 3, 4]


def test_the_card_is_true_or_refused(whole, tmp_path):
    card = read_card(whole)
    assert sum(size for size, _ in card.files.values()) < 6_000_000
    assert 1_000_000 <= sum(card.parameters[part] for part in ("transformer", "text_encoder")) <= 1_500_000
    assert card.digest in (whole / "README.md").read_text()
    assert len(card.losses) == 5
    copy = shutil.copytree(whole, tmp_path / "copy")
    (copy / "scheduler" / "scheduler_config.json").write_text("{}")
    with pytest.raises(DataError, match="scheduler_config"):
        read_card(copy)


def test_other_recipes_states_and_existing_folders_are_refused(whole, tmp_path):
    with pytest.raises(ParameterError, match="exists"):
        train(whole, SMALL, workers=0)
    train(tmp_path / "model", SMALL, workers=0, stop_after=1)
    with pytest.raises(ParameterError, match="another recipe"):
        train(tmp_path / "model", SMALL.model_copy(update={"batch": 10}), workers=0)


def test_no_other_video_shares_a_training_seed():
    """No number of the reserved range stands anywhere in tests, benches, smoke settings or the Makefile but where it is reserved."""
    reserved = re.compile(r"\b7_?34[01]_?\d{3}\b")
    files = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("bench/*.py"), *ROOT.glob("components/**/*.py"), *ROOT.glob("components/**/*.json")]
    named = [path for path in [*files, ROOT / "Makefile"] if reserved.search(path.read_text())]
    assert [path.name for path in named] == ["data.py"]
    assert VALIDATION_SEED == TRAINING_SEEDS[-1] != TRAINING_SEEDS[SMALL.seed]
    with pytest.raises(ParameterError, match="scene seed 1"):
        TrainingScenes(1, 5, 0.1)


def test_the_learning_rate_ends_at_zero():
    assert [round(rate(step, 10, 2), 6) for step in (1, 2, 6, 10)] == [0.5, 1.0, 0.5, 0.0]


def test_half_precision_changes_little(tmp_path):
    model = make_denoiser(3)
    save_pipeline(model, tmp_path / "half")
    vdm = load_vdm(tmp_path / "half", "float32", "cpu")
    noisy, ids = torch.randn(1, 5, 9, 12, 12, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 16, dtype=torch.long)
    with torch.no_grad():
        ours = model.eval()(noisy, torch.tensor([500]), ids)
        theirs = vdm.velocity(noisy, 500, vdm.text_encoder(ids)[0])
    assert float((ours - theirs).norm() / ours.norm()) < 0.01
