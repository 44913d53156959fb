"""Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon): momentum, each matrix made orthogonal when applied.

torch has one too (`torch.optim.Muon`, from 2.9 on), which multiplies in bfloat16: half as fast again on a CPU without
such arithmetic, and the GPU image's torch is older. The same step here in the gradient's own dtype; the two are
compared in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_QUINTIC = (3.4445, -4.7750, 2.0315)  # drives singular values in (0, 1] to about 1 (.7 to 1.2) within five rounds
_ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal; for weight matrices of hidden layers only (all else wants AdamW).

    Args:
        params: matrices.
        lr: the spectral norm of an update of a square matrix; a tall [n, m] gets √(n/m) times that.
        momentum: share of the old direction.

    Raises:
        ValueError: a parameter that is no matrix.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.dim() != 2:
                    raise ValueError(f"Muon takes matrices, not {tuple(parameter.shape)}: give that parameter to AdamW")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state: dict[str, Any] = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                average = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                direction = orthogonal(parameter.grad.lerp(average, group["momentum"]))
                rows, columns = parameter.shape
                parameter.add_(direction, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)
        return loss


def orthogonal(matrix_NM: Float[Tensor, "N M"]) -> Float[Tensor, "N M"]:
    """Return the nearest matrix with singular values about 1 (UVᵀ of its SVD), by Newton and Schulz's iteration."""
    a, b, c = _QUINTIC
    tall = matrix_NM.shape[0] > matrix_NM.shape[1]
    x: Tensor = matrix_NM.T if tall else matrix_NM
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(_ROUNDS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
