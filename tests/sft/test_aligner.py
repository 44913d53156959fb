"""The aligner: identity at the start, a naive reference of its neighbourhood, what it can and cannot reach."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from components.core.errors import ParameterError
from components.media.map_algebra import map_distance
from components.sft.aligner import Aligner, make_aligner

REFUSED = (ParameterError, TypeCheckError)  # the latter where annotations are checked


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) + 0.01


def stirred(kind: str, seed: int = 0) -> Aligner:
    """An aligner away from the identity, in float64."""
    torch.manual_seed(seed)
    aligner = make_aligner(kind)  # type: ignore[arg-type]
    assert isinstance(aligner, Aligner)
    torch.nn.init.normal_(aligner.write.weight, std=0.3)
    torch.nn.init.normal_(aligner.write.bias, std=0.3)  # type: ignore[arg-type]
    return aligner.double()


@pytest.mark.parametrize("kind", ["local", "pointwise", "none"])
def test_identity_at_initialization(kind: str) -> None:
    aligner = make_aligner(kind)  # type: ignore[arg-type]
    for scale in (1.0, 1e-5):
        a = (maps(3, 4, 5, 6) * scale).requires_grad_()
        out = aligner(a)
        assert torch.equal(out, a)
        out.square().sum().backward()
        assert a.grad is not None
        assert torch.allclose(a.grad, 2 * a.detach())


@pytest.mark.parametrize(
    ("kind", "count"),
    [("local", 27 * 64 + 64 + 64 * 64 + 64 + 64 + 1), ("pointwise", 128 + 64 * 64 + 64 + 65), ("none", 0)],
)
def test_layer_sizes(kind: str, count: int) -> None:
    aligner = make_aligner(kind)  # type: ignore[arg-type]
    assert sum(parameter.numel() for parameter in aligner.parameters()) == count


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


@pytest.mark.parametrize(("kind", "reach"), [("local", 1), ("pointwise", 0)])
def test_forward_equals_an_mlp_on_each_neighbourhood(kind: str, reach: int) -> None:
    aligner, a = stirred(kind), maps(2, 3, 4, 5).double() * 1e-4
    valid = maps(3, 4, 5, seed=5) > 0.2
    w1, w2, w3 = (
        layer.weight.detach().numpy().reshape(layer.out_channels, -1)
        for layer in (aligner.read, aligner.mix, aligner.write)
    )
    b1, b2, b3 = (layer.bias.detach().numpy() for layer in (aligner.read, aligner.mix, aligner.write))
    out = aligner(a, valid).detach().numpy()
    for r in range(2):
        mean = float(a[r][valid].mean())
        density = np.where(valid.numpy(), a[r].numpy() / mean, 1.0)
        for f, y, x in np.ndindex(3, 4, 5):
            around = [
                density[min(max(f + df, 0), 2), min(max(y + dy, 0), 3), min(max(x + dx, 0), 4)]
                for df in range(-reach, reach + 1)
                for dy in range(-reach, reach + 1)
                for dx in range(-reach, reach + 1)
            ]
            warp = w3 @ gelu(w2 @ gelu(w1 @ np.array(around) + b1) + b2) + b3
            assert out[r, f, y, x] == pytest.approx(float(a[r, f, y, x]) + mean * float(warp[0]), rel=1e-9)


@pytest.mark.parametrize("kind", ["local", "pointwise"])
def test_commutes_with_rescaling(kind: str) -> None:
    aligner, a = stirred(kind), maps(2, 3, 4, 5).double()
    assert torch.allclose(aligner(a * 1e-5), aligner(a) * 1e-5, rtol=1e-9)


def test_reach_is_one_cell() -> None:
    """With the rows' mean kept (a change here, its opposite far away) only the 27 cells around a change notice it."""
    aligner, a = stirred("local"), maps(1, 7, 9, 9).double()
    b = a.clone()
    b[0, 2, 2, 2] += 0.4
    b[0, 6, 8, 8] -= 0.4
    touched = ((aligner(a) - aligner(b)).abs() > 1e-12)[0]
    expected = torch.zeros(7, 9, 9, dtype=torch.bool)
    expected[1:4, 1:4, 1:4] = expected[5:7, 7:9, 7:9] = True
    assert torch.equal(touched, expected)


def test_rows_do_not_mix() -> None:
    aligner, a = stirred("local"), maps(3, 3, 4, 4).double()
    assert torch.allclose(aligner(a)[1:2], aligner(a[1:2]))
    assert aligner(a[:0]).shape == (0, 3, 4, 4)


def test_cells_that_nobody_saw_do_not_leak() -> None:
    aligner, a = stirred("local"), maps(2, 3, 4, 4).double()
    valid = torch.ones(3, 4, 4, dtype=torch.bool)
    valid[:, :, 3] = False
    b = a.clone()
    b[..., 3] = 1e3
    assert torch.allclose(aligner(a, valid)[:, valid], aligner(b, valid)[:, valid])


def test_learns_a_shift_by_a_cell_but_not_a_permutation() -> None:
    """What "slight warping" means: on unseen maps the local kind moves by a cell, but cannot undo a scrambled order.

    For independent cells the best answer to a scrambled map is the mean: Var of an initial distance of 2 Var, one half.
    """
    a, unseen = maps(6, 6, 8, 8, seed=3), maps(6, 6, 8, 8, seed=4)
    places = torch.randperm(a[0].numel(), generator=torch.Generator().manual_seed(0))
    inner = torch.zeros(6, 8, 8, dtype=torch.bool)
    inner[:, :, 1:] = True
    warps = {"shifted": lambda m: m.roll(1, -1), "scrambled": lambda m: m.flatten(1)[:, places].view_as(m)}
    left = {}
    for name, warp in warps.items():
        torch.manual_seed(0)
        aligner = make_aligner("local")
        optimizer = torch.optim.Adam(aligner.parameters(), lr=3e-3)
        for _ in range(150):
            optimizer.zero_grad()
            map_distance(aligner(a), warp(a), inner).backward()
            optimizer.step()
        with torch.no_grad():
            left[name] = float(
                map_distance(aligner(unseen), warp(unseen), inner) / map_distance(unseen, warp(unseen), inner)
            )
    assert left["shifted"] < 0.05, left
    assert left["scrambled"] > 0.4, left


def test_unknown_kind() -> None:
    with pytest.raises(REFUSED, match="aligner"):
        make_aligner("global")  # type: ignore[arg-type]
