"""Typed artifacts: what one step hands to the next, as pydantic models.

An artifact is a small folder with one `manifest.json`; bulk data stays in the store and is named by `Ref`s. A line
carries every reference its consumers need, so nobody follows a chain of manifests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, ValidationError

from components.core import records
from components.core.errors import DataError
from components.core.records import (
    Clip,
    Confidence,
    Grid,
    HeadRow,
    Piece,
    Record,
    Ref,
    Sample,
    ScoredPiece,
    Span,
    Video,
)


def _unread() -> Any:
    """Declare what the text encoder has no token for; left out where it is empty, as in manifests from before."""
    return Field([], exclude_if=lambda spans: not spans, description="characters that the text encoder cannot read")


class VideoLine(Record):
    """A video with all its samples, and its ground-truth mask where the source has one."""

    video: Video
    mask: Ref | None = None
    samples: list[Sample]


class TrajectoryLine(VideoLine):
    """A video inverted: the latents of all N+1 noise levels, and the grid its tokens live on."""

    key: str
    frames: list[int] = Field(description="indices of the frames that were read")
    grid: Grid
    latents: Ref
    residual: float = Field(description="largest relative fixed-point residual of a step; 0 without iterations")


class SampleLine(Record):
    """What every per-sample line has."""

    video: Video
    mask: Ref | None = None
    sample: Sample

    @property
    def called(self) -> str:
        """What failures call it."""
        return self.sample.called(self.video)


class AttentionLine(SampleLine):
    """A sample's text-to-vision maps of all heads and the statistics of its vision-to-vision maps."""

    key: str
    grid: Grid
    pieces: list[Piece]
    truncated: int = Field(description="characters of the text beyond the text encoder's length")
    unread: list[Span] = _unread()
    maps: Ref = Field(description="t2v [h, T, S] fp16, density relative to uniform")
    statistics: Ref
    pictures: dict[str, Ref] = {}


class HeadLine(AttentionLine):
    """The same with the heads that were chosen for this sample."""

    heads: list[int]


class PriorLine(SampleLine):
    """A sample's motion prior: everything a consumer of priors needs."""

    key: str
    grid: Grid
    pieces: list[ScoredPiece]
    truncated: int
    unread: list[Span] = _unread()
    heads: list[int]
    statistics: Ref
    prior: Ref = Field(description="A_VDM [T', F, H, W] fp32, density relative to uniform")
    per_frame: Ref = Field(description="A_t2f [T, F] of all pieces")
    confidence: Confidence
    pictures: dict[str, Ref] = {}


class VlmLine(PriorLine):
    """The same words in the VLM: token map, coverage, and where computed the model's own map and its distance."""

    token_map: Ref
    coverage: float
    tokens: int | None = Field(
        None,
        exclude_if=lambda count: count is None,  # so that a manifest from before keeps its bytes and its digest
        description="length of the conversation's sequence; None in manifests of vlm_attention v1",
    )
    vlm_map: Ref | None = None
    distance: float | None = None


class ItemResult(Record):
    """A benchmark item answered."""

    video: Video | Clip = Field(description="without the times of its frames; older manifests have them")
    mask: Ref | None = None
    sample: Sample
    key: str
    prompt: str | None = Field(
        None,
        exclude_if=lambda prompt: prompt is None,  # so that a manifest from before keeps its bytes and its digest
        description="what the model was asked; None in manifests of benchmark_eval v3",
    )
    reply: str
    parsed: str = Field(description="letter that was read out of the reply; empty: unparsed, counted as wrong")
    rule: str = Field(description="which parsing rule matched")
    correct: bool
    official_correct: bool = Field(description="by the benchmark's own rule")
    frames: list[int] = Field(description="indices of the frames that the model saw, in its order")


class PermutedReply(Record):
    """A reply to an item whose options were asked in another order."""

    sample: str = Field(description="the item's sample id")
    shift: int = Field(description="by how many places each option stood further up; the first ones followed the last")
    key: str
    reply: str
    parsed: str = Field(description="letter that the option has as published; empty: unparsed, counted as wrong")
    rule: str
    correct: bool


