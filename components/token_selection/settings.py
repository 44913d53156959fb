"""Parameters of the token selection (method step 4); apart from the algorithm, as declarations import no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from components.runtime.parameters import UnitParams, resolved

Unit = Literal["token", "word"]


def _distinct(digests: list[str]) -> list[str]:
    """Return digests in one spelling."""
    found = [f"sha256:{digest.removeprefix('sha256:')}" for digest in digests]
    if len({*found}) < len(found):
        raise ValueError("a head selection is named twice")
    return found


Digests = Annotated[
    list[Annotated[str, Field(pattern=r"^(sha256:)?[0-9a-f]{64}$")]],
    AfterValidator(_distinct),
]


class Params(UnitParams):
    """Parameters of the token selection."""

    unit: Unit = Field("token", description="rank the text encoder's tokens, or whole words")
    mtti: bool = Field(True, description="false averages all tokens into one row")
    ensemble_with: Digests = resolved(
        [],
        description="manifest digests of other video models' head selections, in this store: the maps of a sample are "
        "averaged on this model's grid and words, then words are ranked",
    )

    def idle(self) -> set[str]:
        """Return the names of the fields that do nothing: an ensemble of one names nobody."""
        return set() if self.ensemble_with else {"ensemble_with"}
