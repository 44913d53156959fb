"""What the recipes of all small models have in common. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from components.core.records import Record


class Optimization(Record):
    """How many updates there are, and how they are made."""

    steps: int = Field(default=3400, ge=1, description="updates")
    batch: int = Field(default=4, ge=1, description="clips per update")
    learning_rate: float = Field(default=1.5e-3, gt=0, description="peak of AdamW")
    warmup: int = Field(default=100, ge=0, description="updates of linear warm-up; then a cosine to 0")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="decay of AdamW's mean square gradients")
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float = Field(default=1.0, gt=0, description="largest gradient norm")
    ema: float = Field(default=0.999, ge=0, lt=1, description="decay of the averaged weights, which are what is saved")
