"""Deterministic DDIM on explicit noise levels, both ways, for a network that predicts v.

Levels k = 0…N are the clean video (ᾱ_0 = 1) and the time steps t_1 < … < t_N; the supplement's α is ᾱ. From v at level
k (eqs. 1–4):
    x̂₀ = √ᾱ_k·x − √(1−ᾱ_k)·v,   ε = √ᾱ_k·v + √(1−ᾱ_k)·x,   x_j = √ᾱ_j·x̂₀ + √(1−ᾱ_j)·ε,
which stays finite at ᾱ = 0, where eq. 3 divides by zero. `ddim_step` is this; inversion walks it up, reconstruction
down. States are carried in float32 at least; a trajectory has the clean latents' dtype. Tensors are of any shape `...`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from components.core.errors import ParameterError
from components.ddim_inversion.settings import InversionEval

log = logging.getLogger(__name__)

Velocity = Callable[[Tensor, int], Tensor]
"""v of latents at a training time step."""


class Levels(NamedTuple):
    """N time steps in rising order, and ᾱ of the N+1 levels (0 is the clean video, level k is `timesteps[k - 1]`)."""

    timesteps: Int[Tensor, " N"]
    alpha_bar: Float[Tensor, " N1"]

    def timestep(self, level: int) -> int:
        """Return the training time step of a level; the clean level counts as time step 0."""
        return int(self.timesteps[level - 1]) if level else 0


class Inversion(NamedTuple):
    """Latents of all levels, and each step's relative residual of its implicit equation (none without iterations)."""

    trajectory: Float[Tensor, "N1 ..."]
    residuals: list[float]


def levels(alphas_cumprod: Float[Tensor, " steps"], num_steps: int) -> Levels:
    """Return levels spaced as `trailing`: t_k = round(k·1000/N) − 1 for 1000 training steps; the last is pure noise.

    Raises:
        ParameterError: `num_steps` is not in 1 … training steps.
    """
    total = len(alphas_cumprod)
    if not 1 <= num_steps <= total:
        raise ParameterError(f"num_steps = {num_steps}", source="num_steps", remedy=f"choose 1 to {total}")
    # the very expression of diffusers' schedulers: where k·1000/N is a tie, its last bit decides the rounding. For some
    # N its end is rounded to just above 0, which gives a step too many, at time step -1
    falling = np.round(np.arange(total, 0, -total / num_steps)[:num_steps]).astype(np.int64) - 1
    timesteps = torch.from_numpy(falling[::-1].copy())
    alpha_bar = alphas_cumprod.double().cpu()[timesteps]
    return Levels(timesteps, torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar]))


def ddim_step(
    x: Float[Tensor, " ..."], v: Float[Tensor, " ..."], alpha_bar: float, alpha_bar_to: float
) -> Float[Tensor, " ..."]:
    """Move latents from the level with `alpha_bar` to the one with `alpha_bar_to`, up or down, along v."""
    signal, noise = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    clean = signal * x - noise * v
    epsilon = signal * v + noise * x
    return math.sqrt(alpha_bar_to) * clean + math.sqrt(1 - alpha_bar_to) * epsilon


