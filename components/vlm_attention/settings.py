"""How a VLM sees a clip, and step 5's other parameters, apart from the algorithm: a declaration imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.media.choices import GridChoice
from components.media.viewing import Viewing
from components.runtime.parameters import Parameters, StagedParams, operational


class View(Parameters):
    """What a token map holds for: the frames and the grid. sft reads them from this step's provenance."""

    viewing: Viewing = Field(default_factory=lambda: Viewing.model_validate({}), description="frames of the VLM")
    grid: GridChoice = Field("aligned", description="by time stamps and geometry, or blind (Algorithm 1)")


class Params(View, StagedParams):
    """Parameters of the VLM's attention."""

    min_coverage: float = Field(
        0.5, ge=0, le=1, description="share of the selected pieces that must have a counterpart in the VLM"
    )
    maps_for: Literal["all", "pictures"] = operational(
        "pictures", description="samples whose map is computed, for the report; token maps are, for all"
    )
    pictures: int = operational(
        8, ge=0, description="samples that are pictured: those with the smallest sha256(sample id)"
    )
