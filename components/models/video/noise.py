"""Noise levels of a video model, and the step from one to another along the network's v: diffusion or flow matching.

Level 0 is the clean video x₀, level k the model's time step t_k, level N noise: x_k = signal_k·x₀ + noise_k·ε. A
network that was trained on a diffusion process turns from x₀ to ε on a circle, one that was trained by flow matching
goes on a straight line. v is the direction at x_k, and `step` follows it up (inversion) or down (reconstruction).

Legend: N levels above the clean one, N1 = N + 1. Tensors of latents are of any shape `...`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Num

from components.core.errors import ParameterError
from components.models.family import Tensor


@dataclass(frozen=True, eq=False)
class Levels(ABC):
    """The time steps of levels 1…N in rising order, as the network counts them, and what lies at each level."""

    timesteps: Num[Tensor, " N"]

    def __len__(self) -> int:
        """N + 1."""
        return len(self.timesteps) + 1

    def timestep(self, level: int) -> float:
        """Return the network's time step at a level; the clean level counts as time step 0."""
        return self.timesteps[level - 1].item() if level else 0

    @property
    @abstractmethod
    def signal(self) -> Float[Tensor, " N1"]:
        """The factor of the clean video at each level, float64: 1 at level 0."""

    @property
    @abstractmethod
    def noise(self) -> Float[Tensor, " N1"]:
        """The factor of noise of unit variance at each level, float64: 0 at level 0."""

    @abstractmethod
    def step(self, x: Float[Tensor, " ..."], v: Float[Tensor, " ..."], here: int, there: int) -> Float[Tensor, " ..."]:
        """Move latents from level `here` to level `there`, up or down, along v."""

    @abstractmethod
    def kept(self, here: int, there: int) -> float:
        """Return the factor of the latents in a step: its result's derivative by x, at a fixed v."""


@dataclass(frozen=True, eq=False)
class DiffusionLevels(Levels):
    """Levels of a diffusion process of constant variance: x = √ᾱ·x₀ + √(1−ᾱ)·ε, v = √ᾱ·ε − √(1−ᾱ)·x₀.

    A step is deterministic DDIM (supplement eqs. 1–4, whose α is ᾱ):
        x̂₀ = √ᾱ_k·x − √(1−ᾱ_k)·v,   ε = √ᾱ_k·v + √(1−ᾱ_k)·x,   x_j = √ᾱ_j·x̂₀ + √(1−ᾱ_j)·ε,
    which stays finite at ᾱ = 0, where eq. 3 divides by zero.
    """

    alpha_bar: Float[Tensor, " N1"]

    @property
    def signal(self) -> Float[Tensor, " N1"]:
        return self.alpha_bar.double().sqrt()

    @property
    def noise(self) -> Float[Tensor, " N1"]:
        return (1 - self.alpha_bar.double()).sqrt()

    def step(self, x: Float[Tensor, " ..."], v: Float[Tensor, " ..."], here: int, there: int) -> Float[Tensor, " ..."]:
        alpha_bar, alpha_bar_to = self._alpha_bar(here, there)
        signal, noise = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
        clean = signal * x - noise * v
        epsilon = signal * v + noise * x
        return math.sqrt(alpha_bar_to) * clean + math.sqrt(1 - alpha_bar_to) * epsilon

    def kept(self, here: int, there: int) -> float:
        """With √ᾱ = cos φ a step is cos(Δφ)·x + sin(Δφ)·v."""
        one, other = self._alpha_bar(here, there)
        return math.sqrt(one * other) + math.sqrt((1 - one) * (1 - other))

    def _alpha_bar(self, *levels: int) -> list[float]:
        return [self.alpha_bar[level].item() for level in levels]


@dataclass(frozen=True, eq=False)
class FlowLevels(Levels):
    """Levels of flow matching: x = (1 − σ)·x₀ + σ·ε, v = ε − x₀; a step is one by Euler, x_j = x_k + (σ_j − σ_k)·v."""

    sigma: Float[Tensor, " N1"]

    @property
    def signal(self) -> Float[Tensor, " N1"]:
        return 1 - self.sigma.double()

    @property
    def noise(self) -> Float[Tensor, " N1"]:
        return self.sigma.double()

    def step(self, x: Float[Tensor, " ..."], v: Float[Tensor, " ..."], here: int, there: int) -> Float[Tensor, " ..."]:
        return x + (self.sigma[there].item() - self.sigma[here].item()) * v

    def kept(self, here: int, there: int) -> float:
        return 1.0


def diffusion_levels(alphas_cumprod: Float[Tensor, " steps"], num_steps: int) -> DiffusionLevels:
    """Return levels spaced as `trailing`: t_k = round(k·1000/N) − 1 for 1000 training steps; the last is the noisiest.

    Args:
        alphas_cumprod: ᾱ of the training time steps.
        num_steps: N.

    Raises:
        ParameterError: `num_steps` is not in 1 … training steps.
    """
    import numpy as np
    import torch

    total = len(alphas_cumprod)
    check_steps(num_steps, total)
    # the very expression of diffusers' schedulers: where k·1000/N is a tie, its last bit decides the rounding. For some
    # N its end is rounded to just above 0, which gives a step too many, at time step -1
    falling = np.round(np.arange(total, 0, -total / num_steps)[:num_steps]).astype(np.int64) - 1
    timesteps = torch.from_numpy(falling[::-1].copy())
    alpha_bar = alphas_cumprod.double().cpu()[timesteps]
    return DiffusionLevels(timesteps, torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar]))


def flow_levels(sigmas: Sequence[float], training_steps: int) -> FlowLevels:
    """Return the levels at rising σ > 0; the network's time step is σ times the training steps, float32 as it is given.

    Args:
        sigmas: σ_1 … σ_N.
        training_steps: of the model's scheduler, 1000 as a rule.
    """
    import torch

    sigma = torch.tensor([0.0, *sigmas], dtype=torch.float64)
    return FlowLevels((sigma[1:] * training_steps).float(), sigma)


def check_steps(num_steps: int, total: int) -> None:
    """Refuse a number of steps that is not in 1 … `total`.

    Raises:
        ParameterError: it is not.
    """
    if not 1 <= num_steps <= total:
        raise ParameterError(f"num_steps = {num_steps}", source="num_steps", remedy=f"choose 1 to {total}")
