"""The small scenes model in the place of a real one: codes, inversion, capture, captions, draws, balance, card."""

import json

import numpy as np
import pytest
import torch

from components.attention_capture.capture import CaptureSpec, capture_attention
from components.core.errors import DataError, ParameterError
from components.ddim_inversion.ddim import invert
from components.models.video import load_vdm
from components.models.video.interface import EncodedText
from components.synthetic.scenes import draw, make_clip
from components.synthetic.vdm.card import read_card, write_card
from components.synthetic.vdm.network import (
    LENGTH,
    SIZE,
    TRAINING_SEEDS,
    Architecture,
    Recipe,
    latent_grid,
    make_denoiser,
    make_tokenizer,
    save_pipeline,
)
from components.synthetic.vdm.train import TrainingScenes, by_noise
from components.synthetic.vdm.vae import DIFFERENCE_GAIN, MEAN_GAIN, TEMPORAL, closed_form
from tests.arithmetic import rounding

NUM_FRAMES = 17
GRID = latent_grid(NUM_FRAMES)
LOSSES = [0.1, 0.2, 0.3, 0.4, 0.5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A freshly initialized pipeline with a card."""
    made = save_pipeline(make_denoiser(1), tmp_path_factory.mktemp("fresh") / "model")
    write_card(made, Recipe(steps=7, seed=2), LOSSES)
    return made


@pytest.fixture(scope="module")
def vdm(folder):
    return load_vdm(folder, "float32", "cpu")


def clip(index, size=(SIZE, SIZE)):
    return draw(make_clip("scenes", 0, index, size, NUM_FRAMES).scene, size)[0]


def test_the_code_is_what_it_says():
    """By the definition: mean and half differences of 4 × 4 pixels and 4 frames, the first frame alone."""
    frames = clip(0)
    block = frames[1:5, 8:12, 16:20].astype(np.float64) / 127.5 - 1  # latent frame 1, row 2, column 4
    left, right, upper, lower = (
        half.mean((0, 1, 2)) for half in (block[:, :, :2], block[:, :, 2:], block[:, :2], block[:, 2:])
    )
    expected = [*5 * block.mean((0, 1, 2)), *5 * (left - right), *5 * (upper - lower)]
    np.testing.assert_allclose(closed_form(frames)[1, :, 2, 4], expected, atol=rounding(64, size=10.0))


def exact_inverse(codes):
    """The clip in [0, 255] of a code [F, C, y, x]: m ± h ± v in a block's quarters, four equal frames per latent."""
    gains = np.repeat([MEAN_GAIN, DIFFERENCE_GAIN, DIFFERENCE_GAIN], 3)
    mean, horizontal, vertical = np.split(codes.transpose(0, 2, 3, 1) / gains, 3, axis=-1)
    rows = []
    for sign_y in (1, -1):
        cells = [mean + sign_x * horizontal + sign_y * vertical for sign_x in (1, -1)]
        rows.append(np.stack(cells, axis=3))  # F y x 2 3
    quarters = np.stack(rows, axis=2)  # F y 2 x 2 3
    frames, height, _, width = quarters.shape[:4]
    pixels = quarters.reshape(frames, 2 * height, 2 * width, 3).repeat(2, axis=1).repeat(2, axis=2)
    video = np.concatenate([pixels[:1], pixels[1:].repeat(TEMPORAL, axis=0)])
    return (video + 1) * 127.5


def test_the_inverse_gives_back_what_the_code_can_tell():
    coarse = np.random.default_rng(0).integers(0, 256, (1, 24, 24, 3)).astype(np.uint8).repeat(2, 1).repeat(2, 2)
    flat = coarse.reshape(1, 12, 4, 12, 4, 3)
    flat = np.broadcast_to(flat.mean((2, 4), keepdims=True), flat.shape).reshape(1, 48, 48, 3).round().astype(np.uint8)
    np.testing.assert_allclose(exact_inverse(closed_form(flat.repeat(5, 0))), flat.repeat(5, 0), atol=0.01)


@pytest.mark.parametrize("size", [(SIZE, SIZE), (64, 96)])
def test_the_encoder_computes_the_closed_form(vdm, size):
    frames = clip(0, size)
    difference = np.abs(vdm.encode_video(frames)[0].numpy() - closed_form(frames))
    print(f"largest |encoder − closed form| {difference.max():.1e}")
    assert difference.max() < 1e-3


def test_the_decoder_is_a_picture_of_the_clip(vdm):
    frames = clip(3)
    codes = closed_form(frames)
    exact = exact_inverse(codes)
    decoded = vdm.decode_latents(torch.from_numpy(codes)[None]).numpy().astype(float)
    ratios = [10 * np.log10(255**2 / np.mean((video - frames) ** 2)) for video in (exact, decoded)]
    print(f"PSNR: exact inverse {ratios[0]:.1f}, decoder {ratios[1]:.1f}")
    assert ratios[0] > 26
    assert ratios[1] > 24


def test_half_latents_are_refused():
    for shape in ((16, 48, 48, 3), (17, 46, 48, 3)):
        with pytest.raises(ParameterError, match="whole latents"):
            closed_form(np.zeros(shape, np.uint8))


def test_it_inverts_and_shows_its_attention(vdm):
    text = "the red square moves left"
    clean, embeds, empty = vdm.encode_video(clip(0)), vdm.encode_text(text), vdm.encode_text("")
    found = invert(lambda x, t: vdm.velocity(x, t, empty), clean, vdm.levels(2))
    assert found.trajectory.shape == (3, *clean.shape)
    words = tuple(piece.index for piece in vdm.tokenize(text))
    with capture_attention(vdm.transformer, CaptureSpec(words, GRID, rows=8)) as maps:
        vdm.velocity(found.trajectory[1], 499, embeds)
    assert maps.t2v.shape == (8, 5, GRID[0] * GRID[1] * GRID[2])
    assert 0 < float(maps.t2v.sum(-1).min()) <= float(maps.t2v.sum(-1).max()) <= 1


def test_another_architecture(tmp_path):
    """Its sizes reach the network, the saved pipeline and the card."""
    sizes = Architecture(layers=1, heads=3, head_width=32, num_frames=9)
    model = make_denoiser(0, sizes)
    noisy, ids = torch.randn(1, 3, 9, 12, 12), torch.zeros(1, LENGTH, dtype=torch.long)
    with torch.no_grad():
        velocity = model.eval()(noisy, torch.tensor([500]), ids)
    assert velocity.shape == noisy.shape
    made = save_pipeline(model, tmp_path / "model", torch.float32)
    loaded = load_vdm(made, "float32", "cpu")
    config = loaded.transformer.config
    assert (config.num_attention_heads, len(loaded.transformer.transformer_blocks), config.sample_frames) == (3, 1, 9)
    # a layer of norm, q·k over 32, 16 + 432 keys, projections of 96, a layer of 384
    close = rounding(96 + 32 + 448 + 3 * 96 + 384, size=float(velocity.abs().max()))
    ours = loaded.velocity(noisy, 500, EncodedText(loaded.text_encoder(ids)[0]))
    torch.testing.assert_close(ours, velocity, atol=close, rtol=0)
    recipe = Recipe(**sizes.model_dump(), steps=1)
    assert write_card(made, recipe, LOSSES).num_frames == 9
    assert "FOLDER --layers 1 --heads 3 --head-width 32 --num-frames 9 --steps 1`" in (made / "README.md").read_text()
    assert TrainingScenes(TRAINING_SEEDS[0], 1, 0.0, 9)[0].clean_BFCyx.shape == noisy.shape


def test_recipes_outside_their_bounds_are_refused():
    """Frames that the VAE does not give back, and the validation seed."""
    for frames in (10, 13, 16):
        with pytest.raises(ValueError, match="choose 8k"):
            Architecture(num_frames=frames)
    with pytest.raises(ValueError, match="seed"):
        Recipe(seed=len(TRAINING_SEEDS) - 1)


def test_half_precision_changes_little(vdm):
    noisy = torch.randn(1, 5, 9, 12, 12, generator=torch.Generator().manual_seed(0))
    ids = torch.zeros(1, LENGTH, dtype=torch.long)
    with torch.no_grad():
        ours = make_denoiser(1).eval()(noisy, torch.tensor([500]), ids)
        theirs = vdm.velocity(noisy, 500, EncodedText(vdm.text_encoder(ids)[0]))
    assert float((ours - theirs).norm() / ours.norm()) < 0.01


def test_captions_are_known_and_fit():
    captions = {make_clip("scenes", 0, index, (32, 32), 9).caption for index in range(30)}
    tokenizer = make_tokenizer()
    assert not [caption for caption in captions if tokenizer.unk_token_id in tokenizer(caption).input_ids]
    assert max(len(caption.split()) for caption in captions) == LENGTH - 2


def test_words_are_tokens_and_others_unknown(vdm):
    pieces = vdm.read_text("the red dog moves left")
    assert [piece.token for piece in pieces] == ["▁the", "▁red", "<unk>", "▁moves", "▁left"]
    assert [piece.known for piece in pieces] == [True, True, False, True, True]
    assert [(piece.start, piece.end) for piece in pieces] == [(0, 3), (4, 7), (8, 11), (12, 17), (18, 22)]


def test_a_position_says_everything():
    scenes = TrainingScenes(TRAINING_SEEDS[3], 8, 0.1)
    for one, other in zip(scenes[5], TrainingScenes(TRAINING_SEEDS[3], 8, 0.1)[5], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(scenes[5].noise_BFCyx, scenes[6].noise_BFCyx)
    assert [int(scenes[index].timesteps_B) // 125 for index in range(8)] == list(range(8))
    dropped = TrainingScenes(TRAINING_SEEDS[3], 8, 0.999)[0].ids_BT[0].tolist()
    assert dropped == [make_tokenizer().eos_token_id] + [make_tokenizer().pad_token_id] * (LENGTH - 1)


def test_losses_by_noise():
    assert by_noise(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 199, 999])) == [2.0, None, None, None, 5.0]


def test_the_card_says_how_it_was_made(folder):
    card, page = read_card(folder), (folder / "README.md").read_text()
    assert card.losses == LOSSES
    assert card.scene_seed == TRAINING_SEEDS[2]
    assert "FOLDER --steps 7 --seed 2`" in page
    assert "0.1000 | 0.2000 | 0.3000 | 0.4000 | 0.5000" in page
    assert sum(card.parameters.values()) <= 1_500_000
    assert "$" not in page


@pytest.mark.parametrize("what", ["README.md", "training.json", "tokenizer/tokenizer.json", "more.txt"])
def test_a_card_that_is_not_true_is_refused(folder, what):
    file = folder / what
    before = file.read_bytes() if file.exists() else None
    try:
        if what == "training.json":
            file.write_text(json.dumps(json.loads(before) | {"digest": "0" * 64}))
        else:
            file.write_bytes((before or b"") + b" x")
        with pytest.raises(DataError):
            read_card(folder)
    finally:
        file.unlink() if before is None else file.write_bytes(before)
    read_card(folder)
