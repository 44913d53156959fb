"""The alignment bench's maps, rows, losses and measures against other ways to get them; its seeds are its own."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

import bench.align as a
from bench import align_data as data
from bench.align_data import GRID, IDS, SIZE, VDM_STEPS, at_frames, make_example, make_scenes, moving_colour
from bench.align_model import batch_distance, evaluate, make_model, object_auc, pick
from components.attention_capture.sample import capture_sample
from components.attention_capture.step import Params as CaptureParams
from components.core.text import Part
from components.ddim_inversion.ddim import invert
from components.kubeflow.descriptions import shared_fields
from components.media.map_algebra import map_distance
from components.models.registry import ensure_tiny
from components.models.video import load_vdm
from components.models.vlm.example import collate
from components.models.vlm.rows import request_rows
from components.runtime.parameters import pipeline_default
from components.synthetic.scenes import draw, make_clip
from components.synthetic.vdm.network import TRAINING_SEEDS

WORDS = {index: word for word, index in IDS.items()}
EDGES = np.array([-0.5, 0.5, 4.5, 8.5, 12.5, 16.5]) * 2.5 / 16  # of the video model's latents, in seconds


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(5, 32)


def test_rows_and_logits_equal_eager_attention(scenes):
    """Each clip as a video of its own through eager attention, against joined clips and captured rows."""
    vlm, eager = make_model(0), make_model(0)
    eager.model.set_attn_implementation("eager")
    index = torch.tensor([4, 0, 9])
    whole = collate([make_example(scenes.frames_NnHW3[i].numpy(), moving_colour(scenes.clips[i])) for i in index])
    arguments = eager.arguments(whole)
    with torch.no_grad():
        full = eager.model(**arguments, use_cache=False, output_attentions=True)
        batch = pick(scenes.batch, index)
        found = vlm.forward(batch, request_rows(batch, [scenes.question_rows_R] * 3))
    maps_BNN = torch.stack(full.attentions).mean((0, 2))
    cells = torch.nonzero(whole["input_ids"][0] == IDS["<video>"]).flatten()
    expected = maps_BNN[:, scenes.question_rows_R][..., cells]
    assert float(expected.std()) > 1e-4
    assert torch.allclose(found.rows_BRS, expected, atol=1e-6)
    at = torch.tensor([scenes.answer_at - 1, scenes.answer_at])
    assert torch.allclose(found.logits_BLV, full.logits[:, at], atol=1e-5)


def test_right_answers_are_counted_one_by_one(scenes):
    vlm = make_model(1)
    found = evaluate(vlm, scenes, 8)
    right = []
    for i in range(8):
        example = make_example(scenes.frames_NnHW3[i].numpy(), moving_colour(scenes.clips[i]))
        with torch.no_grad():
            logits = vlm.forward(collate([example]), all_logits=True).logits_BLV[0, scenes.answer_at - 1]
        best = max(data.ANSWERS, key=lambda colour: float(logits[colour]))
        right.append(WORDS[best] == moving_colour(scenes.clips[i]))
    assert found.right_N.tolist() == right
    assert found.accuracy == sum(right) / 8
    assert found.question_NFhw.shape == found.last_NFhw.shape == (8, 3, 5, 5)


def test_frame_difference_of_a_clip_cell_by_cell(scenes):
    """Frame k stands for the change since the one before, the first for the change to the second."""
    frames = scenes.frames_NnHW3[7].numpy().astype(float)
    change = [abs(frames[1] - frames[0])] + [abs(frames[k] - frames[k - 1]) for k in range(1, 6)]
    naive = np.zeros((3, 5, 5))
    for f, y, x in product(range(3), range(5), range(5)):
        cell = [change[k][8 * y : 8 * y + 8, 8 * x : 8 * x + 8].mean() for k in (2 * f, 2 * f + 1)]
        naive[f, y, x] = sum(cell) / 2
    assert np.allclose(data.frame_differences(scenes)[7].numpy(), naive / naive.mean(), rtol=1e-4)
    assert GRID.shape == naive.shape


def test_masks_are_shares_of_cells_and_noise_has_its_deviation(scenes):
    clean, mover, ids = draw(scenes.clips[3].scene, SIZE)
    for mask, found in ((mover > 0, scenes.mover_NFhw[3]), ((ids > 0) & (mover == 0), scenes.static_NFhw[3])):
        naive = mask.reshape(3, 2, 5, 8, 5, 8).mean((1, 3, 5))
        assert np.allclose(found.numpy(), naive, atol=1e-6)
        assert naive.max() > 0.25
    noise = scenes.frames_NnHW3[3].numpy()[ids == 0].astype(float) - clean[ids == 0]
    assert noise.std() == pytest.approx(6, rel=0.03)


def test_object_auc_by_pairs_of_pixels(scenes):
    maps = torch.rand(32, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    naive = []
    for clip, map_Fhw in zip(scenes.clips, maps, strict=True):
        _, mover, ids = draw(clip.scene, SIZE)
        pixels = map_Fhw.numpy().repeat(2, 0).repeat(8, 1).repeat(8, 2)
        one, other = pixels[mover > 0], pixels[(ids > 0) & (mover == 0)]
        naive.append(((one[:, None] > other) + 0.5 * (one[:, None] == other)).mean())
    assert object_auc(maps, scenes) == pytest.approx(np.mean(naive), abs=1e-6)


def test_more_frames_show_the_same_courses():
    for index in range(4):
        scene = make_clip("scenes", 5, index, SIZE, 6).scene
        finer = at_frames(scene, 16)  # every third frame is one of the six
        pairs = zip(finer.bodies, scene.bodies, strict=True)
        assert all(np.allclose(fine.centres[::3], body.centres, atol=1e-12) for fine, body in pairs)
        assert np.array_equal(draw(at_frames(scene, 6), SIZE)[0], draw(scene, SIZE)[0])
        assert len(draw(finer, (48, 48))[0]) == 16


def test_the_video_models_prior_is_the_pipelines(scenes):
    """The steps' own code with their default parameters, then each cell of the VLM by interpolation in numpy."""
    vdm = load_vdm(ensure_tiny("tiny-cogvideox"), "float32", "cpu")
    clip = scenes.clips[0]
    found = data.video_prior(vdm, clip)
    assert pipeline_default(shared_fields()["num_steps"]) == VDM_STEPS
    frames, _, _ = draw(at_frames(clip.scene, 17), (64, 64))
    empty = vdm.encode_text("")
    schedule, clean = vdm.levels(VDM_STEPS), vdm.encode_video(frames)
    latents = invert(lambda x, t: vdm.velocity(x, t, empty), clean, schedule).trajectory
    parts = [Part("response", 0, clip.caption)]
    captured = capture_sample(vdm, latents[:, 0], clip.caption, parts, CaptureParams(), VDM_STEPS, 0, "a clip")
    map_FHW = captured.density.mean((0, 1)).view(5, 4, 4).double().numpy()
    # latent 0 is frame 0, latent k the frames 4k-3 … 4k; frame k of 17 is at k · 2.5 s / 16
    centres = np.array([0, *(np.arange(4 * k - 3, 4 * k + 1).mean() for k in range(1, 5))]) * 2.5 / 16
    expected = np.zeros((3, 5, 5))
    for f, y, x in product(range(3), range(5), range(5)):
        # a cell of the VLM is 1 s from -0.25 s on; points outside the clip do not count
        spans = np.clip(np.minimum(f + 0.75, EDGES[1:]) - np.maximum(f - 0.25, EDGES[:-1]), 0, None) / np.diff(EDGES)
        count = math.ceil(spans.sum() - 1e-6)
        times = f - 0.25 + (np.arange(count) + 0.5) / count
        times = times[(times >= EDGES[0]) & (times <= EDGES[-1])]
        column = [np.interp(times, centres, map_FHW[:, i, j]).mean() for i, j in product(range(4), range(4))]
        rows = [np.interp((x + 0.5) / 5, (np.arange(4) + 0.5) / 4, row) for row in np.reshape(column, (4, 4))]
        expected[f, y, x] = np.interp((y + 0.5) / 5, (np.arange(4) + 0.5) / 4, rows)
    density = found.double().numpy() * 5 * 4 * 4
    assert np.allclose(density, expected, rtol=1e-4)
    assert density.std() > 1e-3


def test_a_batchs_distance_is_the_mean_over_samples():
    generator = torch.Generator().manual_seed(0)
    rows, prior = torch.rand(16, 3, 75, generator=generator), torch.rand(16, 3, 5, 5, generator=generator)
    pairs = zip(rows.view(16, 3, 3, 5, 5), prior, strict=True)
    one_by_one = [map_distance(row, map_Fhw.expand(3, 3, 5, 5)) for row, map_Fhw in pairs]
    assert torch.allclose(batch_distance(rows, prior), torch.stack(one_by_one).mean(), rtol=1e-5)


def test_interval_is_the_paired_t_tests():
    rng = np.random.default_rng(0)
    one, other = rng.uniform(size=8), rng.uniform(size=8)
    expected = stats.ttest_rel(one, other).confidence_interval(0.95)
    assert a.t_interval(list(one - other)) == pytest.approx(((one - other).mean(), expected.low, expected.high))


def test_no_seed_is_used_twice():
    used = [seed + first for first in (a.TRAIN_SEEDS, a.TEST_SEEDS) for seed in a.SEEDS]
    assert len(set(used)) == len(used)
    assert not set(used) & {*TRAINING_SEEDS}
