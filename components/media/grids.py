"""Time and geometry of attention grids: which pixels a model saw, what each token covers, and maps moved between grids.

A grid is described by cell intervals in the source's own coordinates (seconds; fractions of the upright frame), so a
prior over one window of a clip can be compared with a VLM's map over another. Resampling (decision `grid: aligned`) is
one row-stochastic matrix W per axis, A_dst = W_t ⊗ W_y ⊗ W_x · A_src: values are interpolated, not masses, as attention
is per token and latent 0 is short. `interpolate` is Algorithm 1's letter (trilinear, blind).
Legend: n sampled frames, F frames of the source; t,h,w source grid, T,H,W destination grid; s source cells, d
destination cells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor
from torch.nn import functional

from components.core.errors import DataError, ParameterError
from components.core.records import Grid
from components.media.choices import Fit, GridChoice

Interval = tuple[float, float]
_EPS = 1e-9  # relative to a cell: a border computed in two ways is still one border


# Which pixels ---------------------------------------------------------------------------------------------------------


def fit_frames(
    frames: UInt8[np.ndarray, "n H W 3"], height: int, width: int, fit: Fit = "squash"
) -> tuple[UInt8[Tensor, "n h w 3"], tuple[float, float, float, float]]:
    """Return frames at the model's size (antialiased bicubic), and the part of the source they show.

    The part is (top, bottom, left, right) as fractions.
    `squash` keeps every pixel of the clip, `crop` the largest centred part of the target's aspect ratio (decision
    `fit`).
    """
    fitted = torch.empty((len(frames), height, width, 3), dtype=torch.uint8)
    for i, frame in enumerate(frames):  # one by one: a float copy of a whole 1080p clip would take gigabytes
        fitted[i] = torch.from_numpy(fit_frame(frame, height, width, fit))
    rows, cols = frames.shape[1:3]
    return fitted, shown_part(rows, cols, height, width, fit)


def fit_frame(
    frame_HW3: UInt8[np.ndarray, "H W 3"], height: int, width: int, fit: Fit = "squash"
) -> UInt8[np.ndarray, "h w 3"]:
    """Return one frame as `fit_frames` makes it, for readers that hold no more than the result."""
    rows, cols = frame_HW3.shape[:2]
    top, bottom, left, right = _kept(rows, cols, height, width, fit)
    part_HW3 = torch.from_numpy(np.ascontiguousarray(frame_HW3[top:bottom, left:right]))
    return (part_HW3 if part_HW3.shape[:2] == (height, width) else _resize(part_HW3, height, width)).numpy()


def shown_part(rows: int, cols: int, height: int, width: int, fit: Fit) -> tuple[float, float, float, float]:
    """Return (top, bottom, left, right) of what `fit_frames` shows of a frame of rows × cols pixels, as fractions."""
    top, bottom, left, right = _kept(rows, cols, height, width, fit)
    return top / rows, bottom / rows, left / cols, right / cols


def _kept(rows: int, cols: int, height: int, width: int, fit: Fit) -> tuple[int, int, int, int]:
    if fit == "squash":
        return 0, rows, 0, cols
    keep_rows = min(rows, max(1, round(cols * height / width)))
    keep_cols = min(cols, max(1, round(rows * width / height)))
    top, left = (rows - keep_rows) // 2, (cols - keep_cols) // 2
    return top, top + keep_rows, left, left + keep_cols


def _resize(picture_HW3: UInt8[Tensor, "H W 3"], height: int, width: int) -> UInt8[Tensor, "h w 3"]:
    planes = picture_HW3.permute(2, 0, 1)[None].float()
    resized = functional.interpolate(planes, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return resized[0].round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)


# What a token covers --------------------------------------------------------------------------------------------------


def frame_intervals(frame_times: Sequence[float], duration: float | None = None) -> list[Interval]:
    """Return the time each sampled frame stands for: half-way to its neighbours, at both ends as far outwards.

    A frame's time is the middle of its interval (at equal spacing), because that is where interpolation puts its value;
    the outer intervals may therefore begin before 0 or end after the clip, where nothing is compared. A repeated frame
    shares its interval with its repetitions. A single frame stands for the whole `duration` (seconds; 1 if not given).
    """
    repeats = Counter(frame_times)
    distinct = sorted(repeats)
    if list(frame_times) != sorted(frame_times):
        raise ParameterError(
            f"frame times out of order: {list(frame_times)[:8]}", source="frame times", remedy="sort the frames by time"
        )
    if len(distinct) == 1:
        borders = [distinct[0] - (duration or 1.0) / 2, distinct[0] + (duration or 1.0) / 2]
    else:
        inner = [(a + b) / 2 for a, b in pairwise(distinct)]
        borders = [2 * distinct[0] - inner[0], *inner, 2 * distinct[-1] - inner[-1]]
    cells: list[Interval] = []
    for i, time in enumerate(distinct):
        edges = np.linspace(borders[i], borders[i + 1], repeats[time] + 1)
        cells += pairwise(float(edge) for edge in edges)
    return cells


def sampled_grid(frame_times: Sequence[float], group: int, rows: int, cols: int, duration: float) -> Grid:
    """Return the grid of a VLM that sees whole frames, `group` frames per token; the last is repeated to fill one.

    `duration` (seconds of the clip) is what a single frame stands for.
    """
    cells = frame_intervals(frame_times, duration)
    times = [(cells[i][0], cells[min(i + group, len(cells)) - 1][1]) for i in range(0, len(cells), group)]
    return Grid(times=times, rows=rows, cols=cols, box=(0.0, 1.0, 0.0, 1.0))


def axes(grid: Grid) -> tuple[Float64[Tensor, "T 2"], Float64[Tensor, "H 2"], Float64[Tensor, "W 2"]]:
    """Cell intervals of the three axes: seconds, fractions of the height, fractions of the width."""
    top, bottom, left, right = grid.box
    return (
        torch.tensor(grid.times, dtype=torch.float64),
        _uniform(grid.rows, top, bottom),
        _uniform(grid.cols, left, right),
    )


def _uniform(n: int, low: float, high: float) -> Float64[Tensor, "n 2"]:
    edges = torch.linspace(low, high, n + 1, dtype=torch.float64)
    return torch.stack([edges[:-1], edges[1:]], dim=1)


# Moving maps between grids --------------------------------------------------------------------------------------------


def axis_weights(
    src: Float64[Tensor, "s 2"], dst: Float64[Tensor, "d 2"]
) -> tuple[Float64[Tensor, "d s"], Bool[Tensor, " d"]]:
    """Weights of one axis: the mean over each destination cell of the linear interpolant through the source's centres.

    The mean is taken over evenly placed points, as many as the cell spans source cells: one where destination cells are
    the smaller ones (then this is `F.interpolate`), and one where both are the same (then nothing changes). Points
    outside the source's cells do not count; a destination cell with less than half of its points inside is invalid.
    Rows sum to 1, or are 0 where no point is inside.
    """
    points_dp, used_dp = _points(src, dst)
    reach = _EPS * (src[:, 1] - src[:, 0]).min()
    inside_dp = used_dp & (points_dp >= src.min() - reach) & (points_dp <= src.max() + reach)
    weights_dps = _interpolation(src.mean(dim=1), points_dp) * inside_dp[..., None]
    counts_d = inside_dp.sum(dim=1)
    return weights_dps.sum(dim=1) / counts_d.clamp_min(1)[:, None], 2 * counts_d >= used_dp.sum(dim=1)


def _points(
    src: Float64[Tensor, "s 2"], dst: Float64[Tensor, "d 2"]
) -> tuple[Float64[Tensor, "d p"], Bool[Tensor, "d p"]]:
    """Points of every destination cell, and which of the columns are used: cells differ in how many they need."""
    shared_ds = torch.minimum(dst[:, 1:], src[:, 1]) - torch.maximum(dst[:, :1], src[:, 0])
    spanned_d = (shared_ds.clamp_min(0) / (src[:, 1] - src[:, 0])).sum(dim=1)
    counts_d1 = (spanned_d - 1e-6).ceil().clamp_min(1)[:, None]
    place_p = torch.arange(int(counts_d1.max()), dtype=torch.float64)
    return dst[:, :1] + (place_p + 0.5) / counts_d1 * (dst[:, 1:] - dst[:, :1]), place_p < counts_d1


def _interpolation(centres: Float64[Tensor, " s"], points_dp: Float64[Tensor, "d p"]) -> Float64[Tensor, "d p s"]:
    """Weights of the piecewise linear interpolant through `centres`, constant beyond the outer ones."""
    weights = torch.zeros((*points_dp.shape, len(centres)), dtype=torch.float64)
    if len(centres) == 1:
        return weights + 1
    at = points_dp.clamp(float(centres[0]), float(centres[-1]))
    right = torch.searchsorted(centres, at).clamp(1, len(centres) - 1)
    share = (at - centres[right - 1]) / (centres[right] - centres[right - 1])
    weights.scatter_(2, right[..., None] - 1, (1 - share)[..., None])
    return weights.scatter_(2, right[..., None], share[..., None])


def resample(
    values: Float[Tensor, "*batch t h w"], src: Grid, dst: Grid
) -> tuple[Float[Tensor, "*batch T H W"], Bool[Tensor, "T H W"]]:
    """Values of one grid at the cells of another, by time stamp and geometry; differentiable in `values`.

    Returns:
        The values on `dst`, and which of its cells `src` covers: the others hold no information and must be left out.

    Raises:
        ParameterError: the values do not have the source grid's shape.
    """
    if tuple(values.shape[-3:]) != src.shape:
        raise ParameterError(
            f"a map of shape {tuple(values.shape)}", source="resample", remedy=f"its last axes must be {src.shape}"
        )
    out, valid = values, torch.ones(dst.shape, dtype=torch.bool, device=values.device)
    for axis, (cells_src, cells_dst) in enumerate(zip(axes(src), axes(dst), strict=True)):
        weights, inside = axis_weights(cells_src, cells_dst)
        out = torch.movedim(torch.movedim(out, axis - 3, -1) @ weights.T.to(out), -1, axis - 3)
        valid = valid & inside.to(valid.device).view([-1 if k == axis else 1 for k in range(3)])
    return out, valid


def interpolate(values: Float[Tensor, "*batch t h w"], shape: tuple[int, int, int]) -> Float[Tensor, "*batch T H W"]:
    """Trilinear interpolation of the whole map, blind to what the grids cover (Algorithm 1's letter)."""
    flat = values.reshape(1, -1, *values.shape[-3:])
    return functional.interpolate(flat, shape, mode="trilinear", align_corners=False).reshape(
        *values.shape[:-3], *shape
    )


def on_grid(
    values_TS: Float[Tensor, "T S"], seen: Grid, grid: Grid, choice: GridChoice
) -> tuple[Float[Tensor, "T F H W"], Bool[Tensor, "F H W"]]:
    """Return values of visual tokens on the prior's cells, differentiably, and which cells the VLM saw."""
    values = values_TS.reshape(-1, *seen.shape)
    if choice == "interpolate":
        return interpolate(values, grid.shape), torch.ones(grid.shape, dtype=torch.bool, device=values.device)
    placed, valid = resample(values, seen, grid)
    return placed, valid.to(values.device)


def pool_mask(mask: UInt8[np.ndarray, "F H W"], frame_times: Sequence[float], grid: Grid) -> Float[np.ndarray, "T h w"]:
    """Share of each cell of `grid` that a mask over the source's frames (non-zero is set) covers, float32 in [0, 1].

    In time the mean over the frames that the cell spans, weighted by overlap; in space by area, where a part of a cell
    beyond the frame counts as not covered.

    Raises:
        ParameterError: not one time a frame.
        DataError: a cell of the grid lies outside the mask's time.
    """
    if len(mask) != len(frame_times):
        raise ParameterError(
            f"{len(mask)} mask frames, {len(frame_times)} times",
            source="pool_mask",
            remedy="give the video's own times",
        )
    time_TF, rows_hH, cols_wW = (
        _overlap(cells.numpy(), edges)
        for cells, edges in zip(
            axes(grid),
            (
                np.asarray(frame_intervals(frame_times)),
                _uniform(mask.shape[1], 0.0, 1.0).numpy(),
                _uniform(mask.shape[2], 0.0, 1.0).numpy(),
            ),
            strict=True,
        )
    )
    seen_T = time_TF.sum(axis=1, keepdims=True)
    if (seen_T <= 0).any():
        raise DataError(
            "a cell of the grid lies outside the mask's time",
            source="pool_mask",
            remedy="use the mask of the same video",
        )
    pooled = np.einsum("TF,FHW->THW", time_TF / seen_T, (mask > 0).astype(np.float64))
    covered: np.ndarray = rows_hH @ pooled @ cols_wW.T
    return covered.astype(np.float32)


def _overlap(cells: Float64[np.ndarray, "d 2"], parts: Float64[np.ndarray, "s 2"]) -> Float64[np.ndarray, "d s"]:
    """Share of each cell that each part covers."""
    shared = np.minimum(cells[:, None, 1], parts[None, :, 1]) - np.maximum(cells[:, None, 0], parts[None, :, 0])
    lengths = cells[:, 1:] - cells[:, :1]
    share: np.ndarray = np.where(shared < _EPS * lengths, 0.0, shared) / lengths
    return share
