"""Noise levels: diffusers' own schedules, a step as a turn or a straight line, and what is at each level."""

import math

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, FlowMatchEulerDiscreteScheduler

from components.core.errors import ParameterError
from components.models.video.cogvideox import SCHEDULER
from components.models.video.noise import DiffusionLevels, FlowLevels, diffusion_levels, flow_levels

ALPHAS = CogVideoXDDIMScheduler(**SCHEDULER).alphas_cumprod.double()
N = [*range(1, 61), 100, 333, 1000]


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("num_steps", N)
def test_levels_of_diffusion_are_diffusers_trailing_time_steps(num_steps):
    scheduler = CogVideoXDDIMScheduler(**SCHEDULER)
    scheduler.set_timesteps(num_steps)
    found = diffusion_levels(ALPHAS, num_steps)
    assert found.timesteps.tolist() == scheduler.timesteps.tolist()[::-1]
    assert (found.alpha_bar[0], found.alpha_bar[-1]) == (1, 0)
    assert torch.equal(found.alpha_bar[1:], ALPHAS[found.timesteps])


def test_every_number_of_steps_has_as_many_levels():
    """Also where diffusers' own expression ends in a step too many (61, 103, 121 …)."""
    for num_steps in range(1, 1001):
        found = diffusion_levels(ALPHAS, num_steps)
        assert (len(found), int(found.timesteps.min()) >= 0) == (num_steps + 1, True)
        assert bool((found.alpha_bar.diff() < 0).all())


@pytest.mark.parametrize("num_steps", N)
@pytest.mark.parametrize("shift", [1.0, 7.0])
def test_levels_of_flow_matching_are_diffusers_own(shift, num_steps):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 0, num_steps + 1)[:-1])  # as HunyuanVideo's pipeline does
    even = [k / num_steps for k in range(1, num_steps + 1)]
    found = flow_levels([shift * sigma / (1 + (shift - 1) * sigma) for sigma in even], 1000)
    assert len(found) == num_steps + 1
    torch.testing.assert_close(found.sigma.float(), scheduler.sigmas.flip(0), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found.timesteps, scheduler.timesteps.flip(0), rtol=1e-6, atol=1e-4)
    assert [found.timestep(0), found.timestep(num_steps)] == [0, 1000]


@pytest.mark.usefixtures("unchecked")
def test_a_number_of_steps_that_is_none_is_refused():
    for steps in (0, -1, 1001):
        with pytest.raises(ParameterError, match="num_steps"):
            diffusion_levels(ALPHAS, steps)


def test_a_step_of_diffusion_turns_by_the_difference_of_angles():
    """With √ᾱ = cos φ, (x, v) turns: x_j = cos(φ_j − φ_k)·x + sin(φ_j − φ_k)·v; down after up gives x back."""
    x, v = normal(2, 3, 4)
    for here, there in [(1.0, 0.7), (0.7, 0.1), (0.1, 0.0), (0.0, 0.2), (0.4, 1.0), (1.0, 0.0), (0.0, 1.0)]:
        levels = DiffusionLevels(torch.tensor([1]), torch.tensor([here, there], dtype=torch.float64))
        turn = math.acos(math.sqrt(there)) - math.acos(math.sqrt(here))
        torch.testing.assert_close(levels.step(x, v, 0, 1), math.cos(turn) * x + math.sin(turn) * v)
        assert levels.kept(0, 1) == pytest.approx(math.cos(turn), abs=1e-15)


@pytest.mark.parametrize(
    "levels",
    [diffusion_levels(torch.linspace(0.99, 0.01, 1000), 4), flow_levels([0.2, 0.5, 0.9, 1.0], 1000)],
    ids=["diffusion", "flow"],
)
def test_a_step_along_the_true_direction_leads_to_the_other_level(levels):
    """For one video and one noise, v is the direction in which their mixture changes from level to level."""
    clean, noise = normal(2, 3, 4)
    points = [a * clean + b * noise for a, b in zip(levels.signal, levels.noise, strict=True)]
    for here in range(5):
        a, b = levels.signal[here], levels.noise[here]
        v = a * noise - b * clean if isinstance(levels, DiffusionLevels) else noise - clean
        for there in range(5):
            moved = levels.step(points[here], v, here, there)
            torch.testing.assert_close(moved, points[there])
            farther = levels.step(points[here] + 1, v, here, there)
            torch.testing.assert_close(farther - moved, torch.full_like(clean, levels.kept(here, there)))
    assert isinstance(levels, (DiffusionLevels, FlowLevels))
    assert torch.equal(points[0], clean)
