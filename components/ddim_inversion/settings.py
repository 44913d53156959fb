"""How a video is sampled, fitted and inverted; apart from the algorithm, as declarations import no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.media.choices import Fit, Sampling, Window
from components.runtime.parameters import UnitParams

InversionEval = Literal["next", "current"]


class InversionSettings(UnitParams):
    """How a video is sampled, fitted and inverted (method step 1)."""

    sampling: Sampling = Field("whole", description="frames spread over the clip, or `native_fps` of them a second")
    native_fps: float = Field(
        8.0, gt=0, description="frames a second of `native_fps` sampling; CogVideoX's own rate is 8, CogVideoX1.5's 16"
    )
    window: Window = Field("first", description="which part `native_fps` takes")
    fit: Fit = Field("squash", description="how a frame is brought to height × width")
    num_frames: int = Field(
        49,
        ge=1,
        description="most frames read; the most that clip and model have up to it is taken (CogVideoX: 8k+1; "
        "HunyuanVideo: 4k+1)",
    )
    height: int = Field(
        480, ge=16, description="pixels of the video model's frames, whole tokens (of 16 in both families)"
    )
    width: int = Field(
        720, ge=16, description="pixels of the video model's frames, whole tokens (of 16 in both families)"
    )
    inversion_eval: InversionEval = Field(
        "next", description="noise level at which the model is asked (eq. 4: `current`)"
    )
    fixed_point_iters: int = Field(0, ge=0, le=50, description="implicit corrections a step; 0 is the paper")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="the video model's number format")
