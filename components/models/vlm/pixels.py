"""Pixels as transformers' video processors give them, without torchvision: resized as bytes, then normalized in fp32.

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
from components.models.pretrained import read_json

_PROCESSOR_FILES = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class ImageSettings:
    """Mean and deviation of each channel in [0, 1], and the factor that brings bytes there."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float

    @classmethod
    def read(cls, folder: Path) -> ImageSettings:
        """Return a checkpoint's settings, from its processor files in transformers' order of precedence for videos.

        Raises:
            ParameterError: no file names mean and deviation, or the resampling is not bicubic.
            DataError: a file cannot be read.
        """
        for name in _PROCESSOR_FILES:
            found = read_json(folder / name) or {}
            if name == _PROCESSOR_FILES[0]:
                found = found.get("video_processor", {})
            if "image_mean" not in found:
                continue
            if (resample := found.get("resample", 3)) != 3:
                problem, remedy = f"resample={resample}, not bicubic (3)", "use a checkpoint with bicubic resampling"
                raise ParameterError(problem, source=str(folder / name), remedy=remedy)
            scale = float(found.get("rescale_factor", 1 / 255))
            return cls(tuple(found["image_mean"]), tuple(found["image_std"]), scale)
        problem = "no image_mean in any of " + ", ".join(_PROCESSOR_FILES)
        remedy = "copy the checkpoint's preprocessor files beside its weights"
        raise ParameterError(problem, source=str(folder), remedy=remedy)


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