LeakKind = Literal["file", "frames", "id", "name", "text"]
LEAKS: dict[LeakKind, str] = {  # in the order in which they are certain
    "file": "the same file as",
    "frames": "the same footage as",
    "id": "the same id as",
    "name": "the same name as",
    "text": "the same text as",
}


class Leak(Record):
    """A training video and a benchmark's that share something; `kind` says what, `what` is the name or text itself."""

    kind: LeakKind
    training: records.Digest = Field(description="the training video")
    training_name: str
    benchmark: records.Digest = Field(description="the benchmark's video")
    benchmark_name: str
    protocols: list[str] = Field(description="benchmarks that ask about this video")
    what: str = Field("", description="the shared name, id or text")
    distance: float | None = Field(None, description="frames: mean bits of 64 by which hashes differ")
    frames: int | None = Field(None, description="frames: how many were compared")
    seconds: float | None = Field(None, description="frames: length of the shared part")
    shift: float | None = Field(None, description="frames: second of the benchmark's video where the other one begins")

    @property
    def reason(self) -> str:
        """What it shares with which video of which benchmark."""
        return f"{LEAKS[self.kind]} {self.benchmark_name} of {', '.join(self.protocols)}"


class LeakageCounts(Record):
    """What a leakage check found, and how many training samples it left out."""

    report: records.Digest = Field(description="digest of the whole LeakageReport")
    training: int = Field(description="training videos that were checked")
    benchmarks: dict[str, int] = Field(description="videos of each benchmark")
    found: dict[str, dict[LeakKind, int]] = Field(description="videos of each benchmark with a pair, by kind")
    excluded_videos: int
    excluded_samples: int


class Score(Record):
    """An accuracy with its count and 95 % interval (percent); none from one video."""

    name: str
    n: int
    correct: int
    accuracy: float
    low: float | None
    high: float | None
    unparsed: int


