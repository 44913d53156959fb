"""Ensembles of video models (supplement §4.1): A_t2v of several, averaged on the grid and the words of the first one.

Maps are densities relative to uniform, so that models weigh equally, whatever their number of tokens. Grids meet by
time stamp and geometry. Words meet by characters: for a piece of the first model another one's row is the mean of its
pieces that share characters with it, weighted by how many; with equal pieces it is the piece itself. A cell or a word
that a model has not seen is the mean over those that have.

Legend: T pieces of the first model, U of another one, F H W the first one's grid, f y x another one's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from components.core.errors import DataError
from components.core.records import Grid, Piece
from components.media.grids import resample


@dataclass(frozen=True)
class Member:
    """One model's A_t2v after head selection, density relative to uniform, with what its rows and cells are."""

    maps_UFyx: Float[Tensor, "U f y x"]
    pieces: Sequence[Piece]
    grid: Grid


def average(first: Member, others: Sequence[Member], source: str = "sample") -> Float[Tensor, "T F H W"]:
    """Return the mean of all members' maps on the first one's pieces and grid, float32; of one member its own maps.

    Raises:
        DataError: another member has no word, or no part of the clip, in common with the first.
    """
    total_TFHW = first.maps_UFyx.float()
    count_TFHW = torch.ones_like(total_TFHW)
    for other in others:
        weights_TU, shared_T = shared_words(first.pieces, other.pieces)
        placed_UFHW, valid_FHW = resample(other.maps_UFyx.float(), other.grid, first.grid)
        for seen, what in ((shared_T, "words"), (valid_FHW, "part of the clip")):
            if not bool(seen.any()):
                problem = f"two models of the ensemble have no {what} in common"
                remedy = "extract both from the same videos under the same `text`"
                raise DataError(problem, source=source, remedy=remedy)
        there_TFHW = shared_T[:, None, None, None] & valid_FHW
        total_TFHW = total_TFHW + torch.tensordot(weights_TU, placed_UFHW, 1) * there_TFHW
        count_TFHW = count_TFHW + there_TFHW
    return total_TFHW / count_TFHW


def shared_words(own: Sequence[Piece], other: Sequence[Piece]) -> tuple[Float[Tensor, "T U"], Bool[Tensor, " T"]]:
    """Return the weight of each of the other's pieces in each own one, and which own ones have a counterpart.

    Weights are shares of the characters in common; a row sums to 1, or to 0 without a counterpart.
    """
    if [_span(piece) for piece in own] == [_span(piece) for piece in other]:  # several pieces may be of one character
        return torch.eye(len(own)), torch.ones(len(own), dtype=torch.bool)
    shared_TU = torch.tensor([[_shared(piece, its) for its in other] for piece in own], dtype=torch.float32)
    totals_T = shared_TU.sum(1)
    return shared_TU / totals_T.clamp_min(1)[:, None], totals_T > 0


def _span(piece: Piece) -> tuple[str, int, int]:
    return piece.field, piece.start, piece.end


def _shared(one: Piece, other: Piece) -> int:
    """Count the characters of both."""
    return max(0, min(one.end, other.end) - max(one.start, other.start)) if one.field == other.field else 0
