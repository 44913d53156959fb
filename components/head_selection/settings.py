"""Parameters of the head selection (method step 3); apart from the algorithm, as declarations import no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.runtime.parameters import StepParams, operational

Tau = Literal["map", "mask"]
Scope = Literal["sample", "dataset"]


class Params(StepParams):
    """Parameters of the head selection."""

    tau: Tau = Field("map", description="threshold of TCS and DSR: mean over the whole map, or over M")
    include_self: bool = Field(True, description="pairs of a frame with itself belong to M")
    scope: Scope = Field("sample", description="heads per sample (Algorithm 1), or one set for the data set")
    mhs: bool = Field(True, description="false keeps all heads")
    readers: int = operational(16, ge=1, le=64, description="statistics read at once")
