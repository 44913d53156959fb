"""Parameters: the base of every step's own, and the shared ones that pipelines show first, each declared once.

A field is a *result* field (it enters the key of a piece of work and the provenance), a *resolved* one (it enters the
provenance, and the key takes what it comes to for a unit) or an *operational* one (it changes where or how a step runs,
not what comes out): the declaration of the field states which. A result field that does nothing under the values of the
others is *idle*: it enters neither.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from components.core.errors import ParameterError
from components.core.records import Json
from components.core.text import TextChoice
from components.store.backend import PATIENCE

M = TypeVar("M", bound="Parameters")
P = TypeVar("P", bound="StepParams")


def operational(default: Any = ..., **options: Any) -> Any:
    """Declare a field that results do not depend on: it enters neither keys nor provenance."""
    return Field(default, json_schema_extra={"operational": True}, **options)


def resolved(*default: Any, **options: Any) -> Any:
    """Declare a result field that keys do not hold as it stands: `reads` names what it comes to for each unit."""
    return Field(*default, json_schema_extra={"resolved": True}, **options)


def address(description: str) -> Any:
    """Declare an operational field that names a place or a model."""
    return operational(min_length=1, description=description)


def is_operational(field: FieldInfo) -> bool:
    """Return whether results do not depend on the field."""
    return _marked(field, "operational")


def _marked(field: FieldInfo, mark: str) -> bool:
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get(mark))


class Parameters(BaseModel):
    """Base of all parameters: unknown keys are refused, whole floats count as integers (KFP hands integers over so)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def result_names(cls) -> set[str]:
        """Return the names of the fields that results depend on."""
        return {name for name, field in cls.model_fields.items() if not is_operational(field)}

    def idle(self) -> set[str]:
        """Return the names of the result fields that do nothing under the values of the others."""
        return set()

    def result(self) -> Json:
        """Return the fields that results depend on, without idle ones."""
        return self.model_dump(mode="json", include=self.result_names() - self.idle())

    def keyed(self) -> Json:
        """Return the fields that keys hold as they stand."""
        names = self.result_names() - self.idle()
        fields = type(self).model_fields
        return self.model_dump(mode="json", include={name for name in names if not _marked(fields[name], "resolved")})


class StepParams(Parameters):
    """Base of a step's own parameters, `params_<step>`."""


class UnitParams(StepParams):
    """Base of the parameters of a step with units that may fail one by one."""

    max_failed: float = operational(
        0.0, ge=0, le=1, description="share of the step's own units that may fail before the step stops"
    )


class StagedParams(UnitParams):
    """Base of the parameters of a step whose units are read ahead and written behind."""

    prefetch: int = operational(
        2,
        ge=0,
        le=32,
        description="units (clips of a benchmark) read ahead in threads, and units written behind; 0: one at a time",
    )


# Shared parameters: what people change most or several steps share ----------------------------------------------------


@dataclass(frozen=True)
class PipelineDefault:
    """The default of a pipeline's parameter. A step itself has none: it takes what its task is given."""

    value: Any


def pipeline_default(field: FieldInfo) -> Any:
    """Return the default that pipelines show for a shared parameter."""
    (found,) = (item.value for item in field.metadata if isinstance(item, PipelineDefault))
    return found


