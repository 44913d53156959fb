"""The aligner: identity at the start, a naive reference of its neighbourhood, what it can and cannot reach."""

import math
from itertools import product
from typing import get_args

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from scipy import optimize
from torch.nn import functional

from components.core.errors import ParameterError
from components.media.choices import Distance, RowNorm
from components.media.map_algebra import map_distance
from components.sft.aligner import least_distance, make_aligner

REFUSED = (ParameterError, TypeCheckError)  # the latter where annotations are checked
NORMS, DISTANCES = get_args(RowNorm), get_args(Distance)


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


def naive_normal(row, norm):
    if norm == "zscore":
        return (row - row.mean()) / row.std(correction=0)
    return row / {"mean1": row.mean(), "sum1": row.sum(), "max": row.max(), "none": 1.0}[norm]


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


@pytest.mark.parametrize(("kind", "side"), [("local", 1), ("pointwise", 0)])
def test_forward_equals_an_mlp_on_each_neighbourhood(kind, side):
    aligner, a = stirred(kind), maps(2, 3, 4, 5).double() * 1e-4
    valid = maps(3, 4, 5, seed=5) > 0.2
    layers = (aligner.read, aligner.mix, aligner.write)
    w1, w2, w3 = (layer.weight.detach().numpy().reshape(layer.out_channels, -1) for layer in layers)
    b1, b2, b3 = (layer.bias.detach().numpy() for layer in layers)
    out = aligner(a, valid).detach().numpy()
    for r in range(2):
        mean = float(a[r][valid].mean())
        contrast = np.where(valid.numpy(), np.tanh(np.log(a[r].numpy() / mean) / 2), 0.0)
        reach = math.sqrt((contrast**2).sum() / int(valid.sum())) / 2
        for f, y, x in np.ndindex(3, 4, 5):
            near = (np.clip(range(at - side, at + side + 1), 0, n - 1) for at, n in ((f, 3), (y, 4), (x, 5)))
            around = contrast[np.ix_(*near)].ravel()
            warp = w3 @ gelu(w2 @ gelu(w1 @ around + b1) + b2) + b3
            factor = math.exp(reach * math.tanh(float(warp[0])))
            assert out[r, f, y, x] == pytest.approx(float(a[r, f, y, x]) * factor, rel=1e-9)


@pytest.mark.parametrize("kind", ["local", "pointwise"])
def test_commutes_with_rescaling(kind):
    aligner, a = stirred(kind), maps(2, 3, 4, 5).double()
    assert torch.allclose(aligner(a * 1e-5), aligner(a) * 1e-5, rtol=1e-9)


def smooth_maps(seed, shape=(6, 8, 8)):
    noise = torch.randn(6, 1, *(n + 4 for n in shape), generator=torch.Generator().manual_seed(seed))
    field = functional.avg_pool3d(functional.avg_pool3d(noise, 3, 1), 3, 1)[:, 0]
    return (field / field.std()).exp()


def correlated_maps(shape=(2, 2, 3), deviations=(0.003, 0.03, 0.3), correlations=(0.3, 0.8)):
    """Maps of mean 1 with exactly these deviations and correlations to their priors, one row each, in float64."""
    cases = list(product(deviations, correlations))
    noise = torch.randn(2, len(cases), math.prod(shape), generator=torch.Generator().manual_seed(0)).double()
    prior = (0.6 * noise[0]).exp()

    def unit(x):
        return (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)

    along = unit(prior)
    across = unit(unit(noise[1]) - (unit(noise[1]) * along).mean(1, keepdim=True) * along)
    sd, rho = torch.tensor(cases).double().T[..., None]
    made = 1 + sd * (rho * along + (1 - rho**2).sqrt() * across)
    assert made.min() > 0
    return made.view(-1, *shape), (prior / prior.mean(1, keepdim=True)).view(-1, *shape)


TRAININGS = [(norm, kind, 1e-2) for norm, kind in product(NORMS, DISTANCES)] + [("mean1", "mse", 1e-4)]


@pytest.mark.parametrize(("norm", "kind", "rate"), TRAININGS)
def test_no_training_aborts_or_passes_the_bound(norm, kind, rate):
    """400 steps on fixed maps and on maps that are trained as well (softmaxes, as a VLM's); `rate` 1e-4 is the default.

    A residual aligner, A + mean · MLP, goes below the bound of the fixed ones.
    """
    fixed, prior = (maps.float() for maps in correlated_maps())
    torch.manual_seed(0)
    aligner, logits = make_aligner("local"), fixed.flatten(1).log().requires_grad_()
    groups = [{"params": aligner.parameters(), "lr": rate}, {"params": [logits], "lr": 1e-2}]
    optimizer = torch.optim.AdamW(groups, fused=True)
    for step in range(400):
        free = logits.shape[1] * logits.softmax(1).view_as(fixed)
        loss = map_distance(aligner(torch.cat([fixed, free])), torch.cat([prior, prior]), None, norm, kind)
        assert math.isfinite(loss.item()), step
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        after = map_distance(aligner(fixed), prior, None, norm, kind)
    assert float(after) >= float(least_distance(fixed, prior, None, norm, kind)) * (1 - 1e-5)


