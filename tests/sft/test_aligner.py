"""The aligner: identity at the start, a naive reference of its neighbourhood, what it can and cannot reach."""

import math

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from components.core.errors import ParameterError
from components.media.map_algebra import map_distance
from components.sft.aligner import make_aligner

REFUSED = (ParameterError, TypeCheckError)  # the latter where annotations are checked


def maps(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) + 0.01


def stirred(kind):
    """An aligner away from the identity, in float64."""
    torch.manual_seed(0)
    aligner = make_aligner(kind)
    torch.nn.init.normal_(aligner.write.weight, std=0.3)
    torch.nn.init.normal_(aligner.write.bias, std=0.3)
    return aligner.double()


@pytest.mark.parametrize("kind", ["local", "pointwise", "none"])
def test_identity_at_initialization(kind):
    aligner = make_aligner(kind)
    for scale in (1.0, 1e-5):
        a = (maps(3, 4, 5, 6) * scale).requires_grad_()
        out = aligner(a)
        assert torch.equal(out, a)
        out.square().sum().backward()
        assert torch.allclose(a.grad, 2 * a.detach())
        assert torch.equal(aligner(a[:0]), a[:0])


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


@pytest.mark.parametrize(("kind", "reach"), [("local", 1), ("pointwise", 0)])
def test_forward_equals_an_mlp_on_each_neighbourhood(kind, reach):
    aligner, a = stirred(kind), maps(2, 3, 4, 5).double() * 1e-4
    valid = maps(3, 4, 5, seed=5) > 0.2
    layers = (aligner.read, aligner.mix, aligner.write)
    w1, w2, w3 = (layer.weight.detach().numpy().reshape(layer.out_channels, -1) for layer in layers)
    b1, b2, b3 = (layer.bias.detach().numpy() for layer in layers)
    out = aligner(a, valid).detach().numpy()
    for r in range(2):
        mean = float(a[r][valid].mean())
        density = np.where(valid.numpy(), a[r].numpy() / mean, 1.0)
        for f, y, x in np.ndindex(3, 4, 5):
            near = (np.clip(range(at - reach, at + reach + 1), 0, n - 1) for at, n in ((f, 3), (y, 4), (x, 5)))
            around = density[np.ix_(*near)].ravel()
            warp = w3 @ gelu(w2 @ gelu(w1 @ around + b1) + b2) + b3
            assert out[r, f, y, x] == pytest.approx(float(a[r, f, y, x]) + mean * float(warp[0]), rel=1e-9)


@pytest.mark.parametrize("kind", ["local", "pointwise"])
def test_commutes_with_rescaling(kind):
    aligner, a = stirred(kind), maps(2, 3, 4, 5).double()
    assert torch.allclose(aligner(a * 1e-5), aligner(a) * 1e-5, rtol=1e-9)


def test_learns_a_shift_by_a_cell_but_not_a_permutation():
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
            after, before = (map_distance(maps, warp(unseen), inner) for maps in (aligner(unseen), unseen))
            left[name] = float(after / before)
    assert left["shifted"] < 0.05, left
    assert left["scrambled"] > 0.4, left


def test_unknown_kind():
    with pytest.raises(REFUSED, match="aligner"):
        make_aligner("global")
