"""The evaluation's parameters. Keys hold what most of them come to for an item: see `asking.Asker.reads`."""

from __future__ import annotations

from pydantic import Field, field_validator

from components.benchmark_eval.controls import Control
from components.benchmarks.interface import FramePreset
from components.media.viewing import Viewing
from components.runtime.parameters import StagedParams, resolved


class Params(StagedParams):
    """Parameters of the evaluation (method step 7)."""

    viewing: Viewing = resolved(default_factory=lambda: Viewing.model_validate({}), description="frames of the VLM")
    preset: FramePreset = resolved("paper", description="`supplement`: InternVL3 sees FAVOR-Bench at 1 fps (Table 4)")
    max_new_tokens: int | None = resolved(None, ge=1, le=8192, description="longest reply; null: the benchmark's own")
    system_prompt: str | None = Field(None, description="system prompt; null: the chat template's own")
    prompt_template: str | None = resolved(
        None, description="prompt with `{question}` and `{options}`; null: the benchmark's own"
    )
    control: Control = resolved(
        "none", description="what the model is shown instead: no clip, its middle frame, its frames in another order"
    )
    permutations: int = resolved(
        1, ge=1, le=26, description="orders in which options are asked, each one place further; 1: as published"
    )
    limit: int | None = resolved(None, ge=1, description="most items to ask, by smallest sha256(id); null: all")
    held_out: bool = resolved(False, description="ask items without an answer as well, which no score counts")
    batch_size: int = Field(
        1, ge=1, le=64, description="questions about a clip that are decoded together; above 1 other last bits"
    )

    @field_validator("prompt_template")
    @classmethod
    def _asks(cls, value: str | None) -> str | None:
        missing = [name for name in ("{question}", "{options}") if value is not None and value.count(name) != 1]
        if missing:
            raise ValueError(f"{' and '.join(missing)} must stand in it once")
        return value
