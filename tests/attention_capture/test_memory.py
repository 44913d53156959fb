"""Two-stream reconstruction against a plain loop: concatenated keys, diffusers' own scheduler, whole float64 maps."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from components.attention_capture.capture import CaptureSpec
from components.attention_capture.memory import reconstruct_with_memory
from components.core.errors import ParameterError
from components.ddim_inversion.ddim import invert, reconstruct
from components.models.video import load_vdm
from components.models.video.interface import EncodedText
from components.models.video.noise import diffusion_levels
from tests.arithmetic import rounding
from tests.attention_capture.oracle import TERMS, naive_attention, parts

WORDS = (0, 1, 3)
GUIDED = rounding(5 * TERMS, size=6)  # five steps, whose velocities a guidance of 6 multiplies
MAPS = rounding(64 + 16 + 2 * 144)  # of a probability: the norm, q·k, and the keys of two streams


@pytest.fixture(scope="module")
def case(vdm):
    """A twin, its inverted trajectory of five latents, the levels, an encoded text."""
    empty = vdm.encode_text("")
    schedule = vdm.levels(5)
    clean = torch.randn(1, 5, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    trajectory = invert(lambda x, t: vdm.velocity(x, t, empty), clean, schedule).trajectory
    return vdm, trajectory, schedule, vdm.encode_text("the red square moves left")


def plain_loop(vdm, trajectory, text, guidance_scale, start, memory):
    """The public script's loop: reversed trajectory as reference, prompts repeated, the scheduler's own step.

    A distilled model has one row in place of two, and the scale as an input.
    """
    scheduler = copy.deepcopy(vdm.scheduler)
    if vdm.sizes.distilled:  # as its pipeline does
        scheduler.set_timesteps(sigmas=np.linspace(1, 0, 6)[:-1])
        vdm, texts = replace(vdm, guidance=guidance_scale), [text]
    else:
        scheduler.set_timesteps(5)
        texts = [vdm.encode_text(""), text]
    x = start
    for t, reference in zip(scheduler.timesteps, reversed(trajectory), strict=False):
        rows = [x] * len(texts) + ([reference] * len(texts) if memory else [])
        v = vdm.velocity(torch.cat(rows), float(t), EncodedText.batch(texts * (2 if memory else 1)))[: len(texts)]
        if len(texts) == 2:
            unconditional, conditional = v.chunk(2)
            v = unconditional + guidance_scale * (conditional - unconditional)
        x = scheduler.step(v, t, x).prev_sample
    return x


def conditional(vdm):
    """The row of a batch that sees the text."""
    return 0 if vdm.sizes.distilled else 1


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("norm", ["own", "joint", "fold"])
def test_reconstruction_and_maps(case, memory, norm):
    vdm, trajectory, schedule, text = case
    grid = vdm.patch_grid((5, 6, 8))
    with naive_attention(vdm.transformer, stream=conditional(vdm), memory=memory) as oracle:
        expected = plain_loop(vdm, trajectory, text, 6.0, trajectory[-1], memory)
    spec = CaptureSpec(WORDS, grid, norm=norm, rows=1000, memory=memory)
    result = reconstruct_with_memory(vdm, trajectory, schedule, text, capture=spec, memory=memory)
    assert result.trajectory.shape == trajectory.shape
    torch.testing.assert_close(result.trajectory[0], expected, atol=GUIDED, rtol=0)
    assert result.maps.count == 5 * vdm.sizes.layers
    t2v, diag, _, v2v = parts(oracle.mean(norm), WORDS, grid)
    for ours, theirs in ((result.maps.t2v, t2v), (result.maps.diag, diag), (result.maps.rows, v2v)):
        assert float((ours - theirs).abs().max()) <= MAPS


def test_capture_does_not_change_the_reconstruction(case):
    spec = CaptureSpec(WORDS, case[0].patch_grid((5, 6, 8)), memory=True)
    captured, plain = reconstruct_with_memory(*case, capture=spec), reconstruct_with_memory(*case)
    assert plain.maps is None
    assert torch.equal(captured.trajectory, plain.trajectory)


def test_start_from_noise_follows_the_seed(case):
    vdm, trajectory, _, text = case
    runs = [reconstruct_with_memory(*case, start="noise", seed=seed).trajectory for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    noise = torch.randn(trajectory[-1].shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(runs[2][-1], noise)
    with naive_attention(vdm.transformer, stream=conditional(vdm), memory=True):
        expected = plain_loop(vdm, trajectory, text, 6.0, noise, memory=True)
    torch.testing.assert_close(runs[2][0], expected, atol=GUIDED, rtol=0)


def test_guidance_one_without_memory_is_plain_reconstruction(case):
    vdm, trajectory, schedule, text = case
    ours = reconstruct_with_memory(vdm, trajectory, schedule, text, guidance_scale=1.0, memory=False).trajectory
    theirs = reconstruct(lambda x, t: vdm.velocity(x, t, text), trajectory[-1], schedule)
    torch.testing.assert_close(ours, theirs, atol=GUIDED, rtol=0)


def test_guidance_one_with_memory_captures_the_only_main_row(case):
    vdm, _, _, text = case
    spec = CaptureSpec(WORDS, vdm.patch_grid((5, 6, 8)), memory=True)
    one = reconstruct_with_memory(*case, guidance_scale=1.0, capture=spec)
    if vdm.sizes.distilled:  # its network is given the scale: the reference rows' too
        other = reconstruct_with_memory(*case, guidance_scale=1.7, capture=spec)
        assert float((one.trajectory - other.trajectory).abs().max()) > 1e-3
        return
    same = reconstruct_with_memory(*case, guidance_scale=1.7, capture=spec, negative=text)
    torch.testing.assert_close(one.trajectory, same.trajectory, atol=GUIDED, rtol=0)
    torch.testing.assert_close(one.maps.t2v, same.maps.t2v, atol=MAPS, rtol=0)


def test_half_precision_stays_half_precision(vdm_folder):
    vdm = load_vdm(vdm_folder, "bfloat16", "cpu")
    schedule = vdm.levels(2)
    trajectory = torch.randn(3, 1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    spec = CaptureSpec((0, 1), vdm.patch_grid((3, 8, 8)), memory=True)
    result = reconstruct_with_memory(vdm, trajectory, schedule, vdm.encode_text("a ball"), capture=spec)
    assert result.trajectory.dtype == torch.bfloat16
    assert result.maps.t2v.dtype == torch.float32
    assert bool(torch.isfinite(result.trajectory).all())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"start": "clean"}, "start"),
        ({"guidance_scale": 0.5}, "guidance_scale"),
        ({"capture": CaptureSpec(WORDS, (5, 3, 4))}, "memory"),
        ({"schedule": diffusion_levels(torch.linspace(0.9, 0, 1000), 4)}, "levels"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_refused(case, change, match):
    given = dict(zip(("vdm", "trajectory", "schedule", "text"), case, strict=True))
    with pytest.raises(ParameterError, match=match):
        reconstruct_with_memory(**given | change)