def invert(
    velocity: Velocity,
    clean: Float[Tensor, " ..."],
    schedule: Levels,
    inversion_eval: InversionEval = "next",
    fixed_point_iters: int = 0,
) -> Inversion:
    """From the clean latents to noise, one step a level.

    Args:
        velocity: v of latents at a time step; called N times, N·(fixed_point_iters + 2) times with fixed-point
            iterations.
        clean: latents of level 0.
        schedule: the levels.
        inversion_eval: the network is asked at (x_{k−1}, t_k), the public script's way, or at (x_{k−1}, t_{k−1}), eq.
            4's letter.
        fixed_point_iters: most corrections a step towards the x_k whose reconstruction step gives x_{k−1}; 0 is the
            paper.

    Raises:
        ParameterError: an unknown `inversion_eval`, or fixed-point iterations of a step from the clean level straight
            to pure noise.
    """
    if inversion_eval not in ("next", "current"):
        raise ParameterError(
            f"inversion_eval = {inversion_eval!r}", source="inversion_eval", remedy="choose next or current"
        )
    alpha_bar = schedule.alpha_bar.tolist()
    x = clean.to(torch.promote_types(clean.dtype, torch.float32))
    trajectory, residuals = [x], []
    for k in range(1, len(alpha_bar)):
        asked = schedule.timestep(k if inversion_eval == "next" else k - 1)
        guess = ddim_step(x, velocity(x, asked), alpha_bar[k - 1], alpha_bar[k])
        if fixed_point_iters:
            guess, residual = _solve_step(
                velocity, x, guess, schedule.timestep(k), alpha_bar[k - 1], alpha_bar[k], fixed_point_iters
            )
            residuals.append(residual)
        x = guess
        trajectory.append(x)
    return Inversion(torch.stack(trajectory).to(clean.dtype), residuals)


def _solve_step(
    velocity: Velocity,
    below: Tensor,
    guess: Tensor,
    timestep: int,
    alpha_bar_below: float,
    alpha_bar: float,
    iterations: int,
) -> tuple[Tensor, float]:
    """Return the best x of a fixed-point iteration for step(x) = `below`, and ‖step(x) − below‖ / ‖below‖."""
    # with √ᾱ = cos φ the step down is cos(Δφ)·x − sin(Δφ)·v: the residual divided by cos(Δφ) is the correction of x
    cosine = math.sqrt(alpha_bar_below * alpha_bar) + math.sqrt((1 - alpha_bar_below) * (1 - alpha_bar))
    if cosine < 1e-6:
        problem = (
            f"one step from ᾱ = {alpha_bar_below:.3g} to {alpha_bar:.3g} keeps nothing of the video and has no inverse"
        )
        raise ParameterError(
            problem, source="num_steps, fixed_point_iters", remedy="choose num_steps ≥ 2 or fixed_point_iters = 0"
        )
    scale = float(below.norm()) or 1.0
    best, best_residual = guess, math.inf
    for _ in range(iterations + 1):
        difference = below - ddim_step(guess, velocity(guess, timestep), alpha_bar, alpha_bar_below)
        residual = float(difference.norm()) / scale
        if not residual < best_residual:  # also where it is not a number
            log.info(
                "fixed point at time step %d: residual grew from %.2e to %.2e, stopped",
                timestep,
                best_residual,
                residual,
            )
            break
        best, best_residual = guess, residual
        guess = guess + difference / cosine
    return best, best_residual


def step_residuals(velocity: Velocity, trajectory: Float[Tensor, "N1 ..."], schedule: Levels) -> list[float]:
    """Return by how much a step from each level 1…N misses the level below: ‖step(x_k) − x_{k−1}‖ / ‖x_{k−1}‖."""
    alpha_bar = schedule.alpha_bar.tolist()
    states = trajectory.to(torch.promote_types(trajectory.dtype, torch.float32))
    missed = []
    for k in range(1, len(alpha_bar)):
        down = ddim_step(states[k], velocity(states[k], schedule.timestep(k)), alpha_bar[k], alpha_bar[k - 1])
        missed.append(float((down - states[k - 1]).norm()) / (float(states[k - 1].norm()) or 1.0))
    return missed


def reconstruct(velocity: Velocity, noise: Float[Tensor, " ..."], schedule: Levels) -> Float[Tensor, "N1 ..."]:
    """Go from the latents of level N down to the clean ones; entry k is level k, entry 0 the reconstruction."""
    alpha_bar = schedule.alpha_bar.tolist()
    x = noise.to(torch.promote_types(noise.dtype, torch.float32))
    states = [x]
    for k in range(len(alpha_bar) - 1, 0, -1):
        x = ddim_step(x, velocity(x, schedule.timestep(k)), alpha_bar[k], alpha_bar[k - 1])
        states.append(x)
    return torch.stack(states[::-1]).to(noise.dtype)
