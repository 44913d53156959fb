"""Grids and resampling against SciPy, F.interpolate, hand-made borders and painted geometry; a moving blob."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.interpolate import RegularGridInterpolator
from torch.nn import functional

from components.core.errors import DataError, ParameterError
from components.core.records import Grid
from components.media import grids
from components.models.video.causal import causal_grid
from components.models.vlm.internvl3 import segment_indices
from components.models.vlm.qwen2_5_vl import fps_indices

FULL = (0.0, 1.0, 0.0, 1.0)


def uniform(frames, rows, cols, box=FULL, start=0.0, end=8.0):
    edges = np.linspace(start, end, frames + 1)
    return Grid(times=[(a, b) for a, b in pairwise(edges)], rows=rows, cols=cols, box=box)


def rng_map(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).gamma(1.0, size=shape))


# Borders


def test_frame_intervals():
    assert grids.frame_intervals([0.0, 1.0, 3.0]) == [(-0.5, 0.5), (0.5, 2.0), (2.0, 4.0)]
    assert grids.frame_intervals([2.0], 6.0) == [(-1.0, 5.0)]
    assert grids.frame_intervals([0.0, 1.0, 1.0, 2.0]) == [(-0.5, 0.5), (0.5, 1.0), (1.0, 1.5), (1.5, 2.5)]
    assert grids.frame_intervals([1.0, 1.0], 2.0) == [(0.0, 1.0), (1.0, 2.0)]
    with pytest.raises(ParameterError):
        grids.frame_intervals([1.0, 0.0])


def test_sampled_borders():
    times = [0.0, 1.0, 2.0, 3.0, 4.0]
    odd = grids.sampled_grid(times, 2, 3, 4, 5.0)  # the last frame is repeated
    assert odd.times == [(-0.5, 1.5), (1.5, 3.5), (3.5, 4.5)]
    assert grids.sampled_grid(times, 1, 16, 16, 5.0).shape == (5, 16, 16)
    assert grids.sampled_grid([1.0], 2, 3, 4, 2.0).times == [(0.0, 2.0)]
    centres = [sum(cell) / 2 for cell in grids.sampled_grid(times[:4], 2, 1, 1, 4.0).times]
    assert centres == [0.5, 2.5]  # the mean of the two frames that a token shows


# Pixels


@pytest.mark.parametrize("size", [(48, 48), (30, 90), (96, 160)])
def test_squash_equals_pillow(size):
    # within a range in which Pillow does not clip between its two passes
    frames = np.random.default_rng(0).integers(90, 166, (2, 60, 90, 3), dtype=np.uint8)
    found, box = grids.fit_frames(frames, *size)
    assert (box, found.dtype) == (FULL, torch.uint8)
    assert np.array_equal(grids.fit_frames(frames, 60, 90)[0].numpy(), frames)  # that size is left untouched
    for i in range(2):
        expected = np.asarray(Image.fromarray(frames[i]).resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(found[i].numpy() - expected).max() <= 1  # Pillow rounds between them, too


TALL, WIDE = ((160, 90), (48, 72)), ((90, 160), (48, 72))


@pytest.mark.parametrize(("source", "target"), [TALL, WIDE, ((64, 64), (48, 96)), ((63, 101), (32, 32))])
def test_box_says_what_is_shown(source, target):
    """Frames painted with their own coordinates: every fitted pixel reads off where the box says it is."""
    y, x = np.meshgrid(*((np.arange(n) + 0.5) / n for n in source), indexing="ij")
    frames = np.stack([250 * y, 250 * x, 0 * x], axis=-1).round().astype(np.uint8)[None]
    for fit in ("squash", "crop"):
        fitted, (top, bottom, left, right) = grids.fit_frames(frames, *target, fit=fit)
        rows = top + (np.arange(target[0]) + 0.5) / target[0] * (bottom - top)
        cols = left + (np.arange(target[1]) + 0.5) / target[1] * (right - left)
        inner = (slice(3, -3), slice(3, -3))
        assert np.abs(fitted[0, ..., 0].numpy() / 250 - rows[:, None])[inner].max() < 0.01
        assert np.abs(fitted[0, ..., 1].numpy() / 250 - cols)[inner].max() < 0.01
        if fit == "crop":
            aspect = (right - left) * source[1] / ((bottom - top) * source[0])
            assert aspect == pytest.approx(target[1] / target[0], rel=0.02)
            assert max(bottom - top, right - left) == 1
            assert top + bottom == pytest.approx(1, abs=1.01 / source[0])
            assert left + right == pytest.approx(1, abs=1.01 / source[1])


# Resampling


UNEVEN = causal_grid([i / 8 for i in range(17)], 64, 96, (0.1, 0.9, 0.0, 1.0), 2, None)


@pytest.mark.parametrize("grid", [uniform(4, 5, 6), UNEVEN], ids=["uniform", "cogvideox"])
def test_identity(grid):
    values = rng_map(3, *grid.shape)
    found, valid = grids.resample(values, grid, grid)
    assert valid.all()
    assert (found - values).abs().max() <= 1e-12
    single = values.float()
    assert (grids.resample(single, grid, grid)[0] - single).abs().max() == 0


@pytest.mark.parametrize(
    ("source", "shape"),
    [((4, 5, 6), (8, 10, 12)), ((4, 5, 6), (4, 5, 6)), ((4, 5, 6), (7, 9, 8)), ((4, 6, 8), (2, 3, 4))],
)
def test_same_window_equals_trilinear(source, shape):
    src = uniform(*source)
    values = rng_map(2, 3, *src.shape)
    found, valid = grids.resample(values, src, uniform(*shape))
    assert valid.all()
    expected = functional.interpolate(values, shape, mode="trilinear", align_corners=False)
    assert (found - expected).abs().max() <= 1e-6
    assert torch.equal(grids.interpolate(values, shape), expected)
    assert grids.interpolate(values[0, 0], shape).shape == shape


GRIDS = {
    "cogvideox": causal_grid([3 + i / 8 for i in range(17)], 64, 96, (0.0, 1.0, 0.15, 0.85), 2, None),
    "cogvideox1.5": causal_grid([i / 4 for i in range(17)], 64, 96, (0.2, 0.8, 0.0, 1.0), 2, 2),
    "qwen": grids.sampled_grid([0.0, 1.4, 2.8, 4.2, 5.6, 7.0], 2, 6, 9, 7.1),
    "internvl": grids.sampled_grid([0.4 + 0.9 * i for i in range(8)], 1, 5, 5, 7.2),
}


def oracle(values, src, dst):
    """Mean over points of each cell with SciPy's interpolator; points outside the source's cells do not count."""
    s, d = [cells.numpy() for cells in grids.axes(src)], [cells.numpy() for cells in grids.axes(dst)]
    centres = [cells.mean(1) for cells in s]
    at = RegularGridInterpolator(centres, values.numpy(), method="linear") if min(map(len, centres)) > 1 else None
    out, valid = np.zeros(dst.shape), np.zeros(dst.shape, bool)
    for index in np.ndindex(dst.shape):
        axis_points, ok = [], True
        for axis in range(3):
            low, high = d[axis][index[axis]]
            spanned = sum(max(0.0, min(high, b) - max(low, a)) / (b - a) for a, b in s[axis])
            count = max(1, int(np.ceil(spanned - 1e-6)))
            points = low + (np.arange(count) + 0.5) / count * (high - low)
            kept = points[(points > s[axis].min() - 1e-9) & (points < s[axis].max() + 1e-9)]
            ok &= 2 * len(kept) >= len(points)
            axis_points.append(np.clip(kept, centres[axis][0], centres[axis][-1]))
        valid[index] = ok
        if ok:
            out[index] = at(np.stack(np.meshgrid(*axis_points, indexing="ij"), -1).reshape(-1, 3)).mean()
    return out, valid


@pytest.mark.parametrize("src", GRIDS)
@pytest.mark.parametrize("dst", GRIDS)
def test_against_the_oracle(src, dst):
    values = rng_map(*GRIDS[src].shape, seed=3)
    found, valid = grids.resample(values, GRIDS[src], GRIDS[dst])
    expected, covered = oracle(values, GRIDS[src], GRIDS[dst])
    assert np.array_equal(valid.numpy(), covered)
    assert covered.any()
    assert np.abs(found.numpy() - expected)[covered].max() <= 1e-9


def test_rows_sum_to_one_and_validity():
    src = torch.tensor([[2.0, 3.0], [3.0, 5.0]]).double()
    dst = torch.tensor([[0.0, 1.5], [1.5, 2.9], [3.0, 4.0], [4.4, 5.5], [4.6, 6.8]]).double()
    weights, valid = grids.axis_weights(src, dst)
    assert valid.tolist() == [False, True, True, True, False]
    sums = weights.sum(1)
    assert sums[valid].tolist() == pytest.approx([1, 1, 1])
    assert ((sums - 1).abs().lt(1e-12) | sums.eq(0)).all()
    assert (weights >= 0).all()


def test_gradient_reaches_exactly_the_covered_cells():
    src, dst = GRIDS["internvl"], GRIDS["cogvideox"]
    values = rng_map(2, *src.shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: grids.resample(v, src, dst)[0].sum((1, 2)), (values,))
    grids.resample(values, src, dst)[0].sum().backward()
    times = grids.axes(src)[0].mean(1)
    reached = values.grad.abs().sum((0, 2, 3)) > 0
    assert not reached[times < 3 - 0.9].any()
    assert reached[(times > 3) & (times < 5)].all()


# A moving blob, seen through both windows


def blob(t, y, x):
    """A spot that crosses a 12 s clip of 16:9 on a curve, about its own radius a second."""
    cy, cx = 0.5 + 0.25 * np.sin(0.5 * t), 0.15 + 0.7 * t / 12
    return np.exp(-((y - cy) ** 2) / (2 * 0.12**2) - ((x - cx) ** 2) / (2 * 0.09**2))


def seen(grid, times, groups):
    """What a model with this grid sees: spot averaged over each cell's area and over the frames it shows."""
    y, x = (np.asarray(cells).mean(1) for cells in grids.axes(grid)[1:])
    shots = blob(np.asarray(times)[:, None, None], y[None, :, None], x[None, None])
    return torch.from_numpy(np.stack([shots[list(group)].mean(0) for group in groups]))


