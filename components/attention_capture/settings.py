"""Parameters of the capture, and what a unit of it reads; apart from the algorithm, as declarations import no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from components.core.records import Json, Sample
from components.core.text import TextChoice, conditioning
from components.head_selection.settings import Selection
from components.runtime.parameters import StagedParams, operational

Start = Literal["inverted", "noise"]
Norm = Literal["own", "joint", "fold"]


class Params(StagedParams):
    """Parameters of the reconstruction and the capture (method step 2)."""

    guidance_scale: float = Field(
        6.0,
        ge=1,
        description="guidance of the reconstruction: classifier-free, or an input of the network (HunyuanVideo)",
    )
    start: Start = Field("inverted", description="where the reconstruction starts")
    memory: bool = Field(
        True, description="cross-stream memory: the main stream also attends to the inverted latent of its noise level"
    )
    norm: Norm = Field("own", description="softmax over own keys, over both, or both folded by position")
    rows: int = Field(512, ge=2, description="sampled rows R of the v2v map for the DFC denominator; R ≥ S is exact")
    max_unreadable: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of a text's characters that the video model's text encoder may have no token for; above it "
        "the sample is left out",
    )
    keep: Literal["all", "selected"] = Field(
        "all",
        description="store the maps of all heads, or heads are chosen at once and the mean over those is stored: 1 / h "
        "of the bytes, and another choice is another capture (head_selection.scope sample only)",
    )
    selection: Selection = Field(
        default_factory=lambda: Selection.model_validate({}),
        description="under keep=selected, how heads are chosen: what head_ratio and params_head_selection say",
    )
    granularity: Literal["head", "layer_head"] = Field(
        "head",
        description="heads averaged over the layers first (the paper), or each layer's head scored on its own and the "
        "mean over the chosen pairs stored (needs keep=selected)",
    )
    layer_rows: int = Field(
        64,
        ge=2,
        description="in place of `rows` under granularity=layer_head, of each layer: their maps are there at once",
    )
    pictures: int = operational(
        8, ge=0, description="samples that are pictured: those with the smallest sha256(sample id)"
    )

    @field_validator("granularity")
    @classmethod
    def _can_be_kept(cls, granularity: str, info: ValidationInfo) -> str:
        if granularity == "layer_head" and info.data.get("keep") == "all":
            raise ValueError("layer_head needs keep=selected: the maps of all heads of all layers are not stored")
        return granularity

    @property
    def sampled_rows(self) -> int:
        """R of each map."""
        return self.rows if self.granularity == "head" else self.layer_rows

    def idle(self) -> set[str]:
        """Return the names of the fields that do nothing: all maps follow from no choice, R has two names."""
        choice = set() if self.keep == "selected" else {"selection"}
        return choice | {"layer_rows" if self.granularity == "head" else "rows"}


def reads(trajectory_key: str, sample: Sample, text: TextChoice) -> Json:
    """Return what a unit reads: its video's trajectory by key, and its text."""
    words, parts = conditioning(sample, text)
    places = [[part.field, part.start] for part in parts]
    return {"trajectory": trajectory_key, "text": words, "parts": places, "sample": sample.id}
