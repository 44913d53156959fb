"""Pixels as transformers' processors give them, without torchvision: resized as bytes, then normalized in fp32.

The resize is bicubic with antialiasing; normalized is (x − 255·mean) / (255·std).
Legend: n frames, H W pixels of the source, h w pixels of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn import functional

from components.core.errors import ParameterError
from components.core.records import Json, MediaKind
from components.models.pretrained import read_json

_TOGETHER = "processor_config.json"  # holds all processors of a checkpoint, each under its name
_ALONE: dict[MediaKind, tuple[str, ...]] = {
    "video": ("video_preprocessor_config.json", "preprocessor_config.json"),
    "image": ("preprocessor_config.json",),
}


def read_processor(folder: Path, kind: MediaKind) -> tuple[Json, Path]:
    """Return the settings of a checkpoint's processor of this kind, by transformers' order of precedence, and the file.

    Raises:
        ParameterError: no file names mean and deviation.
        DataError: a file cannot be read.
    """
    for name in (_TOGETHER, *_ALONE[kind]):
        found = read_json(folder / name) or {}
        if name == _TOGETHER:
            found = found.get(f"{kind}_processor", {})
        if "image_mean" in found:
            return found, folder / name
    problem = "no image_mean in any of " + ", ".join((_TOGETHER, *_ALONE[kind]))
    remedy = "copy the checkpoint's preprocessor files beside its weights"
    raise ParameterError(problem, source=str(folder), remedy=remedy)


@dataclass(frozen=True)
class ImageSettings:
    """Mean and deviation of each channel in [0, 1], and the factor that brings bytes there."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float

    @classmethod
    def read(cls, folder: Path, kind: MediaKind = "video") -> ImageSettings:
        """Return a checkpoint's settings for this kind.

        Raises:
            ParameterError: as `read_processor`, or the resampling is not bicubic.
            DataError: a file cannot be read.
        """
        found, file = read_processor(folder, kind)
        if (resample := found.get("resample", 3)) != 3:
            problem, remedy = f"resample={resample}, not bicubic (3)", "use a checkpoint with bicubic resampling"
            raise ParameterError(problem, source=str(file), remedy=remedy)
        scale = float(found.get("rescale_factor", 1 / 255))
        return cls(tuple(found["image_mean"]), tuple(found["image_std"]), scale)


def resized(frame_HW3: UInt8[np.ndarray, "H W 3"], height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return a frame at the model's size."""
    if frame_HW3.shape[:2] == (height, width):
        return frame_HW3
    planes = torch.from_numpy(np.ascontiguousarray(frame_HW3.transpose(2, 0, 1)))[None]
    planes = functional.interpolate(planes, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return planes[0].permute(1, 2, 0).numpy()


def to_pixels(
    frames_nHW3: UInt8[np.ndarray, "n H W 3"], height: int, width: int, image: ImageSettings
) -> Float32[Tensor, "n 3 h w"]:
    """Return the frames at the model's size, normalized."""
    resized_n3hw: Tensor = torch.empty((len(frames_nHW3), 3, height, width), dtype=torch.uint8)
    for k, frame in enumerate(frames_nHW3):  # one by one: contiguous copies of a long clip would not fit
        resized_n3hw[k] = torch.from_numpy(resized(frame, height, width)).permute(2, 0, 1)
    mean, std = (torch.tensor(values)[:, None, None] * (1.0 / image.scale) for values in (image.mean, image.std))
    return resized_n3hw.float().sub_(mean).div_(std)
