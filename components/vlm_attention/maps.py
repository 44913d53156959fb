"""A sample's A_VLM on the prior's grid: its words' rows in the VLM's sequence, and where their cells lie in the clip.

A_VLM [T', F, H, W] = M · rows, resampled (decision `grid`): `aligned` by time stamps and geometry with a validity mask,
`interpolate` is Algorithm 1's blind trilinear letter. sft's loss uses the same `WordRows`.

Legend: T words of the prior, R rows of the VLM's sequence, S visual tokens, F H W the prior's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from components.core.artifacts import PriorLine
from components.core.errors import DataError
from components.core.records import Json, ScoredPiece
from components.media.choices import GridChoice
from components.media.grids import on_grid
from components.media.map_algebra import map_distance
from components.media.sampling import refuse_image
from components.media.viewing import Viewing
from components.models.vlm.example import collate
from components.models.vlm.interface import conversation
from components.models.vlm.model import Vlm
from components.models.vlm.reader import Reader
from components.store.tensors import pack, unpack
from components.vlm_attention.token_map import coverage, token_map


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
    def unpack(cls, data: bytes, words: int, source: str) -> WordRows:
        """Read safetensors for a prior of `words` rows; without MTTI both sides have one, the mean over all words.

        Raises:
            DataError: the prior's number of rows fits neither.
        """
        tensors = unpack(data)
        map_TR, rows_R, covered_T = tensors["map"], tensors["rows"], tensors["covered"]
        if len(map_TR) == words:
            return cls(map_TR, rows_R, covered_T)
        if words != 1:
            problem = f"{len(map_TR)} selected pieces, a prior of {words} rows"
            remedy = "compute the prior and the token map from the same prior set"
            raise DataError(problem, source=source, remedy=remedy)
        covered = covered_T.any()[None]
        return cls(map_TR[covered_T].mean(0, keepdim=True) if bool(covered) else map_TR[:1], rows_R, covered)


def map_tokens(reader: Reader, line: PriorLine, pieces: Sequence[ScoredPiece], viewing: Viewing) -> tuple[bytes, Json]:
    """Find the selected pieces in the conversation, which needs neither the video's file nor the model's weights.

    Returns:
        Packed word rows; their coverage, the frames that the VLM sees, and the tokens of the whole conversation.

    Raises:
        DataError: the sample is about an image, or a word's row precedes the video, so that it cannot attend to it.
    """
    refuse_image(line.video)
    made, frames = reader.lay_out(conversation(line.sample), line.video, viewing)
    words = WordRows(*token_map([piece for piece in pieces if piece.selected], made))
    if len(words.rows_R) and int(words.rows_R.min()) < int(made.video_columns.max()):
        problem = f"row {int(words.rows_R.min())} precedes the video's last token {int(made.video_columns.max())}"
        remedy = "this is a bug of the conversation's layout: report it"
        raise DataError(problem, source=f"sample {line.sample.id}", remedy=remedy)
    numbers = {"coverage": coverage(words.covered_T), "frames": frames, "tokens": len(made.input_ids)}
    return words.pack(line.sample.id), numbers


@torch.no_grad()
def map_attention(
    vlm: Vlm, line: PriorLine, pixels: dict[str, Tensor], viewing: Viewing, words: bytes, prior: bytes, grid: GridChoice
) -> tuple[dict[str, Tensor], Json]:
    """Return A_VLM of the sample's words, on the CPU: `map` [T, F, H, W], `valid` [F, H, W], `covered` [T].

    Its distance to the prior is the loss' own in its default form (`mean1`, `mse`), without aligner.
    """
    layout, _ = vlm.lay_out(conversation(line.sample), line.video, viewing)
    made = layout.with_pixels(pixels)
    prior_TFHW = unpack(prior)["prior"].float()
    rows = WordRows.unpack(words, len(prior_TFHW), f"sample {line.sample.id}")
    rows_RS = vlm.vision_rows(collate([made]), [rows.rows_R])[0]
    values_TS = (rows.map_TR.to(rows_RS) @ rows_RS).float().cpu()
    map_TFHW, valid_FHW = on_grid(values_TS, made.video_grid, line.grid, grid)
    covered_T = rows.covered_T
    distance = float(map_distance(map_TFHW[covered_T], prior_TFHW[covered_T], valid_FHW))
    return {"map": map_TFHW, "valid": valid_FHW, "covered": covered_T}, {"distance": distance}
