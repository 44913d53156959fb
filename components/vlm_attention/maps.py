"""A sample's A_VLM on the prior's grid: its words' rows in the VLM's sequence, and where their cells lie in the clip.

A_VLM [T', F, H, W] = M · rows, resampled (decision `grid`): `aligned` by time stamps and geometry with a validity mask,
`interpolate` is Algorithm 1's blind trilinear letter. Used by vlm_attention offline and by sft in its loss, so both
mean the same map.

Legend: T words of the prior, R rows of the VLM's sequence, S visual tokens, F H W the prior's grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from components.core.errors import DataError
from components.core.records import Grid
from components.media.grids import interpolate, resample
from components.models.vlm.example import Example, collate
from components.models.vlm.model import Vlm
from components.store.tensors import pack, unpack
from components.vlm_attention.settings import GridChoice


@dataclass(frozen=True)
class WordRows:
    """Which rows of the VLM's sequence stand for each word of the prior: `map_TR` row-stochastic where `covered_T`."""

    map_TR: Float[Tensor, "T R"]
    rows_R: Int[Tensor, " R"]
    covered_T: Bool[Tensor, " T"]

    def pack(self, source: str) -> bytes:
        """Return safetensors."""
        return pack({"map": self.map_TR, "rows": self.rows_R, "covered": self.covered_T}, source)

    @classmethod
    def unpack(cls, data: bytes) -> WordRows:
        """Read safetensors."""
        tensors = unpack(data)
        return cls(tensors["map"], tensors["rows"], tensors["covered"])

    def matched(self, words: int, source: str) -> WordRows:
        """Return the rows for a prior of `words` rows; without MTTI both sides have one, the mean over all words.

        Raises:
            DataError: the prior's number of rows fits neither.
        """
        if self.map_TR.shape[0] == words:
            return self
        if words != 1:
            problem = f"{self.map_TR.shape[0]} selected pieces, a prior of {words} rows"
            raise DataError(
                problem, source=source, remedy="compute the prior and the token map from the same prior set"
            )
        covered = self.covered_T.any()[None]
        pooled = self.map_TR[self.covered_T].mean(0, keepdim=True) if bool(covered) else self.map_TR[:1]
        return WordRows(pooled, self.rows_R, covered)


def word_attention(vlm: Vlm, made: Example, words: WordRows) -> Float[Tensor, "T S"]:
    """Return A_VLM of the words, M · rows, from one forward pass; rows of uncovered words are 0."""
    rows_RS = vlm.vision_rows(collate([made]), [words.rows_R])[0]
    return words.map_TR.to(rows_RS) @ rows_RS[: len(words.rows_R)]


def on_grid(
    values_TS: Float[Tensor, "T S"], seen: Grid, grid: Grid, choice: GridChoice
) -> tuple[Float[Tensor, "T F H W"], Bool[Tensor, "F H W"]]:
    """Return values of visual tokens on the prior's cells, differentiably, and which cells the VLM saw."""
    values = values_TS.reshape(-1, *seen.shape)
    if choice == "interpolate":
        return interpolate(values, grid.shape), torch.ones(grid.shape, dtype=torch.bool, device=values.device)
    placed, valid = resample(values, seen, grid)
    return placed, valid.to(values.device)