class Manifest(Record):
    """Base of all artifacts. `kind` names the type at compile time and again at run time."""

    KIND: ClassVar[str]
    kind: str
    schema_version: Literal["1"] = "1"
    provenance: dict[str, records.StepRecord] = Field(description="every step that led here, by task")
    left_out: list[records.Failure] = []

    def to_bytes(self) -> bytes:
        """Return the manifest's one spelling."""
        return records.canonical_json(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """sha256 of the manifest's bytes."""
        return records.sha256(self.to_bytes())


class Sharded(Manifest):
    """A manifest of one shard, `"k/n"`."""

    shard: str


class VideoDataset(Manifest):
    """Checked videos and their samples, or a benchmark's items."""

    KIND = "VideoDataset"
    lines: list[VideoLine]


class Trajectories(Sharded):
    """Inverted videos."""

    KIND = "Trajectories"
    lines: list[TrajectoryLine]


class AttentionMaps(Sharded):
    """Captured attention, one line per sample."""

    KIND = "AttentionMaps"
    lines: list[AttentionLine]


class HeadSelection(Manifest):
    """Motion-sensitive heads of every sample (MHS)."""

    KIND = "HeadSelection"
    lines: list[HeadLine]
    heads: list[HeadRow]
    saturation: dict[str, float] = Field(description="share of the chosen heads whose TCS or DSR is at its maximum")


class MotionPrior(Sharded):
    """Motion priors of one shard (MTTI)."""

    KIND = "MotionPrior"
    lines: list[PriorLine]
    heads: list[HeadRow]
    saturation: dict[str, float]


class PriorSet(Manifest):
    """The product: one data set of motion priors that knows nothing of any VLM."""

    KIND = "PriorSet"
    lines: list[PriorLine]
    heads: list[HeadRow]
    saturation: dict[str, float]
    merged: list[str] = Field(
        [],
        exclude_if=lambda digests: not digests,  # so that a manifest from before keeps its bytes and its digest
        description="the sets that it was merged from, by digest",
    )


class LeakageReport(Manifest):
    """Training videos that share files, footage, names or texts with benchmarks, and those to train without."""

    KIND = "LeakageReport"
    training: int = Field(description="training videos that were checked")
    benchmarks: dict[str, int] = Field(description="videos of each benchmark")
    pairs: list[Leak]
    excluded: list[records.Digest] = Field(description="training videos that are left out of training")

    @property
    def reasons(self) -> dict[str, str]:
        """The first reason of each excluded video."""
        excluded = set(self.excluded)
        return {pair.training: pair.reason for pair in reversed(self.pairs) if pair.training in excluded}

    @property
    def found(self) -> dict[str, dict[LeakKind, int]]:
        """How many videos of each benchmark have a pair, by kind."""
        seen: dict[str, dict[LeakKind, set[str]]] = {name: {} for name in self.benchmarks}
        for pair in self.pairs:
            for name in pair.protocols:
                seen[name].setdefault(pair.kind, set()).add(pair.benchmark)
        return {name: {kind: len(videos) for kind, videos in kinds.items()} for name, kinds in seen.items()}

    def counts(self, samples: int) -> LeakageCounts:
        """Return the counts, `samples` training samples being left out."""
        return LeakageCounts(
            report=self.digest,
            training=self.training,
            benchmarks=self.benchmarks,
            found=self.found,
            excluded_videos=len(self.excluded),
            excluded_samples=samples,
        )


class VlmMaps(Sharded):
    """Token maps and the VLM's own attention."""

    KIND = "VlmMaps"
    lines: list[VlmLine]


class TunedModel(Manifest):
    """A fine-tuned VLM: the files of a folder that plain `from_pretrained` opens, the aligner and the training log."""

    KIND = "TunedModel"
    key: str
    files: list[Ref]
    aligner: list[Ref]
    adapter: list[Ref] = Field([], description="low-rank updates as peft writes them; they are merged into `files`")
    log: Ref
    leakage: LeakageCounts | None = Field(
        None,
        exclude_if=lambda counts: counts is None,  # so that a manifest from before keeps its bytes and its digest
        description="what the leakage check found; None where the model was trained without one",
    )
    lines: list[VlmLine]


class EvalResult(Manifest):
    """A benchmark answered by one model."""

    KIND = "EvalResult"
    protocol: str
    model: str
    scores: list[Score]
    lines: list[ItemResult]
    held_out: list[ItemResult] = Field(
        [], exclude_if=lambda found: not found, description="items without an answer, which no score counts"
    )
    permuted: list[PermutedReply] = Field(
        [], exclude_if=lambda found: not found, description="the items of `lines` again, their options in other orders"
    )


class Report(Manifest):
    """The report page."""

    KIND = "Report"
    page: Ref


PRODUCTS = (PriorSet.KIND, TunedModel.KIND, Report.KIND)  # what people name by its digest

M = TypeVar("M", bound=Manifest)


def parse_manifest(data: bytes, expected: type[M], source: str) -> M:
    """Read a manifest and check its kind and schema version.

    Raises:
        DataError: not JSON, another kind, another schema version, or fields that do not validate.
    """
    again = f"rerun the step that made it, or wire a {expected.KIND} here"
    try:
        raw = json.loads(data)
        if not isinstance(raw, dict):
            raise ValueError("no JSON object")
    except ValueError as error:
        raise DataError(f"not a manifest: {error}", source=source, remedy=again) from error
    kind, version = raw.get("kind"), raw.get("schema_version")
    if kind != expected.KIND:
        raise DataError(f"wrong artifact kind {kind!r}, wanted {expected.KIND!r}", source=source, remedy=again)
    if version != "1":
        problem = f"schema version {version!r} of {kind}, this code reads '1'"
        raise DataError(problem, source=source, remedy=again)
    try:
        return expected.model_validate(raw)
    except ValidationError as error:
        raise DataError(f"{kind} manifest does not validate:\n{error}", source=source, remedy=again) from error


def load_manifest(folder: Path, expected: type[M]) -> M:
    """Read `manifest.json` of an artifact folder; errors as `parse_manifest`."""
    path = folder / "manifest.json"
    if not path.is_file():
        problem = f"no manifest.json for a {expected.KIND}"
        raise DataError(problem, source=str(folder), remedy="rerun the step that makes it")
    return parse_manifest(path.read_bytes(), expected, str(path))
