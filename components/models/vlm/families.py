"""What differs between Qwen2.5-VL and InternVL3: how a video becomes tensors, placeholder text and positions.

Pixels are what transformers' video processors give, without torchvision: uint8 bicubic resize with antialiasing, then
(x − 255·mean) / (255·std). Qwen: frames in groups of two, patches in 2 × 2 blocks, M-RoPE positions by Qwen's own rule
(text goes on at the largest position of the video + 1; the time axis counts tokens_per_second). InternVL: each frame
stretched to the square of the vision tower, one block of tokens a frame between the frame's text, plain positions.

Legend: n frames, H W pixels of the source, h w pixels of the model, p patches, c values of a patch, N tokens of the
sequence, P axes of positions (Qwen 3, InternVL 1). Cells are (t, y, x), frame-major.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor
from torch.nn import functional

from components.core.errors import DataError, ParameterError
from components.models.pretrained import read_json

MAX_PIXELS = 360 * 420  # the fine-tuning recipe's bound of a frame
_BICUBIC = 3
_PROCESSOR_FILES = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class ImageSettings:
    """How pixels are normalized: mean and deviation of each channel in [0, 1], and the factor that brings bytes there."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float

    @classmethod
    def read(cls, folder: Path) -> ImageSettings:
        """From a checkpoint's processor files, in transformers' order of precedence for videos.

        Raises:
            ParameterError: no file names mean and deviation, or the resampling is not bicubic.
            DataError: a file cannot be read.
        """
        for name in _PROCESSOR_FILES:
            if (found := read_json(folder / name)) is None:
                continue
            if name == _PROCESSOR_FILES[0]:
                found = found.get("video_processor", {})
            if "image_mean" not in found:
                continue
            if found.get("resample", _BICUBIC) != _BICUBIC:
                problem = f"resample={found['resample']}, only bicubic (3) is implemented"
                raise ParameterError(
                    problem, source=str(folder / name), remedy="use a checkpoint with bicubic resampling"
                )
            return cls(
                tuple(found["image_mean"]), tuple(found["image_std"]), float(found.get("rescale_factor", 1 / 255))
            )
        problem = "no image_mean in any of " + ", ".join(_PROCESSOR_FILES)
        raise ParameterError(
            problem, source=str(folder), remedy="copy the checkpoint's preprocessor files beside its weights"
        )


@dataclass(frozen=True)
class Seen:
    """A video as the model takes it: forward's pixel arguments, cells (t, y, x), and the text in the placeholder's place."""

    pixels: dict[str, Tensor]
    shape: tuple[int, int, int]
    text: str


@runtime_checkable
class Family(Protocol):
    """What a family tells of itself and does to a video."""

    @property
    def name(self) -> str: ...
    @property
    def placeholder(self) -> str: ...
    @property
    def visual_id(self) -> int: ...
    @property
    def group(self) -> int: ...
    def see(self, frames_nHW3: UInt8[np.ndarray, "n H W 3"], max_pixels: int) -> Seen: ...
    def positions(
        self, input_ids_N: Int[Tensor, " N"], shape: tuple[int, int, int], seconds: float
    ) -> Int[Tensor, "P N"]: ...


