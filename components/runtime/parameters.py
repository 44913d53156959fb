"""Parameters: what every step's own are based on, and the shared scalars that a pipeline shows first.

A field is a *result* field (it enters the key of a piece of work) or an *operational* one (it changes how a step runs,
not what comes out).
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.core.errors import ParameterError
from components.core.records import Json

P = TypeVar("P", bound="StepParams")


def operational(default: Any, **options: Any) -> Any:
    """A field that changes how a step runs but not its results: it enters neither keys nor provenance."""
    return Field(default, json_schema_extra={"operational": True}, **options)


class StepParams(BaseModel):
    """Base of every step's parameters: unknown keys are refused, whole floats count as integers (KFP hands integers over so)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_failed: float = operational(
        0.0, ge=0, le=1, description="share of the step's own units that may fail before the step stops"
    )

    def result(self) -> Json:
        """The fields that results depend on."""
        schema = type(self).model_fields
        hidden = {
            name
            for name, item in schema.items()
            if isinstance(item.json_schema_extra, dict) and item.json_schema_extra.get("operational")
        }
        return self.model_dump(mode="json", exclude=hidden)


class Scalars(BaseModel):
    """What people change most or several steps share, with the pipelines' defaults. A step sees only those it declares."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    source: str = Field("./data", min_length=1, description="folder or minio:// prefix with videos and questions")
    source_digest: str = Field("-", description="digest of the source's listing, from `plan`")
    benchmarks: list[str] = Field(
        ["motionbench=./benchmarks"],
        min_length=1,
        description='benchmarks, each "<protocol>=<folder or minio:// prefix>"',
    )
    benchmark_digest: str = Field("-", description="digest of the benchmarks' listings, from `plan`")
    benchmark: str = Field("-", description="the one benchmark of a loop")
    priors: str = Field(
        "./priors", min_length=1, description="a prior set: sha256:… of its manifest, or an exported folder"
    )
    prior_digest: str = Field("-", description="digest of the prior set's manifest, from `plan`")
    store: str = Field(
        "minio://motion-enhancer/store",
        min_length=1,
        description="where all work is kept: file:///folder or minio://bucket/prefix",
    )
    vdm: str = Field(
        "cogvideox-5b", min_length=1, description="video diffusion model: a registry name or a diffusers folder"
    )
    vlm: str = Field(
        "qwen2.5-vl-7b", min_length=1, description="vision-language model: a registry name or a transformers folder"
    )
    num_steps: int = Field(5, ge=1, le=1000, description="DDIM steps N of inversion and of reconstruction")
    head_ratio: float = Field(0.5, gt=0, le=1, description="share of heads that MHS keeps")
    token_ratio: float = Field(0.5, gt=0, le=1, description="share of text tokens that MTTI keeps")
    text: Literal["question", "response", "both"] = Field("both", description="which text conditions the video model")
    align_weight: float = Field(1.0, ge=0, description="λ, weight of the alignment loss")
    seed: int = Field(1, ge=0, description="seed of every random draw")
    shards: list[str] = Field(
        [f"{k}/8" for k in range(8)],
        min_length=1,
        max_length=100,
        description='the parts that run side by side, each "k/n"',
    )
    shard: str = Field("0/1", pattern=r"^\d+/\d+$", description='which part of the videos, "k/n"')


# Scalars that say where or which, not what: they enter no key and no provenance (models enter by digest).
PLACES = {
    "source",
    "source_digest",
    "benchmarks",
    "benchmark_digest",
    "benchmark",
    "priors",
    "prior_digest",
    "store",
    "vdm",
    "vlm",
    "shard",
}


def validated(model: type[P], values: Json, source: str) -> P:
    """`values` as `model`; a ParameterError tells what is wrong, where, and which fields there are."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ParameterError(
            _explain(error), source=source, remedy=f"known fields: {', '.join(model.model_fields)}"
        ) from error


def scalars_of(values: Json) -> tuple[Scalars, Json]:
    """Validated scalars in which only the given ones can be read, and those by name (5, where KFP said 5.0)."""
    try:
        scalars = Scalars.model_validate(values)
    except ValidationError as error:
        raise ParameterError(_explain(error), source="pipeline parameters", remedy="correct the value") from error
    given = {name: getattr(scalars, name) for name in values}
    for name in set(Scalars.model_fields) - set(values):
        del scalars.__dict__[name]
    return scalars, given


def _explain(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, item['loc']))}: {item['msg']} (got {item['input']!r})" for item in error.errors()
    )
