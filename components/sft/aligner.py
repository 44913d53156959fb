"""Step 6: the aligner, a 3-layer MLP between the VLM's map and the alignment loss.

It is for "rescaling or slight warping" (supplement §3.4) and must not absorb "the full discrepancy". So it multiplies
each cell by a factor within [e^−r, e^r]. The reach r = b · κ, with b = 1/2, follows from the map: κ in [0, 1] is the
root mean square of its cells' contrast c = (A − m) / (A + m) to the row's mean m.

The MLP reads c, which is 0 at the mean and within [−1, 1] however sharp the map is: `local` the 3 × 3 × 3 neighbourhood
(27 → 64 → 64 → 1), `pointwise` the place alone (1 → 64 → 64 → 1). Its last layer is zero, so training starts at the
identity. It is saved beside the checkpoint and never used at inference.

What the bound means, for rows that are normalized afterwards:

* A cell's density stays within [e^−2r, e^2r] times its own: at most a factor e = 2.7, on the sharpest of maps.
* κ of a nearly flat map is half its relative deviation. There a factor moves a cell by at most b/2 = 1/4 of that
  deviation: the aligner reshapes the contrast that a map has, and makes none. With a fixed reach it could draw any
  pattern on a flat map, which `zscore` would then blow up to a perfect fit.
* `least_distance` is the distance that no such factors go below, for given maps, prior, `row_norm` and `distance`.

Legend: R T rows (words), F H W the prior's grid, V valid cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from components.core.errors import ParameterError
from components.media.choices import Distance, RowNorm
from components.media.map_algebra import map_distance, normalize_rows
from components.sft.settings import AlignerKind

REACH = 0.5  # b: the largest |log factor| on a map of contrast 1
_WIDTH = 64


class Aligner(nn.Module):
    """Bounded per-place factors on maps; it commutes with rescaling: raw attention (1e-5) and densities (1) are alike.

    Raises:
        ParameterError: a kind that has no parameters or is unknown (use `make_aligner`).
    """

    def __init__(self, kind: AlignerKind = "local") -> None:
        super().__init__()
        if kind not in ("local", "pointwise"):
            raise ParameterError(f"aligner={kind!r}", source="params_sft", remedy="choose local, pointwise or none")
        reach = 1 if kind == "local" else 0
        # edges repeat: from zeros around it the first layer could learn where a cell lies
        self.read = nn.Conv3d(1, _WIDTH, 1 + 2 * reach, padding=reach, padding_mode="replicate")
        self.mix = nn.Conv3d(_WIDTH, _WIDTH, 1)
        self.write = nn.Conv3d(_WIDTH, 1, 1)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)  # type: ignore[arg-type]  # Conv3d has one by default

    def forward(
        self, maps_RFHW: Float[Tensor, "R F H W"], valid_FHW: Bool[Tensor, "F H W"] | None = None
    ) -> Float[Tensor, "R F H W"]:
        """Return the warped maps (no cell below 0); cells outside `valid_FHW` are unknown and count as the mean."""
        if not len(maps_RFHW):
            return maps_RFHW
        contrast_RFHW, reach_R111 = _contrast(maps_RFHW, valid_FHW)
        hidden = nn.functional.gelu(self.read(contrast_RFHW[:, None]))
        warp: Tensor = self.write(nn.functional.gelu(self.mix(hidden)))
        return maps_RFHW * torch.exp(reach_R111 * torch.tanh(warp[:, 0]))


class NoAligner(nn.Module):
    """The identity with the aligner's interface (decision `aligner: none`)."""

    def forward(
        self, maps_RFHW: Float[Tensor, "R F H W"], valid_FHW: Bool[Tensor, "F H W"] | None = None
    ) -> Float[Tensor, "R F H W"]:
        """Return the maps as they are."""
        return maps_RFHW


def make_aligner(kind: AlignerKind) -> Aligner | NoAligner:
    """Return the aligner of decision `aligner`.

    Raises:
        ParameterError: an unknown kind.
    """
    return NoAligner() if kind == "none" else Aligner(kind)


def _contrast(
    maps_RFHW: Float[Tensor, "R F H W"], valid_FHW: Bool[Tensor, "F H W"] | None
) -> tuple[Float[Tensor, "R F H W"], Float[Tensor, "R 1 1 1"]]:
    """Return each cell's contrast to its row's mean, 0 outside `valid_FHW`, and each row's reach b · κ.

    The contrast is tanh(½ log density): twice the mean is as far as half of it. A row without attention has none.
    """
    inside_FHW = torch.ones_like(maps_RFHW[0]) if valid_FHW is None else valid_FHW.to(maps_RFHW)
    cells = inside_FHW.sum().clamp_min(1)
    mean_R111 = (maps_RFHW * inside_FHW).sum((1, 2, 3), keepdim=True) / cells
    least = torch.finfo(maps_RFHW.dtype).tiny
    contrast_RFHW = (maps_RFHW - mean_R111) / (maps_RFHW + mean_R111).clamp_min(least) * inside_FHW
    # vector_norm has a gradient of 0 where all is 0, unlike √
    norm_R111 = torch.linalg.vector_norm(contrast_RFHW, dim=(1, 2, 3), keepdim=True)
    return contrast_RFHW, REACH * norm_R111 / cells.sqrt()


