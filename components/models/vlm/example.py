"""One conversation about one video, one image or neither as text and tensors, and several of them as one batch.

The text is rendered by the checkpoint's own chat template. Video or image stands first in the first user turn, because
under a causal mask only tokens after it can attend to it. Where a field lies in the rendered text is found by rendering
it once more with a private-use character in its place, so repeated words or a question called "user" confuse nothing.

Legend: B samples, N tokens, S visual cells (t-major), P axes of positions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from components.core.errors import DataError, ParameterError
from components.core.records import Grid, MediaKind, TextField
from components.models.vlm.interface import Conversation

IGNORED = -100
Batch = dict[str, Tensor]
Span = tuple[int, int]
Spans = dict[TextField, Span]
SENTINEL = "\ue000"
OWN_TEMPLATE = "use the checkpoint's own chat_template"


@dataclass(frozen=True)
class Layout:
    """One conversation about one video, one image or neither as tensors on the CPU, without pixels.

    Attributes:
        labels: the response's tokens and the end of its turn, -100 elsewhere.
        video_columns: index in the sequence of each visual cell.
        grid: where a video's cells lie in the clip; None for an image, which has no time, and for text alone.
        offsets: character spans of the tokens in `text`.
        text: the rendered conversation with its placeholder expanded.
        spans: where a field lies in `text`.
    """

    input_ids: Int[Tensor, " N"]
    position_ids: Int[Tensor, "P N"]
    labels: Int[Tensor, " N"]
    video_columns: Int[Tensor, " S"]
    grid: Grid | None
    offsets: Int[Tensor, "N 2"]
    text: str
    spans: Spans

    @property
    def video_grid(self) -> Grid:
        """Where the cells lie in the clip.

        Raises:
            DataError: the conversation is not about a video.
        """
        if self.grid is None:
            remedy = "give a conversation about a video"
            raise DataError("no cells in time, so no motion", source="the conversation", remedy=remedy)
        return self.grid

    def with_pixels(self, pixels: dict[str, Tensor]) -> Example:
        """Return the whole conversation; `pixels` are arguments of the model's forward by name."""
        return Example(**vars(self), pixels=pixels)


@dataclass(frozen=True)
class Example(Layout):
    """A conversation with the pixels of its video, by their name in the model's forward."""

    pixels: dict[str, Tensor]


def collate(examples: Sequence[Example], padding_side: Literal["left", "right"] = "right") -> Batch:
    """Return the examples as one batch.

    Returns:
        `input_ids, attention_mask, labels [B, N]`, `position_ids [P, B, N]`, the pixel tensors one after the other,
        `start [B]` (index of each sample's first token), `video_columns [B, S]` of the padded sequence and `video_mask
        [B, S]`.
    """
    lengths = [len(example.input_ids) for example in examples]
    before = [max(lengths) - length if padding_side == "left" else 0 for length in lengths]

    def padded(values: Sequence[Tensor], fill: int = 0) -> Tensor:
        around = [(b, max(lengths) - length - b) for length, b in zip(lengths, before, strict=True)]
        return torch.stack([nn.functional.pad(v, a, value=fill) for v, a in zip(values, around, strict=True)], dim=-2)

    columns = [example.video_columns + b for example, b in zip(examples, before, strict=True)]
    return {
        "input_ids": padded([example.input_ids for example in examples]),  # masked: any text token will do
        "attention_mask": padded([torch.ones_like(example.input_ids) for example in examples]),
        "position_ids": padded([example.position_ids for example in examples]),
        "labels": padded([example.labels for example in examples], IGNORED),
        "start": torch.tensor(before),
        "video_columns": pad_sequence(columns, batch_first=True),
        "video_mask": pad_sequence([torch.ones_like(one) for one in columns], batch_first=True).bool(),
        **{name: torch.cat(values) for name, values in _pixels(examples).items()},
    }


def _pixels(examples: Sequence[Example]) -> dict[str, list[Tensor]]:
    """Return the pixel tensors by name, of those examples that have them."""
    found: dict[str, list[Tensor]] = {}
    for example in examples:
        for name, values in example.pixels.items():
            found.setdefault(name, []).append(values)
    return found


# Text -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Medium:
    """What stands before the first question: its kind and placeholder in the chat template, the text in its place."""

    kind: MediaKind
    placeholder: str
    text: str


def render(
    talk: Conversation, tokenizer: Any, reserved: Collection[str], medium: Medium | None = None
) -> tuple[str, Spans]:
    """Return the whole text with the medium's in its placeholder's place, and the character span of each field.

    Raises:
        DataError: a control token, a `reserved` one or the private-use character in the text.
        ParameterError: the template has not one placeholder, or changes a field's text.
    """
    control = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    texts = [*(text for turn in talk.earlier for text in turn), talk.question, talk.response or "", talk.system or ""]
    if found := sorted(token for token in control | {SENTINEL, *reserved} if any(token in text for text in texts)):
        remedy = "remove them from the sample's text"
        raise DataError(f"control tokens {found} in the text", source="the conversation", remedy=remedy)
    kind = None if medium is None else medium.kind
    text = rendered = templated(talk, tokenizer, kind)
    if medium is not None:
        if (count := rendered.count(medium.placeholder)) != 1:
            problem = f"{count} × {medium.placeholder!r} for one {kind}"
            raise ParameterError(problem, source="the chat template", remedy=OWN_TEMPLATE)
        text = rendered.replace(medium.placeholder, medium.text)
    fields: dict[TextField, str | None] = {"question": talk.question, "response": talk.response}
    spans: Spans = {}
    for name, value in fields.items():  # every field stands behind the medium
        if value is None:
            continue
        marked = replace(talk, question=SENTINEL) if name == "question" else replace(talk, response=SENTINEL)
        start = templated(marked, tokenizer, kind).index(SENTINEL) + len(text) - len(rendered)
        if text[start : start + len(value)] != value:
            raise ParameterError(f"the chat template changes the {name}", source="chat_template", remedy=OWN_TEMPLATE)
        spans[name] = (start, start + len(value))
    return text, spans


def response_labels(
    input_ids_N: Int[Tensor, " N"], offsets_N2: Int[Tensor, "N 2"], span: Span | None, tokenizer: Any, end_of_turn: str
) -> Int[Tensor, " N"]:
    """Return the response's tokens and the token that ends its turn, -100 elsewhere (everywhere without a response).

    Raises:
        ParameterError: another token follows the response.
    """
    if span is None:
        return torch.full_like(input_ids_N, IGNORED)
    inside_N = (offsets_N2[:, 1] > span[0]) & (offsets_N2[:, 0] < span[1])
    end = int(torch.nonzero(offsets_N2[:, 0] >= span[1])[0])
    if int(input_ids_N[end]) != tokenizer.convert_tokens_to_ids(end_of_turn):
        problem = f"no {end_of_turn} after the response"
        raise ParameterError(problem, source="chat_template", remedy=OWN_TEMPLATE)
    inside_N[end] = True
    return torch.where(inside_N, input_ids_N, IGNORED)


def templated(talk: Conversation, tokenizer: Any, kind: MediaKind | None) -> str:
    """Return the conversation as the chat template renders it, with the placeholder of a medium of this kind."""
    messages: list[dict[str, Any]] = [] if talk.system is None else [{"role": "system", "content": talk.system}]
    for number, (question, response) in enumerate([*talk.earlier, (talk.question, talk.response)]):
        medium = [] if number or kind is None else [{"type": kind}]
        messages.append({"role": "user", "content": [*medium, {"type": "text", "text": question}]})
        if response is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": response}]})
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=talk.response is None))
