"""A sample's A_VLM on the prior's grid: the conversation as the VLM sees it, its words' rows, and where their cells lie in the clip.

A_VLM [T', F, H, W] = M · rows, resampled (decision `grid`): `aligned` by time stamps and geometry with a validity mask, `interpolate`
is Algorithm 1's blind trilinear letter. Used by vlm_attention offline and by sft in its loss, so both mean the same map.

Legend: T words of the prior, R rows of the VLM's sequence, S visual tokens, F H W the prior's grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from components.core.errors import DataError
from components.core.records import Grid, Sample, Video
from components.core.text import render_question
from components.media.grids import interpolate, resample
from components.media.viewing import Viewing, view
from components.models.tensors import pack, unpack
from components.models.vlm import Conversation, Example, Vlm, collate, load_vlm
from components.vlm_attention.rows import vision_rows

GridChoice = Literal["aligned", "interpolate"]


def conversation(sample: Sample, question: str | None = None) -> Conversation:
    """The sample as a conversation with its response; with `question` that prompt instead, and nothing answered yet."""
    earlier = [(turn.question, turn.response) for turn in sample.earlier]
    if question is not None:
        return Conversation(earlier=earlier, question=question, response=None)
    return Conversation(earlier=earlier, question=render_question(sample.question, sample.options), response=sample.response)


def example(vlm: Vlm, viewing: Viewing, video: Video, path: Path, talk: Conversation) -> tuple[Example, list[int]]:
    """The model's input for one video and conversation, and the indices of the frames it sees."""
    frames, times, indices = view(viewing, vlm.family, video, path)
    return vlm.prepare(talk, frames, times, video.duration, viewing.max_pixels), indices


@dataclass(frozen=True)
class WordRows:
    """Which rows of the VLM's sequence stand for each word of the prior: `map_TR` row-stochastic where `covered_T`."""

    map_TR: Float[Tensor, "T R"]
    rows_R: Int[Tensor, " R"]
    covered_T: Bool[Tensor, " T"]

    def pack(self, source: str) -> bytes:
        """As safetensors."""
        return pack({"map": self.map_TR, "rows": self.rows_R, "covered": self.covered_T}, source)

    @classmethod
    def unpack(cls, data: bytes) -> WordRows:
        """From safetensors."""
        tensors = unpack(data)
        return cls(tensors["map"], tensors["rows"], tensors["covered"])

    def matched(self, words: int, source: str) -> WordRows:
        """Rows for a prior of `words` rows: without MTTI it has one, the mean over all words, and so has this side.

        Raises:
            DataError: the prior's number of rows fits neither.
        """
        if self.map_TR.shape[0] == words:
            return self
        if words != 1:
            problem = f"{self.map_TR.shape[0]} selected pieces, a prior of {words} rows"
            raise DataError(problem, source=source, remedy="compute the prior and the token map from the same prior set")
        covered = self.covered_T.any()[None]
        pooled = self.map_TR[self.covered_T].mean(0, keepdim=True) if bool(covered) else self.map_TR[:1]
        return WordRows(pooled, self.rows_R, covered)


def open_vlm(folder: Path, rows: bool) -> Vlm:
    """The model for inference: bf16 on a GPU, fp32 in one thread on a CPU, so that sums come out the same."""
    if torch.cuda.is_available():
        return load_vlm(folder, torch.bfloat16, "cuda", rows=rows)
    torch.set_num_threads(1)
    return load_vlm(folder, torch.float32, "cpu", rows=rows)


def word_attention(vlm: Vlm, made: Example, words: WordRows) -> Float[Tensor, "T S"]:
    """A_VLM of the words, one forward pass: M · rows, averaged over heads and layers; rows of uncovered words are 0."""
    rows_RS = vision_rows(vlm, collate([made]), [words.rows_R])[0]
    return words.map_TR.to(rows_RS) @ rows_RS[: len(words.rows_R)]


def on_grid(
    values_TS: Float[Tensor, "T S"], seen: Grid, grid: Grid, choice: GridChoice
) -> tuple[Float[Tensor, "T F H W"], Bool[Tensor, "F H W"]]:
    """Values of visual tokens on the prior's cells, and which cells the VLM saw; differentiable in the values."""
    values = values_TS.reshape(-1, *seen.shape)
    if choice == "interpolate":
        return interpolate(values, grid.shape), torch.ones(grid.shape, dtype=torch.bool, device=values.device)
    placed, valid = resample(values, seen, grid)
    return placed, valid.to(values.device)