@dataclass(frozen=True)
class Qwen:
    """Qwen2.5-VL: `group` frames a cell, `merge` × `merge` patches of `patch` pixels a cell."""

    image: ImageSettings
    placeholder: str
    visual_id: int
    patch: int
    merge: int
    group: int
    tokens_per_second: int
    name: str = "qwen"

    @classmethod
    def load(cls, config: Any, tokenizer: Any, folder: Path) -> Qwen:
        """From the checkpoint's own configuration."""
        vision = config.vision_config
        return cls(
            image=ImageSettings.read(folder),
            placeholder=tokenizer.convert_ids_to_tokens(config.video_token_id),
            visual_id=config.video_token_id,
            patch=vision.patch_size,
            merge=vision.spatial_merge_size,
            group=vision.temporal_patch_size,
            tokens_per_second=vision.tokens_per_second,
        )

    def see(self, frames_nHW3: UInt8[np.ndarray, "n H W 3"], max_pixels: int = MAX_PIXELS) -> Seen:
        """Pixel tensors of the whole frames; an incomplete last group repeats the last frame."""
        side = self.patch * self.merge
        height, width = smart_resize(frames_nHW3.shape[1], frames_nHW3.shape[2], side, 4 * side * side, max_pixels)
        patches_pc = patchify(to_pixels(frames_nHW3, height, width, self.image), self.patch, self.merge, self.group)
        shape = (math.ceil(len(frames_nHW3) / self.group), height // side, width // side)
        grid_13 = torch.tensor([[shape[0], height // self.patch, width // self.patch]])
        pixels = {"pixel_values_videos": patches_pc, "video_grid_thw": grid_13}
        return Seen(pixels, shape, self.placeholder * math.prod(shape))

    def positions(
        self, input_ids_N: Int[Tensor, " N"], shape: tuple[int, int, int], seconds: float
    ) -> Int[Tensor, "3 N"]:
        """M-RoPE positions (time, row, column) of a conversation with one video; `seconds` between cells."""
        visual = torch.nonzero(input_ids_N == self.visual_id).flatten()
        first, count = int(visual[0]), math.prod(shape)
        # fp32, multiplied in this order and truncated, as the reference implementation does
        times = (torch.arange(shape[0], dtype=torch.float32) * seconds * self.tokens_per_second).long()
        axes = torch.meshgrid(times, torch.arange(shape[1]), torch.arange(shape[2]), indexing="ij")
        video_3S = torch.stack([axis.flatten() for axis in axes]) + first
        before_3N = torch.arange(first).expand(3, -1)
        after_3N = (torch.arange(len(input_ids_N) - first - count) + int(video_3S.max()) + 1).expand(3, -1)
        return torch.cat([before_3N, video_3S, after_3N], dim=1)


@dataclass(frozen=True)
class InternVL:
    """InternVL3 in its transformers form: every frame is `size` pixels and `rows` × `cols` cells."""

    image: ImageSettings
    placeholder: str
    visual_id: int
    size: tuple[int, int]
    rows: int
    cols: int
    start: str
    context: str
    end: str
    group: int = 1
    name: str = "internvl"

    @classmethod
    def load(cls, config: Any, tokenizer: Any, folder: Path) -> InternVL:
        """From the checkpoint's own configuration.

        Raises:
            ParameterError: the tokens of a frame do not follow from the vision tower, or the tokenizer lacks the frame
                tokens.
        """
        (height, width), (patch_y, patch_x) = config.vision_config.image_size, config.vision_config.patch_size
        rows, cols = (
            round(size // patch * config.downsample_ratio) for size, patch in ((height, patch_y), (width, patch_x))
        )
        names = ("video_token", "start_image_token", "end_image_token")
        missing = [name for name in names if getattr(tokenizer, name, None) is None]
        if rows * cols != config.image_seq_length or missing:
            problem = f"{rows} × {cols} cells a frame, image_seq_length={config.image_seq_length}; tokenizer lacks {missing or 'nothing'}"
            raise ParameterError(
                problem, source=str(folder), remedy="use the transformers form of the checkpoint (`…-hf`)"
            )
        return cls(
            image=ImageSettings.read(folder),
            placeholder=tokenizer.video_token,
            visual_id=config.image_token_id,
            size=(height, width),
            rows=rows,
            cols=cols,
            start=tokenizer.start_image_token,
            context=tokenizer.convert_ids_to_tokens(config.image_token_id),
            end=tokenizer.end_image_token,
        )

    def see(self, frames_nHW3: UInt8[np.ndarray, "n H W 3"], max_pixels: int = MAX_PIXELS) -> Seen:
        """Pixel tensors of the frames stretched to the tower's size; `max_pixels` has no say here."""
        pixels = {"pixel_values": to_pixels(frames_nHW3, *self.size, self.image)}
        cells = self.context * (self.rows * self.cols)
        text = "\n".join(f"Frame{k + 1}: {self.start}{cells}{self.end}" for k in range(len(frames_nHW3)))
        return Seen(pixels, (len(frames_nHW3), self.rows, self.cols), text)

    def positions(
        self, input_ids_N: Int[Tensor, " N"], shape: tuple[int, int, int], seconds: float
    ) -> Int[Tensor, "1 N"]:
        """Positions count the tokens."""
        return torch.arange(len(input_ids_N))[None]


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Qwen's size of a frame: multiples of `factor` near the source's, scaled into [min_pixels, max_pixels] where they are outside.

    Raises:
        DataError: a frame more than 200 times as long as it is wide, which the model never saw.
    """
    if max(height, width) > 200 * min(height, width):
        problem = f"a frame of {width} × {height} pixels"
        raise DataError(problem, source="the video", remedy="leave the video out: its aspect ratio exceeds 200")
    rows, cols = round(height / factor), round(width / factor)
    if rows * cols * factor * factor > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows, cols = (max(1, math.floor(side / shrink / factor)) for side in (height, width))
    elif rows * cols * factor * factor < min_pixels:
        stretch = math.sqrt(min_pixels / (height * width))
        rows, cols = (math.ceil(side * stretch / factor) for side in (height, width))
    return rows * factor, cols * factor


def to_pixels(
    frames_nHW3: UInt8[np.ndarray, "n H W 3"], height: int, width: int, image: ImageSettings
) -> Float32[Tensor, "n 3 h w"]:
    """Frames resized as bytes, then normalized in fp32."""
    resized_n3hw: Tensor = torch.empty((len(frames_nHW3), 3, height, width), dtype=torch.uint8)
    for k, frame in enumerate(frames_nHW3):  # one by one: contiguous copies of a long clip would not fit
        planes = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))[None]
        if planes.shape[-2:] != (height, width):
            planes = functional.interpolate(
                planes, (height, width), mode="bicubic", antialias=True, align_corners=False
            )
        resized_n3hw[k] = planes[0]
    mean, std = (torch.tensor(values)[:, None, None] * (1.0 / image.scale) for values in (image.mean, image.std))
    return resized_n3hw.float().sub_(mean).div_(std)


def patchify(pixels_n3hw: Float[Tensor, "n 3 h w"], patch: int, merge: int, group: int) -> Float[Tensor, "p c"]:
    """Patches by cell (t, y, x), within a cell row by row; a patch's values are (channel, frame of the group, row, column)."""
    lacking = -len(pixels_n3hw) % group
    padded = torch.cat([pixels_n3hw, pixels_n3hw[-1:].expand(lacking, -1, -1, -1)])
    rows, cols = (side // (merge * patch) for side in pixels_n3hw.shape[-2:])
    # t, frame, channel, y, row of the cell, pixel row, x, column of the cell, pixel column
    cells = padded.reshape(-1, group, 3, rows, merge, patch, cols, merge, patch)
    return cells.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, 3 * group * patch * patch)
