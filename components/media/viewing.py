"""What a VLM sees of a video: which frames, at which size. One setting for attention, training and evaluation.

Qwen2.5-VL samples by time (`fps`), InternVL3 takes a fixed number of frames (`num_frames`), as the paper's main text
does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from components.core.records import Video
from components.media.sampling import qwen_fps_indices, segment_indices
from components.media.video import read_frames


class Viewing(BaseModel):
    """Frame sampling of the VLM."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fps: float = Field(1.0, gt=0, description="frames a second for Qwen2.5-VL (at least 4 frames, an even number)")
    max_frames: int = Field(768, ge=4, description="most frames for Qwen2.5-VL")
    num_frames: int = Field(8, ge=1, description="frames for InternVL3, the middle of equal segments")
    max_pixels: int = Field(360 * 420, ge=28 * 28, description="most pixels a frame for Qwen2.5-VL")

    def indices(self, family: str, video: Video) -> list[int]:
        """Indices of the frames that a model of `family` sees."""
        total = len(video.times)
        if family == "internvl":
            return segment_indices(total, self.num_frames)
        return qwen_fps_indices(video.duration, total, fps=self.fps, max_frames=self.max_frames)


def view(viewing: Viewing, family: str, video: Video, path: Path) -> tuple[np.ndarray, list[float], list[int]]:
    """Frames uint8 [n, H, W, 3], their time stamps in seconds, and their indices."""
    indices = viewing.indices(family, video)
    return read_frames(path, indices), [video.times[i] for i in indices], indices
