"""Inversion and reconstruction: closed forms on a Gaussian, order of the error, diffusers' schedulers."""

import copy
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, DDIMInverseScheduler

from components.core.errors import ParameterError
from components.ddim_inversion.ddim import invert, reconstruct
from components.models.video.cogvideox import SCHEDULER
from components.models.video.noise import diffusion_levels, flow_levels
from tests.arithmetic import rounding

ALPHAS = CogVideoXDDIMScheduler(**SCHEDULER).alphas_cumprod.double()


class Kind(NamedTuple):
    """A kind of levels, and in closed form: v = c·x of x₀ ~ N(0, s²) at a time step, and a step x, v → p·x + q·v."""

    levels: Callable
    coefficient: Callable
    factors: Callable


def turned(t, spread):
    a = float(ALPHAS[int(t)])
    return math.sqrt(a * (1 - a)) * (1 - spread**2) / (a * spread**2 + 1 - a)


def turn(levels, here, there):
    one, other = (math.acos(math.sqrt(levels.alpha_bar[level])) for level in (here, there))
    return math.cos(other - one), math.sin(other - one)


def straight(t, spread):
    sigma = t / 1000
    return (sigma - (1 - sigma) * spread**2) / ((1 - sigma) ** 2 * spread**2 + sigma**2)


DIFFUSION = Kind(lambda n: diffusion_levels(ALPHAS, n), turned, turn)
FLOW = Kind(
    lambda n: flow_levels([3 * k / (n + 2 * k) for k in range(1, n + 1)], 1000),  # a shift of 3
    straight,
    lambda levels, here, there: (1.0, float(levels.sigma[there] - levels.sigma[here])),
)
kinds = pytest.mark.parametrize("kind", [DIFFUSION, FLOW], ids=["diffusion", "flow"])


@pytest.fixture(scope="module")
def tiny(vdm):
    """A random twin, its velocity under the empty prompt, and unit-variance latents."""
    empty = vdm.encode_text("")
    return vdm, lambda x, t: vdm.velocity(x, t, empty), normal(1, 5, 4, 8, 8, dtype=torch.float32)


