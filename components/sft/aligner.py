"""Step 6: the aligner, a 3-layer MLP between the VLM's map and the alignment loss.

It is for "rescaling or slight warping" (main text §3.4). `local` reads each place's 3 × 3 × 3 neighbourhood
(27 → 64 → 64 → 1), `pointwise` the place alone (1 → 64 → 64 → 1). Both are residual with a zero last layer, so training
starts at the identity. A map-wide MLP could absorb the whole difference to the prior, of which §3.4 warns; a local one
can sharpen or shift by a cell. It is saved beside the checkpoint and never used at inference.

Legend: R rows (words), F H W the prior's grid.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from components.core.errors import ParameterError
from components.sft.settings import AlignerKind

_WIDTH = 64


class Aligner(nn.Module):
    """Residual per-place MLP on maps; it commutes with rescaling, so raw attention (1e-5) and densities (1) are alike.

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
        """Return the warped maps; cells outside `valid_FHW` are unknown and count as the row's mean."""
        if not len(maps_RFHW):
            return maps_RFHW
        inside = torch.ones_like(maps_RFHW[0], dtype=torch.bool) if valid_FHW is None else valid_FHW
        total = (maps_RFHW * inside).sum((1, 2, 3), keepdim=True)
        mean = (total / inside.sum().clamp_min(1)).clamp_min(torch.finfo(maps_RFHW.dtype).tiny)
        density = torch.where(inside, maps_RFHW / mean, 1.0)[:, None]
        hidden = nn.functional.gelu(self.read(density))
        warp: Tensor = self.write(nn.functional.gelu(self.mix(hidden)))
        return maps_RFHW + mean * warp[:, 0]


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
