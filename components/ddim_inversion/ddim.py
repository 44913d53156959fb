"""Inversion and reconstruction on explicit noise levels: up and down the same steps, DDIM's or flow matching's.

Levels k = 0…N are the clean video and the model's time steps t_1 < … < t_N, and `Levels.step` goes from one to another
along the network's v: inversion walks it up, reconstruction down. States are carried in float32 at least; a trajectory
has the clean latents' dtype. Tensors are of any shape `...`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from components.core.errors import ParameterError
from components.ddim_inversion.settings import InversionEval
from components.models.video.noise import Levels

log = logging.getLogger(__name__)

Velocity = Callable[[Tensor, float], Tensor]
"""v of latents at a time step."""


class Inversion(NamedTuple):
    """Latents of all levels, and each step's relative residual of its implicit equation (none without iterations)."""

    trajectory: Float[Tensor, "N1 ..."]
    residuals: list[float]


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
    x = clean.to(torch.promote_types(clean.dtype, torch.float32))
    trajectory, residuals = [x], []
    for k in range(1, len(schedule)):
        asked = schedule.timestep(k if inversion_eval == "next" else k - 1)
        guess = schedule.step(x, velocity(x, asked), k - 1, k)
        if fixed_point_iters:
            guess, residual = _solve_step(velocity, x, guess, schedule, k, fixed_point_iters)
            residuals.append(residual)
        x = guess
        trajectory.append(x)
    return Inversion(torch.stack(trajectory).to(clean.dtype), residuals)


def _solve_step(
    velocity: Velocity, below: Tensor, guess: Tensor, schedule: Levels, level: int, iterations: int
) -> tuple[Tensor, float]:
    """Return the best x of a fixed-point iteration for step(x) = `below`, and ‖step(x) − below‖ / ‖below‖."""
    kept, timestep = schedule.kept(level, level - 1), schedule.timestep(level)
    if kept < 1e-6:
        problem = f"one step from the video to time step {timestep:g} keeps nothing of it and has no inverse"
        raise ParameterError(
            problem, source="num_steps, fixed_point_iters", remedy="choose num_steps ≥ 2 or fixed_point_iters = 0"
        )
    scale = float(below.norm()) or 1.0
    best, best_residual = guess, math.inf
    for _ in range(iterations + 1):
        difference = below - schedule.step(guess, velocity(guess, timestep), level, level - 1)
        residual = float(difference.norm()) / scale
        if not residual < best_residual:  # also where it is not a number
            log.info(
                "fixed point at time step %g: residual grew from %.2e to %.2e, stopped",
                timestep,
                best_residual,
                residual,
            )
            break
        best, best_residual = guess, residual
        guess = guess + difference / kept  # `kept` is the factor of x in the step down
    return best, best_residual


def step_residuals(velocity: Velocity, trajectory: Float[Tensor, "N1 ..."], schedule: Levels) -> list[float]:
    """Return by how much a step from each level 1…N misses the level below: ‖step(x_k) − x_{k−1}‖ / ‖x_{k−1}‖."""
    states = trajectory.to(torch.promote_types(trajectory.dtype, torch.float32))
    missed = []
    for k in range(1, len(schedule)):
        down = schedule.step(states[k], velocity(states[k], schedule.timestep(k)), k, k - 1)
        missed.append(float((down - states[k - 1]).norm()) / (float(states[k - 1].norm()) or 1.0))
    return missed


def reconstruct(velocity: Velocity, noise: Float[Tensor, " ..."], schedule: Levels) -> Float[Tensor, "N1 ..."]:
    """Go from the latents of level N down to the clean ones; entry k is level k, entry 0 the reconstruction."""
    x = noise.to(torch.promote_types(noise.dtype, torch.float32))
    states = [x]
    for k in range(len(schedule) - 1, 0, -1):
        x = schedule.step(x, velocity(x, schedule.timestep(k)), k, k - 1)
        states.append(x)
    return torch.stack(states[::-1]).to(noise.dtype)
