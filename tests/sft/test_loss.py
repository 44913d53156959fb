"""Both losses against formulas in numpy float64, their relations, and the control maps on clips made by hand."""

import math

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from components.core.errors import DataError, ParameterError
from components.core.records import Grid
from components.media.map_algebra import frame_difference_prior, map_distance, normalize_rows
from components.sft.loss import effective_weight, prior_variance, response_loss, shuffled_prior, uniform_prior
from tests.arithmetic import rounding

REFUSED = (ParameterError, TypeCheckError)  # the latter where annotations are checked
NORMS = ["mean1", "sum1", "max", "zscore", "none"]


def maps(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.01


def naive_normal(row, kind):
    if kind == "mean1":
        return row * len(row) / row.sum()
    if kind == "sum1":
        return row / row.sum()
    if kind == "max":
        return row / max(row)
    if kind == "zscore":
        return (row - row.sum() / len(row)) / math.sqrt(sum((v - row.sum() / len(row)) ** 2 for v in row) / len(row))
    return row


def naive_distance(a, b, valid, norm, kind):
    keep = np.flatnonzero(valid.numpy().ravel())
    squares = []
    for x, y in zip(a.numpy(), b.numpy(), strict=True):
        gap = naive_normal(x.ravel()[keep], norm) - naive_normal(y.ravel()[keep], norm)
        squares.append(float((gap**2).sum()))
    words, cells = len(squares), len(keep)
    return {"mse": sum(squares) / words / cells, "sse": sum(squares) / words, "l2": math.sqrt(sum(squares))}[kind]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["mse", "sse", "l2"])
def test_distance_equals_its_formula(norm, kind):
    a, b = maps(4, 3, 5, 6), maps(4, 3, 5, 6, seed=1)
    valid = maps(3, 5, 6, seed=2) > 0.3
    found = map_distance(a, b, valid, norm, kind)
    assert float(found) == pytest.approx(naive_distance(a, b, valid, norm, kind), rel=rounding(valid.numel()))


def test_mean1_mse_is_cells_times_sum1_sse_in_value_and_gradient():
    b, valid = maps(3, 4, 5, 6, seed=1), maps(4, 5, 6, seed=2) > 0.4
    cells = int(valid.sum())
    results = []
    for norm, kind in (("mean1", "mse"), ("sum1", "sse")):
        a = maps(3, 4, 5, 6).requires_grad_()
        value = map_distance(a, b, valid, norm, kind)
        value.backward()
        results.append((value.detach(), a.grad))
    (value, gradient), (small_value, small_gradient) = results
    close = rounding(cells)
    torch.testing.assert_close(value, cells * small_value, rtol=close, atol=0)
    scale = float(gradient.abs().max())
    torch.testing.assert_close(gradient, cells * small_gradient, rtol=0, atol=close * scale)


@pytest.mark.parametrize("norm", ["mean1", "sum1", "max", "zscore"])
def test_raw_attention_and_density_are_the_same_row(norm):
    """Rows of 17 550 cells hold values of 1e-5; the loss does not see the unit."""
    a, b = maps(2, 3, 5, 6), maps(2, 3, 5, 6, seed=1)
    small, plain = (float(map_distance(scale * a, b, None, norm)) for scale in (1e-5, 1))
    assert small == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["mse", "sse", "l2"])
def test_gradients_are_finite_where_maps_agree_or_are_flat(norm, kind):
    a = maps(2, 2, 3, 3).float()
    for vlm in (a.clone(), torch.full_like(a, 0.1), torch.zeros_like(a)):
        vlm.requires_grad_()
        map_distance(vlm, a, None, norm, kind).backward()
        assert bool(torch.isfinite(vlm.grad).all())


@pytest.mark.parametrize("norm", NORMS)
def test_a_row_without_attention_has_a_small_gradient(norm):
    """Divided by the smallest number there is, it would be infinite here, and no number once it is clipped."""
    prior = torch.full((2, 4, 15, 20), 1e-3)
    prior[:, 2, 7, 9] = 1.0
    vlm = torch.stack([prior[0], torch.zeros_like(prior[0])]).requires_grad_()
    map_distance(vlm, prior, None, norm, "sse").backward()
    assert float(vlm.grad.abs().max()) < 1e8


def test_zscore_does_not_blow_up_a_flat_rows_rounding():
    flat = torch.full((1, 1, 7, 11), 0.1)
    flat[0, 0, 0, 0] *= 1 + 1e-7
    assert float(normalize_rows(flat, None, "zscore").abs().max()) < 0.1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["mse", "sse", "l2"])
