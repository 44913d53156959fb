"""Parameters of the token selection (method step 4); apart from the algorithm, as declarations import no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.runtime.parameters import UnitParams

Unit = Literal["token", "word"]


class Params(UnitParams):
    """Parameters of the token selection."""

    unit: Unit = Field("token", description="rank the text encoder's tokens, or whole words")
    mtti: bool = Field(True, description="false averages all tokens into one row")
