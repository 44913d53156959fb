"""One conversation about one video as tensors, and several of them as one batch.

Legend: B samples, N tokens, S visual cells (t-major), P axes of positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from components.core.records import Grid, TextField

IGNORED = -100
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Example:
    """One conversation about one video as tensors on the CPU.

    Attributes:
        labels: the response's tokens and the end of its turn, -100 elsewhere.
        video_columns: index in the sequence of each visual cell.
        offsets: character spans of the tokens in `text`.
        text: the rendered conversation with its placeholder expanded.
        spans: where a field lies in `text`.
    """

    input_ids: Int[Tensor, " N"]
    position_ids: Int[Tensor, "P N"]
    labels: Int[Tensor, " N"]
    pixels: dict[str, Tensor]
    video_columns: Int[Tensor, " S"]
    grid: Grid
    offsets: Int[Tensor, "N 2"]
    text: str
    spans: dict[TextField, tuple[int, int]]


def collate(examples: Sequence[Example], padding_side: Literal["left", "right"] = "right") -> Batch:
    """Return the examples as one batch.

    Returns:
        `input_ids, attention_mask, labels [B, N]`, `position_ids [P, B, N]`, the pixel tensors one after the other,
        `start [B]` (index of each sample's first token), `video_columns [B, S]` of the padded sequence and `video_mask
        [B, S]`.
    """
    lengths = [len(example.input_ids) for example in examples]
    cells = [len(example.video_columns) for example in examples]
    before = [max(lengths) - length if padding_side == "left" else 0 for length in lengths]

    def padded(values: Sequence[Tensor], fill: int) -> Tensor:
        after = [max(lengths) - length - start for length, start in zip(lengths, before, strict=True)]
        around = zip(values, before, after, strict=True)
        return torch.stack([nn.functional.pad(value, (b, a), value=fill) for value, b, a in around], dim=-2)

    def columns(values: Sequence[Tensor]) -> Tensor:
        return torch.stack([nn.functional.pad(v, (0, max(cells) - len(v)), value=0) for v in values])

    return {
        "input_ids": padded([example.input_ids for example in examples], 0),  # masked: any text token will do
        "attention_mask": padded([torch.ones_like(example.input_ids) for example in examples], 0),
        "position_ids": padded([example.position_ids for example in examples], 0),
        "labels": padded([example.labels for example in examples], IGNORED),
        "start": torch.tensor(before),
        "video_columns": columns([example.video_columns + b for example, b in zip(examples, before, strict=True)]),
        "video_mask": columns([torch.ones_like(example.video_columns) for example in examples]).bool(),
        **{name: torch.cat([example.pixels[name] for example in examples]) for name in examples[0].pixels},
    }