def normal(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def gaussian(kind, spread):
    """The optimal denoiser of x₀ ~ N(0, spread²): v is a multiple of x that depends on the level."""
    return lambda x, t: kind.coefficient(t, spread) * x


def error(vdm, velocity, clean, num_steps, **options):
    schedule = vdm.levels(num_steps)
    trajectory, residuals = invert(velocity, clean, schedule, **options)
    back = reconstruct(velocity, trajectory[-1], schedule)[0]
    return float((back - clean).norm() / clean.norm()), residuals


@kinds
@pytest.mark.parametrize("spread", [0.5, 2.0])
@pytest.mark.parametrize("evaluated", ["next", "current"])
def test_gaussian_inversion_is_a_known_product(kind, spread, evaluated):
    schedule, clean = kind.levels(7), normal(5)
    times = [0, *schedule.timesteps.tolist()]
    trajectory = invert(gaussian(kind, spread), clean, schedule, inversion_eval=evaluated).trajectory
    factor = 1.0
    for k in range(1, 8):
        kept, moved = kind.factors(schedule, k - 1, k)
        factor *= kept + moved * kind.coefficient(times[k if evaluated == "next" else k - 1], spread)
        torch.testing.assert_close(trajectory[k], factor * clean)


@kinds
def test_gaussian_fixed_point_solves_the_implicit_step(kind):
    schedule, clean = kind.levels(5), normal(5)
    trajectory, residuals = invert(gaussian(kind, 0.5), clean, schedule, fixed_point_iters=50)
    factor = 1.0
    for k, t in enumerate(schedule.timesteps.tolist(), start=1):
        kept, moved = kind.factors(schedule, k, k - 1)
        factor /= kept + moved * kind.coefficient(t, 0.5)
        torch.testing.assert_close(trajectory[k], factor * clean, rtol=1e-9, atol=0)
    assert len(residuals) == 5
    assert max(residuals) < 1e-9


@kinds
def test_many_steps_follow_the_probability_flow(kind):
    """The flow maps N(0, s²) onto N(0, 1): x_T = x₀ / s."""
    velocity, clean = gaussian(kind, 0.5), normal(50)
    coarse, fine = (invert(velocity, clean, kind.levels(n)).trajectory[-1] for n in (100, 1000))
    assert float((fine - clean / 0.5).norm() / clean.norm()) < 0.02
    assert float((fine - clean / 0.5).norm()) < 0.2 * float((coarse - clean / 0.5).norm())


def test_round_trip_error_is_of_first_order(tiny):
    steps = [5, 10, 25, 50]
    errors = [error(*tiny, n)[0] for n in steps]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert -1.15 <= slope <= -0.75, errors


def test_fixed_point_iterations_repair_few_steps(tiny):
    plain, none = error(*tiny, 5)
    repaired, residuals = error(*tiny, 5, fixed_point_iters=5)
    assert none == []
    assert plain > 0.1
    assert repaired <= 1e-2
    assert len(residuals) == 5
    assert max(residuals) < 1e-2


@kinds
def test_divergence_keeps_the_best_and_says_so(kind):
    def stiff(x, t):
        return 40 * torch.sin(5 * x)

    def missed(x, below, k):
        return float((schedule.step(x, stiff(x, 0), k, k - 1) - below).norm() / below.norm())

    schedule = kind.levels(4)
    trajectory, residuals = invert(stiff, normal(200), schedule, fixed_point_iters=10)
    assert bool(torch.isfinite(trajectory).all())
    for k, residual in enumerate(residuals, start=1):
        below, found = trajectory[k - 1], trajectory[k]
        explicit = schedule.step(below, stiff(below, 0), k - 1, k)
        assert residual == pytest.approx(missed(found, below, k))
        assert residual <= missed(explicit, below, k) * (1 + 1e-12)


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_inverted_is_refused():
    with pytest.raises(ParameterError, match="no inverse"):
        invert(gaussian(DIFFUSION, 0.5), torch.ones(3), DIFFUSION.levels(1), fixed_point_iters=1)
    with pytest.raises(ParameterError, match="inversion_eval"):
        invert(lambda x, t: x, torch.ones(3), DIFFUSION.levels(2), inversion_eval="later")


def test_a_straight_step_has_an_inverse_even_from_the_video_to_noise():
    found = invert(lambda x, t: 0.4 * x, normal(5), FLOW.levels(1), fixed_point_iters=50)
    torch.testing.assert_close(found.trajectory[1], normal(5) / 0.6)


@kinds
def test_current_asks_each_level_at_its_own_time(kind):
    asked = []

    def velocity(x, t):
        asked.append(t)
        return x

    for mode in ("next", "current"):
        invert(velocity, torch.ones(3), kind.levels(5), inversion_eval=mode)
    times = kind.levels(5).timesteps.tolist()
    assert asked == [*times, 0, *times[:-1]]
    assert kind is FLOW or asked == [199, 399, 599, 799, 999, 0, 199, 399, 599, 799]


@pytest.mark.parametrize("num_steps", [5, 10, 50])
def test_agreement_with_diffusers(tiny, num_steps):
    """Where 1000/N is whole diffusers' previous time step is the next level; elsewhere it is off by one.

    Of flow matching diffusers has no inverse: there Euler's method goes up the scheduler's own σ.
    """
    vdm, velocity, clean = tiny
    schedule, down = vdm.levels(num_steps), copy.deepcopy(vdm.scheduler)
    trajectory = invert(velocity, clean, schedule).trajectory
    close = rounding(64 * num_steps)  # at every step the sums of a model of width 64
    x = clean
    if vdm.sizes.distilled:
        down.set_timesteps(sigmas=np.linspace(1, 0, num_steps + 1)[:-1])
        for k, (sigma, following) in enumerate(itertools.pairwise(down.sigmas.flip(0)), start=1):
            x = x + (following - sigma) * velocity(x, float(1000 * following))
            torch.testing.assert_close(trajectory[k], x, atol=close, rtol=0)
    else:
        up = DDIMInverseScheduler(**{k: v for k, v in SCHEDULER.items() if k != "snr_shift_scale"})
        up.set_timesteps(num_steps)
        down.set_timesteps(num_steps)
        for k, t in enumerate(up.timesteps, start=1):
            x = up.step(velocity(x, int(t)), t, x).prev_sample
            torch.testing.assert_close(trajectory[k], x, atol=close, rtol=0)
    states = reconstruct(velocity, trajectory[-1], schedule)
    x = trajectory[-1]
    for k, t in enumerate(down.timesteps, start=1):
        x = down.step(velocity(x, float(t)), t, x).prev_sample
        torch.testing.assert_close(states[num_steps - k], x, atol=close, rtol=0)


@kinds
def test_states_are_carried_in_float32_for_bfloat16_latents(kind):
    seen = set()

    def velocity(x, t):
        seen.add(x.dtype)
        return x * 0.5

    trajectory, _ = invert(velocity, torch.ones(4, dtype=torch.bfloat16), kind.levels(3), fixed_point_iters=1)
    states = reconstruct(velocity, trajectory[-1], kind.levels(3))
    assert seen == {torch.float32}
    assert trajectory.dtype == states.dtype == torch.bfloat16