def test_priors_in_half_precision_give_the_same_loss(norm, kind):
    """Densities from 1e-4 to hundreds, as attention has them: less of a difference than one cell's rounding."""
    own, exact = (
        torch.from_numpy(np.random.default_rng(seed).lognormal(0, 2, (4, 5, 12, 16))).float() for seed in (1, 2)
    )
    exact = exact / exact.mean((1, 2, 3), keepdim=True)
    found = []
    for prior in (exact, exact.half().float()):
        vlm = own.clone().requires_grad_()
        loss = map_distance(vlm, prior, None, norm, kind)
        loss.backward()
        found.append((loss.item(), vlm.grad))
    (loss, gradient), (rounded, its_gradient) = found
    assert 0 < abs(rounded / loss - 1) < 2.0**-11
    assert float((its_gradient - gradient).norm() / gradient.norm()) < 2.0**-11


def test_gradcheck():
    b = maps(2, 2, 2, 3, seed=1)
    for norm in NORMS:
        a = maps(2, 2, 2, 3).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, n=norm: normalize_rows(x, None, n) - normalize_rows(b, None, n), (a,))


def test_contrast_scale():
    prior = maps(3, 2, 4, 4)
    rows = prior.numpy().reshape(3, -1)
    expected = np.mean([np.var(row / row.mean()) for row in rows])
    assert prior_variance(prior) == pytest.approx(expected)
    assert effective_weight(2.0, "none", 0.33) == 2.0
    assert effective_weight(2.0, "contrast", 0.5) == 4.0
    # under mean1 + mse the distance of a prior from the uniform map is its variance
    assert float(map_distance(uniform_prior(prior), prior)) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(DataError, match="flat"):
        effective_weight(1.0, "contrast", prior_variance(uniform_prior(prior)))


def test_response_loss_is_a_mean_over_tokens_then_samples():
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[-100, 3, 4, -100, -100], [-100, 1, 2, 0, 6]])
    probabilities = np.exp(logits.double().numpy())
    probabilities /= probabilities.sum(-1, keepdims=True)
    per_sample = []
    for b in range(2):
        losses = [-math.log(probabilities[b, i, t]) for i, t in enumerate(targets[b].tolist()) if t != -100]
        per_sample.append(sum(losses) / len(losses))
    assert float(response_loss(logits, targets)) == pytest.approx(sum(per_sample) / 2, rel=rounding(7))
    with pytest.raises(DataError, match="response"):
        response_loss(logits, torch.full((2, 5), -100))


def test_shuffled_prior_takes_the_others_rows_onto_this_grid():
    own, other = maps(5, 2, 3, 4), maps(2, 2, 3, 4, seed=1)
    found = shuffled_prior(own, other)
    assert torch.equal(found, other[[0, 1, 0, 1, 0]])
    ramp = torch.linspace(0, 1, 8, dtype=torch.float64).view(1, 1, 1, 8).expand(1, 4, 6, 8)
    resized = shuffled_prior(own, ramp)
    assert resized.shape == own.shape
    assert torch.allclose(resized[0, 0, 0], ramp[0, 0, 0].view(4, 2).mean(1))  # half as many columns: their middles


TIMES = [float(k) for k in range(8)]
GRID = Grid(times=[(-0.5, 1.5), (1.5, 3.5), (3.5, 5.5), (5.5, 7.5)], rows=2, cols=4, box=(0.0, 1.0, 0.0, 1.0))


def test_frame_difference_of_noise_against_pooling_by_hand():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    change = np.abs(np.diff(frames.astype(np.float64), axis=0)).mean(-1)
    change = np.concatenate([change[:1], change])
    pooled = change.reshape(4, 2, 2, 4, 4, 2).mean((1, 3, 5))
    found = frame_difference_prior(maps(1, 4, 2, 4), torch.from_numpy(frames), TIMES, GRID)[0]
    assert np.allclose(found.numpy(), pooled / pooled.mean(), rtol=1e-4)


def test_frame_difference_of_a_still_clip_is_uniform():
    frames = torch.full((8, 8, 8, 3), 100, dtype=torch.uint8)
    found = frame_difference_prior(maps(2, 4, 2, 4), frames, TIMES, GRID)
    assert torch.equal(found, torch.ones_like(found))
    with pytest.raises(DataError, match="1 frames"):
        frame_difference_prior(maps(2, 4, 2, 4), frames[:1], TIMES[:1], GRID)


def test_refusals():
    a = maps(2, 2, 3, 3)
    with pytest.raises(DataError, match="A_VLM"):
        map_distance(a, a[:1])
    with pytest.raises(DataError, match="0 cells"):
        map_distance(a, a, torch.zeros(2, 3, 3, dtype=torch.bool))
    with pytest.raises(DataError, match="0 rows"):
        map_distance(a[:0], a[:0])
    with pytest.raises(REFUSED, match="row_norm"):
        map_distance(a, a, None, "softmax")
    with pytest.raises(REFUSED, match="distance"):
        map_distance(a, a, None, "mean1", "kl")
    with pytest.raises(REFUSED, match="align_scale"):
        effective_weight(1.0, "auto", 1.0)
