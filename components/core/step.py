"""A step is declared once; from the declaration come the KFP component, the CLI and the in-process call of a test.

`Step` holds pydantic `params`, the shared scalars it uses, its typed inputs and outputs, and `run`. `execute` is what a container does:
it reads KFP's executor input, validates everything, runs, checks that each declared output was published, and writes KFP's answer.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.core.artifacts import Failure, Json, M, Manifest, ModelId, StepRecord, canonical_json, load_manifest, sha256
from components.core.errors import DataError, MotionEnhancerError, ParameterError
from components.core.progress import track
from components.core.store import Entry, Store, WorkFolder

log = logging.getLogger(__name__)


def operational(default: Any, **options: Any) -> Any:
    """A field that changes how a step runs but not its results: it enters neither keys nor provenance."""
    return Field(default, json_schema_extra={"operational": True}, **options)


class StepParams(BaseModel):
    """Base of every step's parameters: unknown keys are refused, whole floats count as integers (KFP hands integers over so)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_failed: float = operational(0.0, ge=0, le=1, description="share of the step's own units that may fail before the step stops")

    def result(self) -> Json:
        """The fields that results depend on."""
        schema = type(self).model_fields
        hidden = {
            name for name, item in schema.items() if isinstance(item.json_schema_extra, dict) and item.json_schema_extra.get("operational")
        }
        return self.model_dump(mode="json", exclude=hidden)


Ratio = Field(gt=0, le=1)


class Scalars(BaseModel):
    """The parameters that people change most or that several steps share. A step sees only those it declares."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    source: str = Field("./data", min_length=1, description="folder or minio:// prefix with videos and questions")
    source_digest: str = Field("-", description="digest of the source's listing, from `plan`")
    benchmarks: list[str] = Field(
        ["motionbench=./data"], min_length=1, description='benchmarks, each "<protocol>=<folder or minio:// prefix>"'
    )
    benchmark_digest: str = Field("-", description="digest of the benchmarks' listings, from `plan`")
    benchmark: str = Field("-", description="the one benchmark of a loop")
    priors: str = Field("./priors", min_length=1, description="a prior set: sha256:… of its manifest, or an exported folder")
    prior_digest: str = Field("-", description="digest of the prior set's manifest, from `plan`")
    store: str = Field(
        "file:///tmp/motion-enhancer", min_length=1, description="where all work is kept: file:///folder or minio://bucket/prefix"
    )
    vdm: str = Field("cogvideox-5b", min_length=1, description="video diffusion model: a registry name or a diffusers folder")
    vlm: str = Field("qwen2.5-vl-7b", min_length=1, description="vision-language model: a registry name or a transformers folder")
    num_steps: int = Field(5, ge=1, le=1000, description="DDIM steps N of inversion and of reconstruction")
    head_ratio: float = Field(0.5, gt=0, le=1, description="share of heads that MHS keeps")
    token_ratio: float = Field(0.5, gt=0, le=1, description="share of text tokens that MTTI keeps")
    text: Literal["question", "response", "both"] = Field("both", description="which text conditions the video model")
    align_weight: float = Field(1.0, ge=0, description="λ, weight of the alignment loss")
    seed: int = Field(1, ge=0, description="seed of every random draw")
    shards: list[str] = Field(["0/1"], min_length=1, max_length=100, description='the parts that run side by side, each "k/n"')
    shard: str = Field("0/1", pattern=r"^\d+/\d+$", description='which part of the videos, "k/n"')


# Scalars that say where or which, not what: they enter no key and no provenance (models enter by digest).
_PLACES = {
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

P = TypeVar("P", bound=StepParams)
U = TypeVar("U")
Ui = Literal["Metrics", "Markdown", "HTML"]


@dataclass(frozen=True)
class Form:
    """A named subset of a step's inputs and scalars that is a KFP component of its own."""

    inputs: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()
    step_params: tuple[str, ...] = ()  # `params_<step>` of other steps, which only `plan` reads