def test_a_stream_of_flat_maps_stays_flat():
    """Each step sees new maps, as a training does. A residual aligner fails in ten steps: a row's mean falls to 0."""
    torch.manual_seed(0)
    aligner = make_aligner("local")
    optimizer = torch.optim.AdamW(aligner.parameters(), lr=1e-2)
    for step in range(40):
        prior, other = smooth_maps(step, (4, 6, 8)), smooth_maps(step + 1000, (4, 6, 8))
        flat = 1 + 0.03 * (0.8 * prior.log() + 0.6 * other.log())
        loss = map_distance(aligner(flat), prior)
        assert loss.item() == pytest.approx(map_distance(flat, prior).item(), rel=0.05), step
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("norm", NORMS)
def test_least_distance_against_a_search_over_all_factors(norm):
    """The factors themselves, by scipy's bounded minimizer: none goes below, and it ends there (`max`: a bound)."""
    made, prior = correlated_maps((1, 3, 4), (0.03, 0.6))
    for row, target in zip(made, prior, strict=True):
        density = row / row.mean()
        reach = float(((density - 1) / (density + 1)).square().mean().sqrt()) / 2

        def distance(logs, row=row, target=target):
            logs = torch.from_numpy(logs).requires_grad_()
            own, prior = (naive_normal(x, norm) for x in (row.flatten() * logs.exp(), target.flatten()))
            value = (own - prior).square().mean()
            value.backward()
            return value.item(), logs.grad.numpy()

        start, limits = np.zeros(row.numel()), [(-reach, reach)] * row.numel()
        found = optimize.minimize(distance, start, jac=True, bounds=limits, tol=1e-14).fun
        least = float(least_distance(row[None], target[None], None, norm))
        assert found >= least * (1 - 1e-6)
        assert norm == "max" or found == pytest.approx(least, rel=1e-5)


def test_least_distance_of_several_rows_over_valid_cells():
    """By `distance`: a mean over cells and rows, over rows, or the root of the sum; other cells have no part."""
    (made, prior), valid = correlated_maps((2, 3, 4), (0.3,)), maps(2, 3, 4) > 0.3
    cells = int(valid.sum())
    each = [
        float(least_distance(m[valid].view(1, 1, 1, -1), p[valid].view(1, 1, 1, -1)))
        for m, p in zip(made, prior, strict=True)
    ]
    expected = {"mse": np.mean(each), "sse": cells * np.mean(each), "l2": math.sqrt(cells * sum(each))}
    for kind, value in expected.items():
        assert float(least_distance(made, prior, valid, "mean1", kind)) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("kind", ["local", "pointwise"])
def test_factors_stay_within_the_reach(kind):
    """Even from a network whose output saturates: at most b · κ, at most 1/4 of a nearly flat map's own deviation."""
    aligner = stirred(kind)
    torch.nn.init.normal_(aligner.write.weight, std=1e3)
    sharp = torch.full((1, 3, 4, 5), 1e-12, dtype=torch.float64)
    sharp[0, 1, 2, 3] = 1.0
    flat = 1 + 0.003 * torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    for made, most in ((sharp, 0.5), (flat, float(flat.std(correction=0)) / 4), (torch.ones_like(flat), 0.0)):
        logs = (aligner(made) / made).log().abs().detach()
        assert 0.98 * most <= float(logs.max()) <= 1.002 * most + 1e-12


def test_extreme_maps_train_on():
    """A density of 1000 in one cell, a row of 0, a flat row: loss and gradients stay finite."""
    made = torch.full((3, 4, 15, 20), 1e-5)
    made[0, 2, 7, 9] = 0.06
    made[1] = 0.0
    made.requires_grad_()
    prior = smooth_maps(0, (4, 15, 20))[:3]
    torch.manual_seed(0)
    for norm in NORMS:
        aligner = make_aligner("local")
        optimizer = torch.optim.AdamW(aligner.parameters(), lr=1e-2)
        for _ in range(5):
            optimizer.zero_grad()
            loss = map_distance(aligner(made), prior, None, norm, "sse")
            loss.backward()
            optimizer.step()
        found = [loss, made.grad, *(parameter.grad for parameter in aligner.parameters())]
        assert all(bool(torch.isfinite(value).all()) for value in found), norm
        assert torch.linalg.vector_norm(made.grad).isfinite(), norm


def test_warps_smooth_maps_by_a_cell_but_does_not_undo_a_permutation():
    """What "slight warping" means, on unseen maps: a shift by a cell is made in part, a scrambled order remains."""
    a, unseen = smooth_maps(3), smooth_maps(4)
    places = torch.randperm(a[0].numel(), generator=torch.Generator().manual_seed(0))
    inner = torch.zeros(6, 8, 8, dtype=torch.bool)
    inner[:, :, 1:] = True
    warps = {"shifted": lambda m: m.roll(1, -1), "scrambled": lambda m: m.flatten(1)[:, places].view_as(m)}
    left = {}
    for name, warp in warps.items():
        torch.manual_seed(0)
        aligner = make_aligner("local")
        optimizer = torch.optim.Adam(aligner.parameters(), lr=3e-3)
        for _ in range(100):
            optimizer.zero_grad()
            map_distance(aligner(a), warp(a), inner).backward()
            optimizer.step()
        with torch.no_grad():
            after, before = (map_distance(maps, warp(unseen), inner) for maps in (aligner(unseen), unseen))
            left[name] = float(after / before)
    assert left["shifted"] < 0.65, left
    assert left["scrambled"] > 0.75, left


def test_unknown_kind():
    with pytest.raises(REFUSED, match="aligner"):
        make_aligner("global")
