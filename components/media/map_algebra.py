"""Algebra of attention maps: rows normalized, the distance of two maps, the clip's own |frame difference| as a map.

Decisions `row_norm` and `distance` (method step 6): `mse` is the supplement's eq. 20, `sse` eq. 24, `l2` Algorithm 1
line 31 and main text eq. 15. With V valid cells, `mean1` + `mse` is V times `sum1` + `sse`, both in value and gradient.

Legend: T words, F H W the prior's grid, V valid cells, n source frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from components.core.errors import DataError, ParameterError
from components.core.records import Grid
from components.media.choices import Distance, RowNorm
from components.media.grids import axes, axis_weights, frame_intervals


def normalize_rows(
    maps_TFHW: Float[Tensor, "T F H W"], valid_FHW: Bool[Tensor, "F H W"] | None = None, row_norm: RowNorm = "mean1"
) -> Float[Tensor, "T V"]:
    """Rows (≥ 0) over the valid cells, normalized (decision `row_norm`). A row without attention stays 0.

    `mean1` mean 1 (density relative to uniform), `sum1` a distribution, `max` largest 1, `zscore` mean 0 and population
    deviation 1, `none` as they are.

    Raises:
        DataError: no rows or no valid cells.
        ParameterError: an unknown normalization.
    """
    rows_TV = maps_TFHW.flatten(1) if valid_FHW is None else maps_TFHW[:, valid_FHW]
    if not rows_TV.numel():
        problem = f"{rows_TV.shape[0]} rows over {rows_TV.shape[1]} cells"
        raise DataError(problem, source="L_align", remedy="leave the sample out: nothing is seen by both models")
    if row_norm == "none":
        return rows_TV
    if row_norm == "mean1":
        return _divide(rows_TV, rows_TV.mean(-1, keepdim=True))
    if row_norm == "sum1":
        return _divide(rows_TV, rows_TV.sum(-1, keepdim=True))
    if row_norm == "max":
        return _divide(rows_TV, rows_TV.amax(-1, keepdim=True))
    if row_norm == "zscore":
        density_TV = _divide(rows_TV, rows_TV.mean(-1, keepdim=True))
        centred_TV = density_TV - density_TV.mean(-1, keepdim=True)
        # a flat row's deviation is rounding: it stays small, and √ is kept away from 0, where it has no gradient
        return centred_TV / centred_TV.square().mean(-1, keepdim=True).clamp_min(1e-10).sqrt()
    remedy = "choose mean1, sum1, max, zscore or none"
    raise ParameterError(f"row_norm={row_norm!r}", source="params_sft", remedy=remedy)


def _divide(rows_TV: Float[Tensor, "T V"], size_T1: Float[Tensor, "T 1"]) -> Float[Tensor, "T V"]:
    """Rows divided by their size; a row of 0 is left alone: divided by a tiny number, its gradient would overflow."""
    return rows_TV / torch.where(size_T1 < torch.finfo(rows_TV.dtype).tiny, 1.0, size_T1)


def map_distance(
    vlm_TFHW: Float[Tensor, "T F H W"],
    prior_TFHW: Float[Tensor, "_ _ _ _"],
    valid_FHW: Bool[Tensor, "F H W"] | None = None,
    row_norm: RowNorm = "mean1",
    distance: Distance = "mse",
) -> Float[Tensor, ""]:
    """Distance of one sample's two maps, in fp32 (decision `distance`).

    `mse` mean over cells and words, `sse` sum over cells and mean over words, `l2` the unsquared norm of the whole
    difference.

    Raises:
        DataError: maps of different shapes, no rows, or no valid cells.
        ParameterError: an unknown distance or normalization.
    """
    if vlm_TFHW.shape != prior_TFHW.shape:
        problem = f"A_VLM {tuple(vlm_TFHW.shape)}, prior {tuple(prior_TFHW.shape)}"
        raise DataError(problem, source="L_align", remedy="compute both from the same prior set")
    own_TV, prior_TV = (normalize_rows(maps.float(), valid_FHW, row_norm) for maps in (vlm_TFHW, prior_TFHW))
    difference_TV = own_TV - prior_TV
    if distance == "mse":
        return difference_TV.square().mean()
    if distance == "sse":
        return difference_TV.square().sum(-1).mean()
    if distance == "l2":
        norm: Tensor = torch.linalg.vector_norm(difference_TV)
        return norm
    raise ParameterError(f"distance={distance!r}", source="params_sft", remedy="choose mse, sse or l2")


def frame_difference_prior(
    prior_TFHW: Float[Tensor, "T F H W"],
    frames_nHW3: Iterable[UInt8[Tensor, "h w 3"]],
    times: Sequence[float],
    grid: Grid,
) -> Float[Tensor, "T F H W"]:
    """Return the clip's own mean |frame difference| on the prior's grid, mean 1, the same for every word.

    Frame k stands for the change since frame k−1, the first for the change to the second. A clip without any change
    gives a uniform map. Frames are taken one by one and pooled at once: a long clip never lies in memory as a whole.

    Raises:
        DataError: fewer than two frames, or not one time a frame.
    """
    pooled = list(_pooled_changes(frames_nHW3, grid))
    if not pooled or len(times) != len(pooled) + 1:
        problem = f"{len(pooled) + 1} frames, {len(times)} times"
        remedy = "leave the clip out: a difference needs two frames"
        raise DataError(problem, source="prior_control=frame_difference", remedy=remedy)
    time_Fn, _ = axis_weights(torch.tensor(frame_intervals(times), dtype=torch.float64), axes(grid)[0])
    map_FHW = torch.tensordot(time_Fn.float(), torch.stack([pooled[0], *pooled]), dims=1)
    mean = map_FHW.mean()
    map_FHW = map_FHW / mean if mean > 0 else torch.ones_like(map_FHW)
    return map_FHW.to(prior_TFHW).expand_as(prior_TFHW).clone()


def _pooled_changes(frames_nHW3: Iterable[UInt8[Tensor, "h w 3"]], grid: Grid) -> Iterator[Float[Tensor, "H W"]]:
    """|Change| from each frame to the next, mean over the colours and over each of the grid's cells."""
    frames = iter(frames_nHW3)
    for first_HW3 in frames:
        height, width, _ = first_HW3.shape
        whole = Grid(times=grid.times, rows=height, cols=width, box=(0.0, 1.0, 0.0, 1.0))
        rows_HN, cols_WN = (axis_weights(a, b)[0].float() for a, b in zip(axes(whole)[1:], axes(grid)[1:], strict=True))
        for earlier_HW3, later_HW3 in pairwise(chain([first_HW3], frames)):
            yield rows_HN @ (later_HW3.float() - earlier_HW3.float()).abs().mean(-1) @ cols_WN.T
