"""How a checkpoint reads a conversation, about a video or about none: what goes into the model, without its weights.

All but the pixels follows from the text, the clip's size and the times of its frames, which a manifest holds: `lay_out`
opens no video. Pixels are made of frames and need no weights either.

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

from components.core.errors import DataError, ParameterError
from components.core.records import Grid, Video
from components.media.grids import sampled_grid
from components.media.video import read_frames
from components.media.viewing import Viewing
from components.models.pretrained import load_part, load_tokenizer, read_json
from components.models.vlm import family_of
from components.models.vlm.example import Example, Layout, Medium, Spans, render, response_labels
from components.models.vlm.interface import Conversation, Inputs, VlmFamily
from components.models.vlm.pixels import resized

_DEFAULT = Viewing.model_validate({})


@dataclass
class Reader:
    """A checkpoint's tokenizer and family, how it reads a video, and the most tokens that a conversation may have."""

    tokenizer: Any
    family: VlmFamily
    inputs: Inputs
    max_tokens: int

    def lay_out(self, talk: Conversation, video: Video, viewing: Viewing) -> tuple[Layout, list[int]]:
        """Return the conversation about a video but its pixels, and the indices of the frames that the model sees.

        Raises:
            DataError: control tokens in the text, or more tokens than the model has positions.
            ParameterError: the chat template changes the text.
        """
        indices = self.family.frames(viewing, video)
        times = sorted(video.times[i] for i in indices)  # frames in another order take each other's times
        return self._layout(talk, video.height, video.width, times, video.duration, viewing), indices

    def read(self, talk: Conversation, video: Video, path: Path, viewing: Viewing) -> tuple[Example, list[int]]:
        """Return the conversation with the pixels of its file, and the indices of the frames that the model sees.

        Raises:
            DataError: as `lay_out`; the file does not decode, or its frames have another size than the manifest's.
            ParameterError: as `lay_out`.
        """
        made, indices = self.lay_out(talk, video, viewing)
        return made.with_pixels(self.pixels(video, path, viewing)), indices

    def pixels(self, video: Video, path: Path, viewing: Viewing) -> dict[str, Tensor]:
        """Return the pixels that go with every conversation about a video, from its file.

        Raises:
            DataError: the file does not decode, or its frames have another size than the manifest's.
        """
        indices = self.family.frames(viewing, video)
        height, width = size = self.inputs.frame_size(video.height, video.width, viewing)
        frames_nhw3 = read_frames(path, indices, video, partial(resized, height=height, width=width))
        return self.inputs.pixels(frames_nhw3, size)

    def prepare(
        self,
        talk: Conversation,
        frames: UInt8[np.ndarray, "n H W 3"],
        frame_times: Sequence[float],
        duration: float,
        viewing: Viewing = _DEFAULT,
    ) -> Example:
        """Return one conversation about one video as tensors.

        Whole upright frames in RGB, the seconds of each and of the clip; `viewing` is their size, where it is free, and
        the rule of positions.

        Raises:
            DataError: as `lay_out`, or not one time per frame.
            ParameterError: as `lay_out`.
        """
        if len(frames) != len(frame_times) or not len(frames):
            problem = f"{len(frames)} frames, {len(frame_times)} times"
            raise DataError(problem, source="prepare", remedy="give one time for every frame")
        height, width = frames.shape[1:3]
        made = self._layout(talk, height, width, frame_times, duration, viewing)
        return made.with_pixels(self.inputs.pixels(frames, self.inputs.frame_size(height, width, viewing)))

    def text_only(self, talk: Conversation) -> Example:
        """Return the conversation without its video: the control for what a question gives away by itself.

        Raises:
            DataError, ParameterError: as `lay_out`.
        """
        text, spans = render(talk, self.tokenizer, self._reserved)
        input_ids_N, offsets_N2 = self._encoded(text)
        positions_PN = torch.arange(len(input_ids_N)).expand(self.inputs.axes, -1)
        return self._laid_out(text, spans, input_ids_N, offsets_N2, positions_PN, None).with_pixels({})

    def _layout(
        self,
        talk: Conversation,
        height: int,
        width: int,
        frame_times: Sequence[float],
        duration: float,
        viewing: Viewing,
    ) -> Layout:
        inputs, count = self.inputs, len(frame_times)
        shape = inputs.shape(count, height, width, viewing)
        medium = Medium("video", inputs.placeholder, inputs.text(shape))
        text, spans = render(talk, self.tokenizer, self._reserved, medium)
        input_ids_N, offsets_N2 = self._encoded(text)
        positions_PN = inputs.positions(input_ids_N, shape, inputs.group * duration / count, viewing)
        grid = sampled_grid(frame_times, inputs.group, *shape[1:], duration)
        return self._laid_out(text, spans, input_ids_N, offsets_N2, positions_PN, grid)

    @property
    def _reserved(self) -> set[str]:
        return {self.inputs.placeholder}

    def _encoded(self, text: str) -> tuple[Int[Tensor, " N"], Int[Tensor, "N 2"]]:
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        if (length := len(encoded["input_ids"])) > self.max_tokens:
            problem = f"{length} tokens, the model has {self.max_tokens} positions"
            remedy = "take fewer or smaller frames, or shorten the text"
            raise DataError(problem, source="the conversation", remedy=remedy)
        return torch.tensor(encoded["input_ids"]), torch.tensor(encoded["offset_mapping"])

    def _laid_out(
        self,
        text: str,
        spans: Spans,
        input_ids_N: Int[Tensor, " N"],
        offsets_N2: Int[Tensor, "N 2"],
        positions_PN: Int[Tensor, "P N"],
        grid: Grid | None,
    ) -> Layout:
        response, end = spans.get("response"), self.family.end_of_turn
        return Layout(
            input_ids=input_ids_N,
            position_ids=positions_PN,
            labels=response_labels(input_ids_N, offsets_N2, response, self.tokenizer, end),
            video_columns=torch.nonzero(input_ids_N == self.inputs.visual_id).flatten(),
            grid=grid,
            offsets=offsets_N2,
            text=text,
            spans=spans,
        )


def open_reader(folder: Path) -> Reader:
    """Open configuration, tokenizer with chat template and processor files of a checkpoint's folder; no weights.

    Raises:
        ParameterError: not a folder of a supported model.
        DataError: a file is missing or cannot be read, or the vocabulary or the chat template is missing.
    """
    if (found := read_json(folder / "config.json")) is None:
        remedy = "give a folder that transformers' from_pretrained opens"
        raise ParameterError(f"no config.json in {folder}", source="vlm", remedy=remedy)
    family = family_of(found, str(folder))  # before transformers offers to run its own code
    family.register()
    config = load_part(AutoConfig, folder)
    tokenizer = load_tokenizer(AutoTokenizer, folder)
    if tokenizer.chat_template is None:
        raise DataError("the tokenizer has no chat template", source=str(folder), remedy="fetch the checkpoint again")
    inputs, most = family.inputs(config, tokenizer, folder), config.get_text_config().max_position_embeddings
    return Reader(tokenizer, family, inputs, most)
