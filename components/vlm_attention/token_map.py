"""The video model's words in the VLM's sequence, by character offsets: M [T, R] row-stochastic, A_words = M · A_rows.

Both models read the same string. A piece is a span of one field (question or response), the field has a place in the
rendered conversation, and a piece stands for the tokens that share characters with it, in proportion to how many (white
space left out). Tokens that are bytes of one character share its span, so they get equal parts.

Legend: T pieces, N tokens of the sequence, R tokens that any piece touches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from components.core.errors import DataError
from components.core.records import TextField
from components.models.vlm.example import Layout


@runtime_checkable
class TextPiece(Protocol):
    """A text token of the video model and its characters in one field."""

    @property
    def token(self) -> str: ...
    @property
    def field(self) -> TextField: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


def token_map(
    pieces: Sequence[TextPiece], made: Layout
) -> tuple[Float[Tensor, "T R"], Int[Tensor, " R"], Bool[Tensor, " T"]]:
    """Find the tokens of the sequence that stand for each piece.

    Returns:
        M, whose rows sum to 1 (0 where a piece has no counterpart); the sequence indices of its columns, ascending;
        which pieces are covered.

    Raises:
        DataError: a piece's span is not in its field, so the two models did not read the same text.
    """
    spans_T2 = torch.tensor([_trimmed(made.text, *_placed(piece, made)) for piece in pieces], dtype=torch.long).reshape(
        -1, 2
    )
    tokens_N2 = torch.tensor(
        [_trimmed(made.text, start, end) for start, end in made.offsets.tolist()], dtype=torch.long
    )
    shared_TN = torch.minimum(spans_T2[:, None, 1], tokens_N2[None, :, 1]) - torch.maximum(
        spans_T2[:, None, 0], tokens_N2[None, :, 0]
    )
    shared_TN = shared_TN.clamp_min(0)
    rows_R = torch.nonzero(shared_TN.any(0)).flatten()
    shared_TR = shared_TN[:, rows_R].float()
    totals_T1 = shared_TR.sum(-1, keepdim=True)
    return shared_TR / totals_T1.clamp_min(1), rows_R, totals_T1[:, 0] > 0


def coverage(covered_T: Bool[Tensor, " T"]) -> float:
    """Return the share of the pieces that have a counterpart; 0 without pieces."""
    return float(covered_T.double().mean()) if len(covered_T) else 0.0


def _placed(piece: TextPiece, made: Layout) -> tuple[int, int]:
    """Return the piece's span in the rendered conversation."""
    if piece.field not in made.spans:
        problem = f"piece {piece.token!r} of the {piece.field}, which the conversation does not have"
        raise DataError(problem, source="token map", remedy="render the conversation of the same sample")
    start, end = made.spans[piece.field]
    if not 0 <= piece.start <= piece.end <= end - start:
        problem = f"piece {piece.token!r} at {piece.start}…{piece.end} of a {piece.field} of {end - start} characters"
        raise DataError(
            problem, source="token map", remedy="compute the prior again: its text is not the conversation's"
        )
    return start + piece.start, start + piece.end


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span without the white space at its ends."""
    inner = text[start:end]
    return start + len(inner) - len(inner.lstrip()), end - (len(inner) - len(inner.rstrip())) if inner.strip() else end