# What no aligner goes below -------------------------------------------------------------------------------------------


@torch.no_grad()
def least_distance(
    maps_TFHW: Float[Tensor, "T F H W"],
    prior_TFHW: Float[Tensor, "T F H W"],
    valid_FHW: Bool[Tensor, "F H W"] | None = None,
    row_norm: RowNorm = "mean1",
    distance: Distance = "mse",
) -> Float[Tensor, ""]:
    """Return the least `map_distance` to the prior over all factors within the reach on these maps.

    With p the normalized row before the aligner, the row after it is s · x − t with the cells of x in [p e^−r, p e^r]:
    `none` s = 1 and t = 0, `mean1` and `sum1` t = 0 and s such that the row's sum stays, `zscore` any s and t. The row
    nearest to the prior's is a convex problem in s and t. The result is only a lower bound for `max`, where it lets the
    largest cell be other than 1, and for `zscore` where no factors bring the correlation above 0.

    Raises:
        DataError: no rows or no valid cells.
        ParameterError: an unknown distance or normalization.
    """
    maps_TFHW = maps_TFHW.double()
    reach_T1 = _contrast(maps_TFHW, valid_FHW)[1].flatten(1)
    own_TV = normalize_rows(maps_TFHW, valid_FHW, "mean1" if row_norm == "zscore" else row_norm)
    target_TV = normalize_rows(prior_TFHW.double(), valid_FHW, row_norm)
    found_TV = _Reachable(row_norm, own_TV, target_TV, torch.exp(reach_T1)).nearest()
    return map_distance(found_TV[:, None, None], target_TV[:, None, None], None, "none", distance)


@dataclass(frozen=True)
class _Reachable:
    """Rows s · x − t with the cells of x in own · [1 / most, most], and the rows that they shall come near to."""

    row_norm: RowNorm
    own_TV: Tensor
    target_TV: Tensor
    most_T1: Tensor

    def nearest(self) -> Tensor:
        """Return the normalized rows that are nearest to the target's."""
        one_T1 = torch.ones_like(self.most_T1)
        ends = {"none": (one_T1, one_T1), "zscore": (0 * one_T1, 1e6 * one_T1)}  # a deviation below 1e-5 counts as 0
        scale_T1 = _zero(self.slope, *ends.get(self.row_norm, (1 / self.most_T1, self.most_T1)))
        shift_T1 = self.shift(scale_T1)
        row_TV = self.row(scale_T1, shift_T1)
        if self.row_norm != "zscore":
            return row_TV
        centred_TV = row_TV - shift_T1  # the best direction; its deviation is 1
        return centred_TV / centred_TV.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-5)

    def row(self, scale_T1: Tensor, shift_T1: Tensor) -> Tensor:
        """Return the cells of s · box nearest to target + t."""
        return (self.target_TV + shift_T1).clamp(*self.limits(scale_T1))

    def limits(self, scale_T1: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and the largest value of each cell of s · box."""
        return self.own_TV * (scale_T1 / self.most_T1), self.own_TV * (scale_T1 * self.most_T1)

    def shift(self, scale_T1: Tensor) -> Tensor:
        """Return the best t for s; for `mean1` and `sum1` it is the Lagrange multiplier that keeps the row's sum."""
        if self.row_norm in ("none", "max"):
            return torch.zeros_like(scale_T1)
        low_TV, high_TV = self.limits(scale_T1)
        first_T1 = (low_TV - self.target_TV).amin(-1, keepdim=True)
        last_T1 = (high_TV - self.target_TV).amax(-1, keepdim=True)
        return _zero(lambda shift_T1: self.excess(scale_T1, shift_T1), first_T1, last_T1)

    def excess(self, scale_T1: Tensor, shift_T1: Tensor) -> Tensor:
        """Return what is 0 at the best t, and rises with t."""
        row_TV = self.row(scale_T1, shift_T1)
        left_TV = self.target_TV + shift_T1 - row_TV if self.row_norm == "zscore" else row_TV - self.own_TV
        return left_TV.sum(-1, keepdim=True)

    def slope(self, scale_T1: Tensor) -> Tensor:
        """Return half the slope of the squared distance in s, at the best t."""
        shift_T1 = self.shift(scale_T1)
        gap_TV = self.row(scale_T1, shift_T1) - self.target_TV - shift_T1
        return (gap_TV * self.own_TV * torch.where(gap_TV > 0, 1 / self.most_T1, self.most_T1)).sum(-1, keepdim=True)


def _zero(rising: Callable[[Tensor], Tensor], low_T1: Tensor, high_T1: Tensor) -> Tensor:
    """Return by bisection where each row's rising function passes 0, or the end beyond which it does."""
    for _ in range(45):
        middle_T1 = (low_T1 + high_T1) / 2
        passed_T1 = rising(middle_T1) > 0
        low_T1, high_T1 = torch.where(passed_T1, low_T1, middle_T1), torch.where(passed_T1, middle_T1, high_T1)
    return (low_T1 + high_T1) / 2
