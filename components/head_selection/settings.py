"""Parameters of the head selection (method step 3); apart from the algorithm, as declarations import no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.core.errors import ParameterError
from components.core.records import canonical_json
from components.runtime.parameters import HeadRatio, Parameters, StepParams, operational

Tau = Literal["map", "mask"]
Scope = Literal["sample", "dataset"]


class Rule(Parameters):
    """What the choice of a sample's heads follows from, beside their share."""

    tau: Tau = Field("map", description="threshold of TCS and DSR: mean over the whole map, or over M")
    include_self: bool = Field(True, description="pairs of a frame with itself belong to M")
    mhs: bool = Field(True, description="false keeps all heads")


class Params(StepParams, Rule):
    """Parameters of the head selection."""

    scope: Scope = Field("sample", description="heads per sample (Algorithm 1), or one set for the data set")
    readers: int = operational(16, ge=1, le=64, description="statistics read at once")


class Selection(Rule):
    """A choice of heads that is made before the head selection runs, by its parameters."""

    head_ratio: HeadRatio = 0.5


def check_selection(made: Selection, params: Params, head_ratio: float) -> None:
    """Check that heads which a capture chose (`keep: selected`) are those that the head selection would choose.

    Raises:
        ParameterError: it has the scope `dataset`, or another value of one of the choice's parameters.
    """
    source = "params_attention_capture.keep=selected"
    if params.scope != "sample":
        problem = f"params_head_selection.scope={params.scope} needs the maps of all heads of all samples"
        raise ParameterError(problem, source=source, remedy="use the scope sample, or keep=all")
    wanted = Selection(head_ratio=head_ratio, **params.model_dump(include={*Rule.model_fields}))
    values = zip(made.model_dump().items(), wanted.model_dump().values(), strict=True)
    if differences := [f"{name} is {own!r} there and {other!r} here" for (name, own), other in values if own != other]:
        listed = "; ".join(differences)
        problem = f"the capture keeps other heads than head_ratio and params_head_selection choose: {listed}"
        one = canonical_json(wanted.model_dump(mode="json")).decode()
        remedy = f"set params_attention_capture.selection={one}, which captures again; or choose here what it says"
        raise ParameterError(problem, source=source, remedy=remedy)