def as_text(value: Any) -> Any:
    """Return a list or an object as its JSON text: KFP has one type for a parameter, and here it is text."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value


def items_of(text: str, source: str) -> list[Any]:
    """Return what a parameter names: one address, or the items of a JSON list (an object is a list of one).

    Raises:
        ParameterError: a text that begins like JSON and is none, or an empty list.
    """
    if not text.lstrip().startswith(("[", "{")):
        return [text]
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        remedy = "correct the JSON; a folder whose name begins so is written ./[…"
        raise ParameterError(f"not JSON: {error}", source=f"{source}={text[:80]}", remedy=remedy) from error
    items = found if isinstance(found, list) else [found]
    if not items:
        raise ParameterError("an empty list", source=source, remedy="name at least one")
    return items


SourceUri = Annotated[
    str,
    address(
        "folder or minio:// prefix with videos and questions; or a JSON list of such, each with uri and optionally "
        "layout, samples, seed, weight, name"
    ),
    BeforeValidator(as_text),
    PipelineDefault("./data"),
]
SourceDigest = Annotated[
    str | None, operational(None, description="digest of the source's listing, from `plan`; only KFP's cache reads it")
]
Benchmarks = Annotated[
    list[str],
    operational(min_length=1, description='benchmarks, each "<protocol>=<folder or minio:// prefix>"'),
    PipelineDefault(["motionbench=./benchmarks"]),
]
BenchmarkDigest = Annotated[
    str | None,
    operational(None, description="digest of the benchmarks' listings, from `plan`; only KFP's cache reads it"),
]
BenchmarkItem = Annotated[str, operational(description="the one benchmark of a loop")]
Priors = Annotated[
    str,
    address("a prior set: sha256:… of its manifest, or an exported folder; or a JSON list of such, which are merged"),
    BeforeValidator(as_text),
    PipelineDefault("./priors"),
]
PriorDigest = Annotated[
    str, operational(description="digest of the prior set's manifest, or a JSON list of several, from `plan`")
]
StoreUri = Annotated[
    str,
    address("where all work is kept: file:///folder or minio://bucket/prefix"),
    PipelineDefault("minio://motion-enhancer/store"),
]
StorePatience = Annotated[
    float,
    operational(gt=0, le=1440, description="minutes that a task tries again while the store does not answer"),
    PipelineDefault(PATIENCE),
]
# models enter keys by their digest, whatever name or folder they came from
Vdm = Annotated[
    str, address("video diffusion model: a registry name or a diffusers folder"), PipelineDefault("cogvideox-5b")
]
Vlm = Annotated[
    str, address("vision-language model: a registry name or a transformers folder"), PipelineDefault("qwen2.5-vl-7b")
]
NumSteps = Annotated[
    int, Field(ge=1, le=1000, description="DDIM steps N of inversion and of reconstruction"), PipelineDefault(5)
]
HeadRatio = Annotated[float, Field(gt=0, le=1, description="share of heads that MHS keeps"), PipelineDefault(0.5)]
TokenRatio = Annotated[
    float, Field(gt=0, le=1, description="share of text tokens that MTTI keeps"), PipelineDefault(0.5)
]
Text = Annotated[TextChoice, Field(description="which text conditions the video model"), PipelineDefault("both")]
AlignWeight = Annotated[float, Field(ge=0, description="λ, weight of the alignment loss"), PipelineDefault(1.0)]
Seed = Annotated[int, Field(ge=0, description="seed of every random draw"), PipelineDefault(1)]
Shards = Annotated[
    list[str],
    operational(min_length=1, max_length=100, description='the parts that run side by side, each "k/n"'),
    PipelineDefault(["0/2", "1/2"]),
]
Variants = Annotated[
    list[Any],
    operational(
        min_length=1,
        description='what is compared: objects with a name and changes, {"name": "10 steps", "num_steps": 10}, fields '
        'of a step as "params_<step>.FIELD"; a text names a list that is there: paper_table3, paper_table5, '
        "paper_table6, controls",
    ),
    PipelineDefault(["paper_table3"]),
]
Baseline = Annotated[
    str,
    operational(
        min_length=1,
        description="what the others are compared with: a variant's name, first (of the list), or untouched (the model "
        "as it was)",
    ),
    PipelineDefault("first"),
]
Seeds = Annotated[
    list[Annotated[int, Field(ge=0)]],
    operational(min_length=1, description="seeds of the trainings: each variant is trained with each of them"),
    PipelineDefault([1, 2, 3]),
]
TrialShards = Annotated[
    list[str],
    operational(
        min_length=1,
        max_length=100,
        description='the parts that the trainings are dealt out to and that run side by side, each "k/n"',
    ),
    PipelineDefault(["0/2", "1/2"]),
]
OverLimits = Annotated[
    Literal["stop", "go"],
    operational(description="what `plan` does where a pod would outlast its time limit or exceed its memory"),
    PipelineDefault("stop"),
]
ShardName = Annotated[str, operational(pattern=r"^\d+/\d+$", description='which part of the videos, "k/n"')]

TrialShard = Annotated[str, operational(pattern=r"^\d+/\d+$", description='which part of the trainings, "k/n"')]


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`: a range of the sorted ids of videos, equally wide, so a new video moves no other."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `"k/n"`; a ParameterError where it is anything else, or k is not below n."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or int(found[1]) >= int(found[2]):
            problem = f"shard {text!r} is not k/n with 0 ≤ k < n"
            raise ParameterError(problem, source="shards", remedy='e.g. ["0/2", "1/2"]')
        return cls(int(found[1]), int(found[2]))

    @staticmethod
    def all(shards: Sequence[Shard]) -> bool:
        """Return whether these are all shards of one count, each once."""
        return {shard.count for shard in shards} == {len(shards)} == {len({shard.index for shard in shards})}

    @property
    def bounds(self) -> tuple[str, str]:
        """The range: ids from the first on and below the second."""
        first, end = (f"{-(-index * 2**64 // self.count):016x}" for index in (self.index, self.index + 1))
        return first, end if self.index + 1 < self.count else "g"  # which is behind all hex digits

    def holds(self, video_id: str) -> bool:
        """Return whether the video belongs to this shard."""
        first, end = self.bounds
        return first <= video_id < end


class SharedParams(Parameters):
    """Base of the shared parameters that a step reads: every step reads the store."""

    store: StoreUri
    store_patience: StorePatience

    @classmethod
    def pipeline_defaults(cls) -> Json:
        """Return the defaults that pipelines show, of the fields that have one."""
        marks = {name: field.metadata for name, field in cls.model_fields.items()}
        return {name: mark.value for name in marks for mark in marks[name] if isinstance(mark, PipelineDefault)}


class ShardParams(SharedParams):
    """Base of the shared parameters of a step that runs once per shard."""

    shard: ShardName

    @property
    def bounds(self) -> tuple[str, str]:
        """The range of ids of this task's videos, as `Shard.bounds`."""
        return Shard.parse(self.shard).bounds


def validated(model: type[M], values: Json, source: str) -> M:
    """Return `values` as `model`; a ParameterError names what is wrong, where, and which fields there are."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problem, remedy = "; ".join(map(_problem, error.errors())), f"known fields: {', '.join(model.model_fields)}"
        raise ParameterError(problem, source=source, remedy=remedy) from error


def _problem(item: Any) -> str:
    name = ".".join(map(str, item["loc"]))
    if item["type"] == "missing":
        return f"no {name}"
    problem = "there is no such parameter" if item["type"] == "extra_forbidden" else item["msg"]
    return f"{name}: {problem} (got {item['input']!r})"
