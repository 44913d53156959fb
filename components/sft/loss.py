"""Step 6: the two losses, L = L_AR + λ · L_align, and the maps that stand in for the prior in control experiments.

L_align compares A_VLM (after the aligner) with A_VDM, row by row over the cells that both sides cover, after
normalizing the rows of both (decision `row_norm`): `mse` is the supplement's eq. 20, `sse` eq. 24, `l2` Algorithm 1
line 31 and main text eq. 15. With V valid cells, `mean1` + `mse` is V times `sum1` + `sse`, both in value and gradient.

Legend: B samples, L positions, N vocabulary, T aligned words, F H W the prior's grid, V valid cells, n source frames.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from components.core.errors import DataError, ParameterError
from components.media.choices import RowNorm
from components.media.grids import interpolate
from components.media.map_algebra import normalize_rows
from components.sft.settings import AlignScale

IGNORED = -100


def response_loss(logits_BLN: Float[Tensor, "B L N"], targets_BL: Int[Tensor, "B L"]) -> Float[Tensor, ""]:
    """Return L_AR: mean over a sample's response tokens, then over samples.

    So a long response weighs no more against λ than a short one.

    Args:
        logits_BLN: position l predicts `targets_BL[:, l]` (already shifted).
        targets_BL: token ids; -100 where nothing is learned.

    Raises:
        DataError: a sample has no response token.
    """
    learned_BL = targets_BL != IGNORED
    if not bool(learned_BL.any(-1).all()):
        raise DataError(
            "a sample without response tokens", source="L_AR", remedy="leave the sample out, or raise the length limit"
        )
    losses = functional.cross_entropy(
        logits_BLN.float().transpose(1, 2), targets_BL, ignore_index=IGNORED, reduction="none"
    )
    return (losses.sum(-1) / learned_BL.sum(-1)).mean()


def prior_variance(prior_TFHW: Float[Tensor, "T F H W"], row_norm: RowNorm = "mean1") -> float:
    """Return the mean over the words of their normalized row's population variance; λ times it is the strength."""
    return float(normalize_rows(prior_TFHW.double(), None, row_norm).var(-1, correction=0).mean())


def effective_weight(align_weight: float, align_scale: AlignScale, variance: float) -> float:
    """Return λ as it multiplies L_align: as given, or divided by the priors' mean variance (decision `align_scale`).

    Raises:
        DataError: `contrast` with priors that are all flat.
        ParameterError: an unknown scale.
    """
    if align_scale == "none":
        return align_weight
    if align_scale != "contrast":
        raise ParameterError(f"align_scale={align_scale!r}", source="params_sft", remedy="choose none or contrast")
    if variance <= 0:
        raise DataError(
            "all priors are flat, their variance is 0", source="align_scale=contrast", remedy="choose align_scale=none"
        )
    return align_weight / variance


# Maps in the prior's place (decision `prior_control`) -----------------------------------------------------------------


def shuffled_prior(
    prior_TFHW: Float[Tensor, "T F H W"], other_TFHW: Float[Tensor, "t f h w"]
) -> Float[Tensor, "T F H W"]:
    """Return another sample's map with this one's number of rows (its rows repeat in turn) on this one's grid."""
    rows = [row % len(other_TFHW) for row in range(len(prior_TFHW))]
    placed = other_TFHW
    if other_TFHW.shape[1:] != prior_TFHW.shape[1:]:
        _, frames, height, width = prior_TFHW.shape
        placed = interpolate(other_TFHW, (frames, height, width))
    return placed[rows]


def uniform_prior(prior_TFHW: Float[Tensor, "T F H W"]) -> Float[Tensor, "T F H W"]:
    """Return the map without information: density 1 everywhere."""
    return torch.ones_like(prior_TFHW)