@pytest.mark.parametrize(("family", "least"), [("qwen", 0.88), ("internvl", 0.97)])
def test_moving_blob_by_time_beats_blind_interpolation(family, least):
    times = [i / 30 for i in range(360)]
    vdm_times = [3 + i / 8 for i in range(49)]
    box = (0.0, 1.0, (1 - 720 / 480 * 9 / 16) / 2, (1 + 720 / 480 * 9 / 16) / 2)
    prior = causal_grid(vdm_times, 480, 720, box, patch=2, patch_t=None)
    truth = seen(prior, vdm_times, [(0,), *(range(4 * k - 3, 4 * k + 1) for k in range(1, 13))])
    if family == "qwen":
        shown = [times[i] for i in fps_indices(12.0, 360)]
        grid, groups = grids.sampled_grid(shown, 2, 12, 18, 12.0), [(i, i + 1) for i in range(0, 12, 2)]
    else:
        shown = [times[i] for i in segment_indices(360, 12)]
        grid, groups = grids.sampled_grid(shown, 1, 16, 16, 12.0), [(i,) for i in range(12)]
    vlm = seen(grid, shown, groups)
    aligned, valid = grids.resample(vlm, grid, prior)
    assert valid.all()
    centres = grids.axes(grid)[0].mean(1)
    window = vlm[(centres >= 3) & (centres <= 9)]
    maps = (aligned, grids.interpolate(window, prior.shape), grids.interpolate(vlm, prior.shape))
    by_time, by_window, blind = (np.corrcoef(m[valid].numpy(), truth[valid].numpy())[0, 1] for m in maps)
    assert by_time > least
    assert by_time > by_window + 0.01
    assert by_time > blind + 0.15


