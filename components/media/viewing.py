"""What a VLM sees of a video: which frames, at which size, at which positions. For attention, training and evaluation.

Which of the fields a model uses is its family's matter (`components.models.vlm`): Qwen2.5-VL and Qwen3-VL sample by
time (`fps`), InternVL3 takes a fixed number of frames (`num_frames`), as the paper's main text does.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from components.media.choices import PositionRule


class Viewing(BaseModel):
    """Frame sampling of the VLM, and where the text behind a video goes on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fps: float = Field(
        1.0, gt=0, description="frames a second for Qwen models (at least 4 frames; for Qwen2.5-VL an even number)"
    )
    max_frames: int = Field(768, ge=4, description="most frames for Qwen models")
    num_frames: int = Field(8, ge=1, description="frames for InternVL3, the middle of equal segments")
    max_pixels: int = Field(360 * 420, ge=28 * 28, description="most pixels a frame for Qwen models")
    positions: PositionRule = Field(
        "qwen",
        description="where a Qwen model's text behind a video goes on: by Qwen's own rule or that of transformers 5.18",
    )