@dataclass(frozen=True)
class Step(Generic[P]):
    """One step of the method."""

    name: str
    version: str
    title: str
    unit: str
    device: Literal["cpu", "gpu"]
    params: type[P]
    run: Callable[[Context[P]], None]
    scalars: tuple[str, ...] = ()
    inputs: Mapping[str, type[Manifest] | list[type[Manifest]]] = field(default_factory=dict)
    outputs: Mapping[str, type[Manifest]] = field(default_factory=dict)
    pages: Mapping[str, Ui] = field(default_factory=dict)
    values: tuple[str, ...] = ()
    forms: Mapping[str, Form] = field(default_factory=dict)
    always_scalars: tuple[str, ...] = ("store",)

    def form(self, name: str = "") -> Form:
        """The named form; a step without forms has one, with everything."""
        if not self.forms:
            return Form(tuple(self.inputs), (*self.always_scalars, *self.scalars))
        chosen = self.forms[name]
        return Form(chosen.inputs, (*self.always_scalars, *self.scalars, *chosen.scalars), chosen.step_params)

    def result_scalars(self, scalars: Mapping[str, Any]) -> Json:
        """Those shared scalars that results depend on."""
        return {name: scalars[name] for name in sorted(self.scalars) if name not in _PLACES}

    def key(self, params: StepParams, scalars: Mapping[str, Any], models: Mapping[str, ModelId], reads: Json) -> str:
        """The name of one piece of work: 32 hex of a hash over everything its result depends on, known before it is done."""
        payload = {
            "step": self.name,
            "version": self.version,
            "params": params.result(),
            "scalars": self.result_scalars(scalars),
            "models": {role: model.digest for role, model in models.items()},
            "reads": reads,
        }
        return sha256(canonical_json(payload))[:32]


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`; a video belongs to sha256(video) mod count, so a new video moves no other."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `"k/n"`."""
        index, count = (int(part) for part in text.split("/"))
        if not 0 <= index < count:
            raise ParameterError(f"shard {text!r} is not k/n with 0 ≤ k < n", source="shards", remedy='e.g. ["0/2", "1/2"]')
        return cls(index, count)

    def holds(self, video_sha256: str) -> bool:
        """Whether the video belongs to this shard."""
        return int(video_sha256, 16) % self.count == self.index


class Context(Generic[P]):
    """What a running step sees: its parameters, inputs and store, and where its outputs go."""

    def __init__(self, step: Step[P], task: str, request: Request, folder: Outputs) -> None:
        self.step, self.task, self._outputs = step, task, folder
        self.params = _validate(step.params, request.params, f"params_{step.name}")
        self.scalars, self.given = _scalars(request.scalars)
        if missing := {*step.always_scalars, *step.scalars} - set(self.given):
            raise ParameterError(f"no {', '.join(sorted(missing))}", source=f"parameters of {task}", remedy="give a value")
        self.rerun, self.step_params = request.rerun, request.step_params
        self.store = Store(self.scalars.store)
        self._inputs = request.inputs
        self.models: dict[str, ModelId] = {}
        self.provenance: dict[str, StepRecord] = {}
        self.left_out: list[Failure] = []
        self.counts = {"computed": 0, "remembered": 0, "failed": 0}

    @property
    def shard(self) -> Shard:
        """The part of the videos that is this task's."""
        return Shard.parse(self.scalars.shard)

    # -- inputs -------------------------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether this form has the input."""
        return name in self._inputs

    def input(self, name: str, kind: type[M]) -> M:
        """The single manifest of an input."""
        (manifest,) = self.collected(name, kind)
        return manifest

    def collected(self, name: str, kind: type[M]) -> list[M]:
        """All manifests of a collected input, in the loop's order; their provenance and left-out units are carried on."""
        manifests = [load_manifest(folder, kind) for folder in self._inputs[name]]
        for manifest in manifests:
            self.provenance.update(manifest.provenance)
            self.left_out.extend(item for item in manifest.left_out if item not in self.left_out)
        return manifests

    # -- work ---------------------------------------------------------------------------------------------------------

    def key(self, reads: Json) -> str:
        """Key of one piece of this step's work."""
        return self.step.key(self.params, self.given, self.models, reads)

    def work(self, key: str, step: str = "") -> WorkFolder:
        """A folder to write one piece of work into."""
        return WorkFolder(self.store, step or self.step.name, self.step.version, key)

    def remembered(self, key: str, step: str = "") -> Entry | None:
        """The entry of this work, or None if it has to be computed (again), as `rerun` asks."""
        if self.rerun.startswith("force"):
            return None
        entry = self.store.entry(step or self.step.name, key)
        if entry is not None and self.rerun != "0" and (bad := self.store.damaged(entry)):
            log.warning("%s: computing again, damaged or missing: %s", entry.unit, ", ".join(bad))
            return None
        return entry

    def each(
        self,
        units: Sequence[U],
        *,
        name: Callable[[U], str],
        reads: Callable[[U], Json],
        compute: Callable[[U, WorkFolder], Json],
        work: str = "",
    ) -> dict[str, Entry]:
        """Do one piece of work per unit unless it is remembered; a bad unit never becomes an entry.

        Args:
            units: what to work on, batch size 1.
            name: a unit's id.
            reads: what the unit reads, by key or content hash (enters the key).
            compute: writes files into the folder and returns small numbers for the entry.
            work: folder of the store when it is not the step's own name (pictures and the like).

        Returns:
            Entries by unit id, without the failed ones, which are in `left_out`.

        Raises:
            DataError: more than `max_failed` of the units failed; the others are done and remembered.
        """
        entries: dict[str, Entry] = {}
        failures: list[Failure] = []
        todo: list[tuple[U, str]] = []
        for unit in units:
            key = self.key(reads(unit))
            if (entry := self.remembered(key, work)) is not None:
                entries[name(unit)] = entry
            else:
                todo.append((unit, key))
        self.counts["remembered"] += len(entries)
        for unit, key in track(todo, self.step.title):
            folder = self.work(key, work)
            try:
                numbers = compute(unit, folder)
            except DataError as error:
                log.error("%s left out: %s", name(unit), error)
                failures.append(Failure(unit=name(unit), task=self.task, reason=error.problem))
                continue
            entries[name(unit)] = folder.finish(name(unit), reads(unit), numbers)
        self.counts["computed"] += len(todo) - len(failures)
        self.fail(failures, len(units))
        return entries

    def fail(self, failures: list[Failure], total: int) -> None:
        """Record left-out units, and stop when they are more than `max_failed` allows."""
        self.counts["failed"] += len(failures)
        self.left_out.extend(failures)
        if failures and len(failures) > self.params.max_failed * total:
            listed = "\n".join(f"    {item.unit}: {item.reason}" for item in failures)
            raise DataError(
                f"{len(failures)} of {total} {self.step.unit}s failed (max_failed={self.params.max_failed:g}), the others are done:"
                f"\n{listed}",
                source=self.task,
                remedy="mend or remove them and run again (only they are tried), or raise max_failed",
            )

    # -- outputs ------------------------------------------------------------------------------------------------------

    def manifest(self, kind: type[M], **fields: Any) -> M:
        """A manifest of `kind` with this step's provenance and left-out units filled in."""
        record = StepRecord(
            version=self.step.version, params=self.params.result(), scalars=self.step.result_scalars(self.given), models=dict(self.models)
        )
        # a task of a loop carries no shard: every shard's record is the same
        provenance = {**self.provenance, self.task: record}
        left_out = sorted(self.left_out, key=lambda item: (item.task, item.unit))
        return kind(kind=kind.KIND, provenance=provenance, left_out=left_out, **fields)

    def publish(self, name: str, manifest: Manifest) -> str:
        """Write an output artifact: into the store under its digest, and as the artifact's folder."""
        digest = self.store.publish(manifest)
        lines = getattr(manifest, "lines", [])
        self._outputs.artifact(name, manifest.to_bytes(), {"digest": f"sha256:{digest}", "kind": manifest.kind, "lines": float(len(lines))})
        return digest

    def page(self, name: str, text: str) -> None:
        """Write a Markdown or HTML output that the KFP UI shows."""
        self._outputs.page(name, text)

    def metrics(self, name: str = "metrics", **values: float) -> None:
        """Write a Metrics output: counts of units, and what the step adds."""
        total = sum(self.counts.values())
        share = self.counts["remembered"] / total if total else 0.0
        numbers = {"units": float(total), "failed": float(self.counts["failed"]), "share_remembered": round(share, 4), **values}
        self._outputs.metrics(name, {key: float(value) for key, value in numbers.items()})

    def value(self, name: str, text: str) -> None:
        """Write an output parameter."""
        self._outputs.value(name, text)


@dataclass(frozen=True)
class Request:
    """The inputs of one task, read from KFP's executor input."""

    params: Json
    scalars: Json
    rerun: str
    inputs: dict[str, list[Path]]
    step_params: dict[str, Json]

    @classmethod
    def parse(cls, step: Step[Any], executor_input: Json) -> Request:
        """Split KFP's parameter values into step parameters, shared scalars and the rerun nonce."""
        inputs = executor_input.get("inputs", {})
        values = dict(inputs.get("parameterValues", {}))
        params, rerun = values.pop("params", {}), str(values.pop("rerun", "0"))
        artifacts = {
            name: [Path(_local_path(item)) for item in entry.get("artifacts", [])] for name, entry in inputs.get("artifacts", {}).items()
        }
        step_params = {name.removeprefix("params_"): values.pop(name) for name in list(values) if name.startswith("params_")}
        known = {name for form in (list(step.forms) or [""]) for name in step.form(form).scalars}
        if unknown := set(values) - known:
            raise ParameterError(f"unknown parameters {sorted(unknown)}", source=step.name, remedy=f"known: {sorted(known)}")
        return cls(params, values, rerun, artifacts, step_params)


def _local_path(item: Json) -> str:
    """Where KFP's launcher puts an artifact inside the container."""
    if custom := item.get("customPath"):
        return str(custom)
    uri = str(item["uri"])
    for scheme, folder in (("minio://", "/minio/"), ("s3://", "/s3/"), ("gs://", "/gcs/")):
        if uri.startswith(scheme):
            return folder + uri[len(scheme) :]
    return uri.removeprefix("file://")


class Outputs:
    """Where a task's outputs go, and KFP's answer about them."""

    def __init__(self, executor_input: Json) -> None:
        outputs = executor_input.get("outputs", {})
        self._artifacts = {name: entry["artifacts"][0] for name, entry in outputs.get("artifacts", {}).items()}
        self._parameters = {name: entry["outputFile"] for name, entry in outputs.get("parameters", {}).items()}
        self._answer_file = outputs.get("outputFile", "")
        self._answer: dict[str, Any] = {"artifacts": {}, "parameterValues": {}}

    def _write(self, name: str, data: bytes, metadata: Json, file: str = "") -> None:
        item = self._artifacts[name]
        path = Path(_local_path(item)) / file if file else Path(_local_path(item))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self._answer["artifacts"][name] = {"artifacts": [{**item, "metadata": metadata}]}

    def artifact(self, name: str, manifest: bytes, metadata: Json) -> None:
        """A manifest in a folder of its own."""
        self._write(name, manifest, metadata, "manifest.json")

    def page(self, name: str, text: str) -> None:
        """A page for the KFP UI."""
        self._write(name, text.encode(), {})

    def metrics(self, name: str, values: dict[str, float]) -> None:
        """Scalars as metadata (what the UI shows) and as a file (kfp's local cache needs one)."""
        self._write(name, canonical_json(values), dict(values))

    def value(self, name: str, text: str) -> None:
        """An output parameter."""
        path = Path(self._parameters[name])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self._answer["parameterValues"][name] = text

    def close(self, step: Step[Any]) -> None:
        """Check that everything declared was written, then write KFP's answer."""
        wanted = {*step.outputs, *step.pages, *step.values}
        missing = wanted - set(self._answer["artifacts"]) - set(self._answer["parameterValues"])
        if missing:
            raise AssertionError(f"step {step.name} ended without its outputs {sorted(missing)}")
        if self._answer_file:
            path = Path(self._answer_file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self._answer))


def _validate(model: type[P], values: Json, source: str) -> P:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ParameterError(_explain(error), source=source, remedy=f"known fields: {', '.join(model.model_fields)}") from error


def _scalars(values: Json) -> tuple[Scalars, Json]:
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
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']} (got {item['input']!r})" for item in error.errors())


def validate_step(step: Step[Any], params: Json, scalars: Json) -> None:
    """Validate a step's parameters without running it (what `plan` does for every step)."""
    _validate(step.params, params, f"params_{step.name}")
    _scalars(scalars)


def execute(step: Step[Any], task: str, executor_input: Json) -> None:
    """Run one task in this process.

    Raises:
        MotionEnhancerError: anything a person can mend; the subclass holds the exit code.
        AssertionError: the step did not write an output that it declares.
    """
    outputs = Outputs(executor_input)
    context = Context(step, task, Request.parse(step, executor_input), outputs)
    step.run(context)
    outputs.close(step)


def main(step: Step[Any], argv: Sequence[str] | None = None) -> int:
    """`python -m components.<step> TASK EXECUTOR_INPUT`: the container's entry. Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(
        level=os.environ.get("LOG_LEVEL", "INFO"), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("httpx").setLevel("WARNING")
    if len(arguments) != 2:
        log.error("usage: python -m components.%s TASK EXECUTOR_INPUT (see `motion-enhancer step %s --help`)", step.name, step.name)
        return 2
    task, start = arguments[0], time.monotonic()
    try:
        execute(step, task, json.loads(arguments[1]))
        code = 0
    except MotionEnhancerError as error:
        log.error("%s: %s", task, error)
        code = error.exit_code
    except Exception:  # noqa: BLE001 - the step runner: anything else is a bug and is shown whole
        log.error("%s: a bug in this project\n%s", task, traceback.format_exc())
        code = 1
    log.info("%s: exit %d after %.1f s", task, code, time.monotonic() - start)
    return code


def tree_digest(root: Path) -> str:
    """Digest of the code that steps run (`components/` and `pipeline.py`), 64 hex."""
    names = sorted([*(root / "components").rglob("*"), root / "pipeline.py"])
    parts = [
        [path.relative_to(root).as_posix(), sha256(path.read_bytes())]
        for path in names
        if path.is_file() and "__pycache__" not in path.parts
    ]
    return sha256(canonical_json(parts))


def tree_is_dirty(root: Path) -> bool:
    """Whether git sees uncommitted changes in the code that steps run; False where there is no checkout."""
    command = ["git", "-C", str(root), "status", "--porcelain", "--", "components", "pipeline.py"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return False
    return answer.returncode == 0 and bool(answer.stdout.strip())