# Masks


def test_pooling_is_causal():
    mask = (np.random.default_rng(0).random((17, 64, 96)) < 0.3).astype(np.uint8)
    times = [i / 8 for i in range(17)]
    found = grids.pool_mask(mask, times, causal_grid(times, 64, 96, FULL, patch=2, patch_t=None))
    cells = mask.reshape(17, 4, 16, 6, 16).mean((2, 4))
    expected = np.stack([cells[0], *(cells[4 * k - 3 : 4 * k + 1].mean(0) for k in range(1, 5))])
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= 1e-6


def test_pooling_by_area_in_a_box():
    """Uneven overlap: against a picture so fine that every border falls on a pixel."""
    mask = np.zeros((4, 12, 20), np.uint8)
    mask[:, 3:8, 5:13] = 2
    mask[2:, 8:10, 2:6] = 1
    mask[1::2, 2:6, 8:15] = 1  # neighbouring frames differ, so that their weights show
    grid = Grid(times=[(0.5, 1.75), (2.0, 3.5)], rows=5, cols=3, box=(0.1, 0.7, 0.2, 0.95))
    found = grids.pool_mask(mask, [0.5, 1.5, 2.5, 3.5], grid)
    fine = np.repeat(np.repeat(np.repeat(mask > 0, 400, 0), 25, 1), 15, 2)  # 0.0025 s, 300 × 300
    for t, (start, end) in enumerate(grid.times):
        shot = fine[round(start * 400) : round(end * 400)].mean(0)
        for row, col in np.ndindex(5, 3):
            (top, bottom), (left, right) = (30 + 36 * row, 66 + 36 * row), (60 + 75 * col, 135 + 75 * col)
            assert found[t, row, col] == pytest.approx(shot[top:bottom, left:right].mean(), abs=1e-6)


def test_pooling_beyond_the_frame_and_beyond_time():
    mask = np.ones((3, 8, 8), np.uint8)
    taller = Grid(times=[(0.0, 2.0)], rows=4, cols=1, box=(-0.5, 1.5, 0.0, 1.0))
    letterbox = grids.pool_mask(mask, [0.0, 1.0, 2.0], taller)
    assert letterbox[0, :, 0].tolist() == [0, 1, 1, 0]
    with pytest.raises(DataError):
        grids.pool_mask(mask, [0.0, 1.0, 2.0], Grid(times=[(5.0, 6.0)], rows=1, cols=1, box=FULL))
    with pytest.raises(ParameterError):
        grids.pool_mask(mask, [0.0, 1.0], uniform(1, 1, 1))
    with pytest.raises(ParameterError, match="map of shape"):
        grids.resample(rng_map(4, 5, 7), uniform(4, 5, 6), uniform(2, 2, 2))
