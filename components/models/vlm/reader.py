"""How a checkpoint reads a conversation, about a video, an image or neither: what goes into the model, no weights.

All but the pixels follows from the text, the clip's size and the times of its frames, which a manifest holds: `lay_out`
opens no file. Pixels are made of frames and need no weights either. A clip's `kind` decides: an image is read by the
family's own rule for images, never as a video of one frame.

Legend: n frames, H W pixels of the source, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from components.core.errors import DataError
from components.core.records import Grid, MediaKind, Video
from components.media.grids import sampled_grid
from components.media.video import read_frames
from components.media.viewing import Viewing
from components.models.pretrained import load_part, load_tokenizer, read_json
from components.models.vlm import families, family_of
from components.models.vlm.example import Example, Layout, Medium, render, response_labels
from components.models.vlm.interface import Cells, Conversation, Inputs, VlmFamily
from components.models.vlm.pixels import resized

_DEFAULT = Viewing.model_validate({})


@dataclass
class Reader:
    """A checkpoint's tokenizer and family, how it reads videos and images, and the most tokens of a conversation."""

    tokenizer: Any
    family: VlmFamily
    inputs: Inputs
    images: Inputs | None
    max_tokens: int

    def lay_out(self, talk: Conversation, video: Video, viewing: Viewing) -> tuple[Layout, list[int]]:
        """Return the conversation about a clip but its pixels, and the indices of the frames that the model sees.

        Raises:
            DataError: control tokens in the text, more tokens than the model has positions, or an image where the
                family reads none.
            ParameterError: the chat template changes the text.
        """
        inputs, indices = self.reads(video.kind, video.called), self._frames(video, viewing)
        times = sorted(video.times[i] for i in indices)  # frames in another order take each other's times
        return self._layout(talk, _Seen(inputs, video.height, video.width, times, video.duration, viewing)), indices

    def read(self, talk: Conversation, video: Video, path: Path, viewing: Viewing) -> tuple[Example, list[int]]:
        """Return the conversation with the pixels of its file, and the indices of the frames that the model sees.

        Raises:
            DataError: as `lay_out`; the file does not decode, or its frames have another size than the manifest's.
            ParameterError: as `lay_out`.
        """
        made, indices = self.lay_out(talk, video, viewing)
        return made.with_pixels(self.pixels(video, path, viewing)), indices

    def pixels(self, video: Video, path: Path, viewing: Viewing) -> dict[str, Tensor]:
        """Return the pixels that go with every conversation about a clip, from its file.

        Raises:
            DataError: the file does not decode, its frames have another size than the manifest's, or it is an image and
                the family reads none.
        """
        inputs = self.reads(video.kind, video.called)
        indices = self._frames(video, viewing)
        height, width = size = inputs.frame_size(len(indices), video.height, video.width, viewing)
        resize = partial(resized, height=height, width=width)
        frames_nhw3 = read_frames(path, indices, video, resize)
        return inputs.pixels(frames_nhw3, size)

    def prepare(
        self,
        talk: Conversation,
        frames: UInt8[np.ndarray, "n H W 3"],
        frame_times: Sequence[float],
        duration: float,
        viewing: Viewing = _DEFAULT,
        kind: MediaKind = "video",
    ) -> Example:
        """Return one conversation about one video, or one image, as tensors.

        Whole upright frames in RGB, the seconds of each and of the clip; `viewing` is their size, where it is free, and
        the rule of positions.

        Raises:
            DataError: as `lay_out`, or not one time per frame, or an image of several frames.
            ParameterError: as `lay_out`.
        """
        if len(frames) != len(frame_times) or not len(frames) or (kind == "image" and len(frames) > 1):
            problem = f"{len(frames)} frames, {len(frame_times)} times of one {kind}"
            raise DataError(problem, source="prepare", remedy="give one time for every frame, and an image one frame")
        inputs, (height, width) = self.reads(kind, "the given pixels"), frames.shape[1:3]
        made = self._layout(talk, _Seen(inputs, height, width, frame_times, duration, viewing))
        return made.with_pixels(inputs.pixels(frames, inputs.frame_size(len(frames), height, width, viewing)))

    def text_only(self, talk: Conversation) -> Example:
        """Return the conversation without its clip: the control for what a question gives away by itself.

        Raises:
            DataError, ParameterError: as `lay_out`.
        """
        return self._layout(talk, None).with_pixels({})

    def reads(self, kind: MediaKind, called: str) -> Inputs:
        """Return how a clip of this kind is read; `called` names it.

        Raises:
            DataError: an image, and the family reads none.
        """
        if kind == "video":
            return self.inputs
        if self.images is None:
            able = ", ".join(family.name for family in families() if family.images)
            remedy = f"choose a vlm that reads images ({able}), or leave the image's items out"
            raise DataError(f"{self.family.name} reads no images: {called}", source=f"image {called}", remedy=remedy)
        return self.images

    def _frames(self, video: Video, viewing: Viewing) -> list[int]:
        return [0] if video.kind == "image" else self.family.frames(viewing, video)

    def _layout(self, talk: Conversation, seen: _Seen | None) -> Layout:
        tokenizer, end = self.tokenizer, self.family.end_of_turn
        reserved = {one.placeholder for one in (self.inputs, self.images) if one is not None}
        text, spans = render(talk, tokenizer, reserved, None if seen is None else seen.medium)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        input_ids_N, offsets_N2 = torch.tensor(encoded["input_ids"]), torch.tensor(encoded["offset_mapping"])
        if len(input_ids_N) > self.max_tokens:
            problem = f"{len(input_ids_N)} tokens, the model has {self.max_tokens} positions"
            remedy = "take fewer or smaller frames, or shorten the text"
            raise DataError(problem, source="the conversation", remedy=remedy)
        counted_PN = torch.arange(len(input_ids_N)).expand(self.inputs.axes, -1)
        inputs = self.inputs if seen is None else seen.inputs
        return Layout(
            input_ids=input_ids_N,
            position_ids=counted_PN if seen is None else seen.positions(input_ids_N),
            labels=response_labels(input_ids_N, offsets_N2, spans.get("response"), tokenizer, end),
            video_columns=torch.nonzero(input_ids_N == inputs.visual_id).flatten(),
            grid=None if seen is None else seen.grid,
            offsets=offsets_N2,
            text=text,
            spans=spans,
        )


