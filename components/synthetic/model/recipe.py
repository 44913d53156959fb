"""The recipe of the small model, as it stands in a checkpoint's `training.json`."""

from __future__ import annotations

from pydantic import Field, field_validator

from components.core.records import Record
from components.models.video.cogvideox import FRAMES


class Architecture(Record):
    """Sizes of the network and of the clips that it is trained on."""

    layers: int = Field(default=4, ge=1, description="blocks of the transformer")
    heads: int = Field(default=8, ge=1, description="attention heads of a block")
    head_width: int = Field(default=16, ge=16, multiple_of=16, description="width of a head")
    num_frames: int = Field(
        default=17, ge=FRAMES.fewest, description="frames of a clip: 8k+1, so that latents are odd in number"
    )

    @field_validator("num_frames")
    @classmethod
    def _whole_chunks(cls, value: int) -> int:
        if FRAMES.largest(value) != value:
            raise ValueError(
                f"{value} frames: choose 8k+1, as 9, 17 or 33 (an even number of latents decodes to more frames)"
            )
        return value


class Recipe(Architecture):
    """What decides a training's result."""

    steps: int = Field(default=3400, ge=1, description="updates")
    batch: int = Field(default=4, ge=1, description="clips an update")
    muon_rate: float = Field(default=0.02, gt=0, description="peak of Muon, for the matrices of the blocks")
    learning_rate: float = Field(default=1.5e-3, gt=0, description="peak of AdamW, for all else")
    warmup: int = Field(default=100, ge=0, description="updates of linear warm-up; then a cosine to 0")
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float = Field(default=1.0, gt=0, description="largest gradient norm")
    ema: float = Field(default=0.999, ge=0, lt=1, description="decay of the averaged weights, which are what is saved")
    caption_dropout: float = Field(default=0.1, ge=0, lt=1, description="share of empty captions")
    seed: int = Field(
        default=0,
        ge=0,
        lt=999,
        description="of the initialization; scenes have the training seeds' entry of this number",
    )
    validation_clips: int = Field(default=64, ge=5, description="unseen clips that the card's losses are measured on")
