"""DDIM levels, inversion, reconstruction: closed forms on a Gaussian, order of the error, diffusers' schedulers."""

import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, DDIMInverseScheduler

from components.core.errors import ParameterError
from components.ddim_inversion.ddim import ddim_step, invert, levels, reconstruct
from components.models.video.cogvideox import SCHEDULER
from tests.arithmetic import rounding

ALPHAS = CogVideoXDDIMScheduler(**SCHEDULER).alphas_cumprod.double()


@pytest.fixture(scope="module")
def tiny(vdm):
    """Velocity of a random twin under the empty prompt, and unit-variance latents."""
    embeds = vdm.encode_text("")
    return lambda x, t: vdm.velocity(x, t, embeds), normal(1, 5, 4, 8, 8, dtype=torch.float32)


def normal(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def gaussian(spread):
    """The optimal denoiser of x₀ ~ N(0, spread²): v is a multiple of x that depends on the level."""

    def coefficient(t):
        a = float(ALPHAS[t])
        return math.sqrt(a * (1 - a)) * (1 - spread**2) / (a * spread**2 + 1 - a)

    return coefficient, lambda x, t: coefficient(t) * x


def error(velocity, clean, num_steps, **options):
    schedule = levels(ALPHAS, num_steps)
    trajectory, residuals = invert(velocity, clean, schedule, **options)
    back = reconstruct(velocity, trajectory[-1], schedule)[0]
    return float((back - clean).norm() / clean.norm()), residuals


@pytest.mark.parametrize("num_steps", [*range(1, 61), 100, 333, 1000])
def test_levels_are_diffusers_trailing_time_steps(num_steps):
    scheduler = CogVideoXDDIMScheduler(**SCHEDULER)
    scheduler.set_timesteps(num_steps)
    timesteps, alpha_bar = levels(ALPHAS, num_steps)
    assert timesteps.tolist() == scheduler.timesteps.tolist()[::-1]
    assert (alpha_bar[0], alpha_bar[-1]) == (1, 0)
    assert torch.equal(alpha_bar[1:], ALPHAS[timesteps])


def test_every_number_of_steps_has_as_many_levels():
    """Also where diffusers' own expression ends in a step too many (61, 103, 121 …)."""
    for num_steps in range(1, 1001):
        timesteps, alpha_bar = levels(ALPHAS, num_steps)
        assert (len(timesteps), int(timesteps.min()) >= 0) == (num_steps, True)
        assert bool((alpha_bar.diff() < 0).all())


def test_a_step_turns_by_the_difference_of_angles():
    """With √ᾱ = cos φ, (x, v) turns: x_j = cos(φ_j − φ_k)·x + sin(φ_j − φ_k)·v; down after up gives x back."""
    x, v = normal(2, 3, 4)
    for here, there in [(1.0, 0.7), (0.7, 0.1), (0.1, 0.0), (0.0, 0.2), (0.4, 1.0), (1.0, 0.0), (0.0, 1.0)]:
        turn = math.acos(math.sqrt(there)) - math.acos(math.sqrt(here))
        torch.testing.assert_close(ddim_step(x, v, here, there), math.cos(turn) * x + math.sin(turn) * v)


@pytest.mark.parametrize("spread", [0.5, 2.0])
@pytest.mark.parametrize("evaluated", ["next", "current"])
def test_gaussian_inversion_is_a_known_product(spread, evaluated):
    coefficient, velocity = gaussian(spread)
    schedule = levels(ALPHAS, 7)
    clean = normal(5)
    angles = [math.acos(math.sqrt(a)) for a in schedule.alpha_bar.tolist()]
    times = [0, *schedule.timesteps.tolist()]
    trajectory = invert(velocity, clean, schedule, inversion_eval=evaluated).trajectory
    factor = 1.0
    for k in range(1, 8):
        turn = angles[k] - angles[k - 1]
        factor *= math.cos(turn) + math.sin(turn) * coefficient(times[k if evaluated == "next" else k - 1])
        torch.testing.assert_close(trajectory[k], factor * clean)


def test_gaussian_fixed_point_solves_the_implicit_step():
    coefficient, velocity = gaussian(0.5)
    schedule = levels(ALPHAS, 5)
    clean = normal(5)
    trajectory, residuals = invert(velocity, clean, schedule, fixed_point_iters=40)
    angles = [math.acos(math.sqrt(a)) for a in schedule.alpha_bar.tolist()]
    factor = 1.0
    for k, t in enumerate(schedule.timesteps.tolist(), start=1):
        turn = angles[k] - angles[k - 1]
        factor /= math.cos(turn) - math.sin(turn) * coefficient(t)
        torch.testing.assert_close(trajectory[k], factor * clean, rtol=1e-9, atol=0)
    assert len(residuals) == 5
    assert max(residuals) < 1e-9


def test_many_steps_follow_the_probability_flow():
    """The flow maps N(0, s²) onto N(0, 1): x_T = x₀ / s."""
    _, velocity = gaussian(0.5)
    clean = normal(50)
    coarse, fine = (invert(velocity, clean, levels(ALPHAS, n)).trajectory[-1] for n in (100, 1000))
    assert float((fine - clean / 0.5).norm() / clean.norm()) < 0.02
    assert float((fine - clean / 0.5).norm()) < 0.2 * float((coarse - clean / 0.5).norm())


def test_round_trip_error_is_of_first_order(tiny):
    velocity, clean = tiny
    steps = [5, 10, 25, 50]
    errors = [error(velocity, clean, n)[0] for n in steps]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert -1.15 <= slope <= -0.75, errors


def test_fixed_point_iterations_repair_few_steps(tiny):
    velocity, clean = tiny
    plain, none = error(velocity, clean, 5)
    repaired, residuals = error(velocity, clean, 5, fixed_point_iters=5)
    assert none == []
    assert plain > 0.2
    assert repaired <= 1e-2
    assert len(residuals) == 5
    assert max(residuals) < 1e-2


def test_divergence_keeps_the_best_and_says_so():
    def stiff(x, t):
        return 40 * torch.sin(5 * x)

    def missed(x, below, high, low):
        return float((ddim_step(x, stiff(x, 0), high, low) - below).norm() / below.norm())

    schedule = levels(ALPHAS, 4)
    trajectory, residuals = invert(stiff, normal(200), schedule, fixed_point_iters=10)
    assert bool(torch.isfinite(trajectory).all())
    pairs = zip(itertools.pairwise(trajectory), itertools.pairwise(schedule.alpha_bar.tolist()), strict=True)
    for residual, ((below, found), (low, high)) in zip(residuals, pairs, strict=True):
        explicit = ddim_step(below, stiff(below, 0), low, high)
        assert residual == pytest.approx(missed(found, below, high, low))
        assert residual <= missed(explicit, below, high, low) * (1 + 1e-12)


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_inverted_is_refused():
    with pytest.raises(ParameterError, match="no inverse"):
        invert(gaussian(0.5)[1], torch.ones(3), levels(ALPHAS, 1), fixed_point_iters=1)
    with pytest.raises(ParameterError, match="inversion_eval"):
        invert(lambda x, t: x, torch.ones(3), levels(ALPHAS, 2), inversion_eval="later")
    for steps in (0, -1, 1001):
        with pytest.raises(ParameterError, match="num_steps"):
            levels(ALPHAS, steps)


def test_current_asks_each_level_at_its_own_time():
    asked = []

    def velocity(x, t):
        asked.append(t)
        return x

    for mode in ("next", "current"):
        invert(velocity, torch.ones(3), levels(ALPHAS, 5), inversion_eval=mode)
    assert asked == [199, 399, 599, 799, 999, 0, 199, 399, 599, 799]


@pytest.mark.parametrize("num_steps", [5, 10, 50])
def test_agreement_with_diffusers(tiny, num_steps):
    """Where 1000/N is whole diffusers' previous time step is the next level; elsewhere it is off by one."""
    velocity, clean = tiny
    schedule = levels(ALPHAS, num_steps)
    options = {k: v for k, v in SCHEDULER.items() if k != "snr_shift_scale"}
    up, down = DDIMInverseScheduler(**options), CogVideoXDDIMScheduler(**SCHEDULER)
    up.set_timesteps(num_steps)
    down.set_timesteps(num_steps)
    trajectory = invert(velocity, clean, schedule).trajectory
    close = rounding(64 * num_steps)  # at every step the sums of a model of width 64
    x = clean
    for k, t in enumerate(up.timesteps, start=1):
        x = up.step(velocity(x, int(t)), t, x).prev_sample
        torch.testing.assert_close(trajectory[k], x, atol=close, rtol=0)
    states = reconstruct(velocity, trajectory[-1], schedule)
    x = trajectory[-1]
    for k, t in enumerate(down.timesteps, start=1):
        x = down.step(velocity(x, int(t)), t, x).prev_sample
        torch.testing.assert_close(states[num_steps - k], x, atol=close, rtol=0)


def test_states_are_carried_in_float32_for_bfloat16_latents():
    seen = set()

    def velocity(x, t):
        seen.add(x.dtype)
        return x * 0.5

    trajectory, _ = invert(velocity, torch.ones(4, dtype=torch.bfloat16), levels(ALPHAS, 3), fixed_point_iters=1)
    states = reconstruct(velocity, trajectory[-1], levels(ALPHAS, 3))
    assert seen == {torch.float32}
    assert trajectory.dtype == states.dtype == torch.bfloat16