@dataclass(frozen=True)
class _Seen:
    """What the model sees of one clip: how it is read, its size in pixels, the times of its frames, its seconds."""

    inputs: Inputs
    height: int
    width: int
    times: Sequence[float]
    duration: float
    viewing: Viewing

    @property
    def shape(self) -> Cells:
        return self.inputs.shape(len(self.times), self.height, self.width, self.viewing)

    @property
    def medium(self) -> Medium:
        return Medium(self.inputs.kind, self.inputs.placeholder, self.inputs.text(self.shape, self.times, self.viewing))

    @property
    def grid(self) -> Grid | None:
        """Where the cells lie in the clip; an image has no time."""
        if self.inputs.kind == "image":
            return None
        return sampled_grid(self.times, self.inputs.group, *self.shape[1:], self.duration)

    def positions(self, input_ids_N: Int[Tensor, " N"]) -> Int[Tensor, "P N"]:
        seconds = self.inputs.group * self.duration / len(self.times)
        return self.inputs.positions(input_ids_N, self.shape, seconds, self.viewing)


def open_reader(folder: Path) -> Reader:
    """Open configuration, tokenizer with chat template and processor files of a checkpoint's folder; no weights.

    Raises:
        ParameterError: not a folder of a supported model.
        DataError: a file is missing or cannot be read, or the vocabulary or the chat template is missing.
    """
    family = family_of(read_json(folder / "config.json"), str(folder))  # before transformers offers to run its own code
    family.register()
    config = load_part(AutoConfig, folder)
    tokenizer = load_tokenizer(AutoTokenizer, folder)
    if tokenizer.chat_template is None:
        raise DataError("the tokenizer has no chat template", source=str(folder), remedy="fetch the checkpoint again")
    inputs, most = family.inputs(config, tokenizer, folder), config.get_text_config().max_position_embeddings
    images = None if family.images is None else family.images(config, tokenizer, folder)
    return Reader(tokenizer, family, inputs, images, most)
