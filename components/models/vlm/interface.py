"""What a family of vision-language models must give, and what is said to it: a conversation about one video or image.

A family is one module of this room with its `FAMILY`, which holds all that is particular. The model itself is a
`PreTrainedModel` that transformers' Auto classes open and whose language model calls transformers' attention interface.
Importing a family imports no torch (see `components.models.family`).

Legend: N tokens, P axes of positions, n frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8

from components.core.records import MediaKind, Option, Turn, Video
from components.core.text import render_question
from components.media.viewing import Viewing
from components.models.family import Family, Tensor

Cells = tuple[int, int, int]
VlmPart = Literal["vision", "merger", "llm"]


@dataclass(frozen=True)
class Conversation:
    """Earlier (question, response) turns, the question with its options, and the response; None: to be generated.

    `system` stands first, in place of the system prompt that the chat template may have of its own.
    """

    earlier: Sequence[tuple[str, str]]
    question: str
    response: str | None
    system: str | None = None


@runtime_checkable  # beartype checks it
class Spoken(Protocol):
    """The texts of a sample, or of a row that becomes one."""

    @property
    def earlier(self) -> Sequence[Turn]:
        """Earlier turns."""

    @property
    def question(self) -> str:
        """The question without its options."""

    @property
    def options(self) -> Sequence[Option]:
        """The options."""

    @property
    def response(self) -> str:
        """The target response."""


def conversation(sample: Spoken, prompt: str | None = None, system: str | None = None) -> Conversation:
    """Return the sample with its response as a conversation; with `prompt` that text instead, to be answered."""
    earlier = [(turn.question, turn.response) for turn in sample.earlier]
    if prompt is not None:
        return Conversation(earlier, prompt, None, system)
    return Conversation(earlier, render_question(sample.question, sample.options), sample.response)


@dataclass(frozen=True)
class Inputs(ABC):
    """How a checkpoint of a family reads a video, or an image: only `pixels` needs frames.

    All else follows from their sizes and times. The cells stand in their order, and text may stand between them. An
    image is one frame; its cells are those of all its parts, where it is cut into parts.

    Attributes:
        placeholder: what the chat template writes for a video.
        visual_id: the token that stands at every visual cell.
        group: frames per cell.
        kind: what is read.
        axes: of the positions; text counts on all of them alike.
    """

    placeholder: str
    visual_id: int
    group: int
    kind: ClassVar[MediaKind] = "video"
    axes: ClassVar[int] = 1

    @abstractmethod
    def shape(self, count: int, height: int, width: int, viewing: Viewing) -> Cells:
        """Return the cells (t, y, x) of `count` frames of this size in pixels."""

    @abstractmethod
    def text(self, shape: Cells, times: Sequence[float], viewing: Viewing) -> str:
        """Return the text in the placeholder's place; `times` are those of the frames, in seconds."""

    @abstractmethod
    def frame_size(self, count: int, height: int, width: int, viewing: Viewing) -> tuple[int, int]:
        """Return the model's height and width, in pixels, of each of `count` frames of this size."""

    @abstractmethod
    def pixels(self, frames_nHW3: UInt8[np.ndarray, "n H W 3"], size: tuple[int, int]) -> dict[str, Tensor]:
        """Return the pixel arguments of the model's forward; frames that do not have its `size` yet are resized."""

    @abstractmethod
    def positions(
        self, input_ids_N: Int[Tensor, " N"], shape: Cells, seconds: float, viewing: Viewing
    ) -> Int[Tensor, "P N"]:
        """Return the positions of a conversation's tokens; `seconds` lie between the starts of two cells."""


@dataclass(frozen=True)
class TowerWork:
    """What the vision tower goes through for one video.

    Attributes:
        patches: places of its patch embedding.
        places: the sequence of its blocks, patches and class tokens.
        attention: FLOPs of all blocks' attention in a forward pass: 4 · width per (query, key) pair.
    """

    patches: int
    places: int
    attention: int = 0


def _one_pass(config: Any, shape: Cells) -> TowerWork:
    """Return the work of a tower that has a patch per cell and no attention."""
    return TowerWork(prod(shape), prod(shape))


@dataclass(frozen=True, kw_only=True)
class VlmFamily(Family):
    """What a family does its own way.

    Attributes:
        model_types: `model_type` of the configurations that it reads.
        inputs: how a checkpoint reads a video, from its configuration, tokenizer and folder.
        images: the same for images; None: the family reads none.
        frames: indices of a video's frames that the model sees.
        ignores: names of the viewing's fields that change nothing for it.
        by_time: the viewing that takes this many frames per second of a clip of this duration, in seconds, where the
            family's own rule takes a fixed number of frames; else the viewing as it is.
        tower: regular expression, found in the names of the vision tower's parameters and in no others.
        merger: the same of the part between tower and language model; by default there is none.
        language: the same of the language model's modules, which low-rank updates are for.
        end_of_turn: the token that ends a turn in the chat template.
        position_gap: by how many positions the text behind a clip of 1280 × 720 pixels and this duration, in seconds,
            lies lower under the position rule `transformers` than under `qwen`; 0 where the rules are the same,
            negative where it lies higher.
        tower_work: what the tower goes through for a video of so many cells, from the configuration.
        register: makes a model that is none of transformers' own known to its Auto classes; it may be called again.
    """

    model_types: tuple[str, ...]
    inputs: Callable[[Any, Any, Path], Inputs]
    images: Callable[[Any, Any, Path], Inputs] | None = None
    frames: Callable[[Viewing, Video], list[int]]
    by_time: Callable[[Viewing, float, float], Viewing]
    ignores: frozenset[str] = frozenset()
    tower: str
    merger: str = r"(?!)"
    language: str = r"\blanguage_model\."
    end_of_turn: str = "<|im_end|>"
    position_gap: Callable[[Viewing, float], int] = lambda viewing, duration: 0
    tower_work: Callable[[Any, Cells], TowerWork] = _one_pass
    register: Callable[[], None] = lambda: None
