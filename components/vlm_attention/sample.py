"""One sample's two works: the token map with its coverage, and A_VLM on the prior's grid, its distance to the prior.

The distance is the loss' own in its default form (rows of mean 1, mean square over cells and words), without aligner.

Legend: T words, R rows of the VLM's sequence, S visual tokens, F H W the prior's grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from components.core.artifacts import PriorLine
from components.core.errors import DataError
from components.media.map_algebra import map_distance
from components.media.viewing import Viewing
from components.models.vlm.interface import conversation
from components.models.vlm.model import Vlm
from components.store.tensors import pack, unpack
from components.vlm_attention.maps import WordRows, on_grid, word_attention
from components.vlm_attention.settings import GridChoice
from components.vlm_attention.token_map import coverage, token_map


@dataclass(frozen=True)
class TokenMap:
    """The packed word rows, the share of selected pieces that have a counterpart, and the frames that the VLM saw."""

    data: bytes
    coverage: float
    frames: list[int]


@dataclass(frozen=True)
class Attention:
    """The packed map (`map` [T, F, H, W], `valid` [F, H, W], `covered` [T]) and its distance to the prior."""

    data: bytes
    distance: float


def map_tokens(vlm: Vlm, line: PriorLine, path: Path, viewing: Viewing) -> TokenMap:
    """Find the selected pieces in the conversation.

    Raises:
        DataError: a word's row precedes the video, so that it cannot attend to it.
    """
    made, frames = vlm.read(conversation(line.sample), line.video, path, viewing)
    words = WordRows(*token_map([piece for piece in line.pieces if piece.selected], made))
    if len(words.rows_R) and int(words.rows_R.min()) < int(made.video_columns.max()):
        problem = f"row {int(words.rows_R.min())} precedes the video's last token {int(made.video_columns.max())}"
        remedy = "this is a bug of the conversation's layout: report it"
        raise DataError(problem, source=f"sample {line.sample.id}", remedy=remedy)
    return TokenMap(words.pack(line.sample.id), coverage(words.covered_T), frames)


@torch.no_grad()
def map_attention(
    vlm: Vlm, line: PriorLine, path: Path, viewing: Viewing, words: bytes, prior: bytes, grid: GridChoice
) -> Attention:
    """Return A_VLM of the sample's words and how far it is from the prior."""
    made, _ = vlm.read(conversation(line.sample), line.video, path, viewing)
    prior_TFHW = unpack(prior)["prior"].float()
    rows = WordRows.unpack(words).matched(len(prior_TFHW), f"sample {line.sample.id}")
    values_TS = word_attention(vlm, made, rows).float().cpu()
    map_TFHW, valid_FHW = on_grid(values_TS, made.grid, line.grid, grid)
    covered_T = rows.covered_T
    distance = float(map_distance(map_TFHW[covered_T], prior_TFHW[covered_T], valid_FHW))
    return Attention(pack({"map": map_TFHW, "valid": valid_FHW, "covered": covered_T}, line.sample.id), distance)
