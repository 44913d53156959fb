"""Typed artifacts: what one step hands to the next, as pydantic models.

An artifact is a small folder with one `manifest.json`: a head that names the parts its lines lie in (`lines.py`). Bulk
data stays in the store and is named by `Ref`s. A line carries every reference its consumers need, so nobody follows a
chain of manifests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import Self

from components.core import records
from components.core.errors import DataError
from components.core.lines import Blob, Lines, Read
from components.core.records import (
    Clip,
    Confidence,
    Grid,
    Head,
    HeadRow,
    Piece,
    PieceCounts,
    Record,
    Ref,
    Sample,
    ScoredPiece,
    Span,
    Video,
    smallest_by_hash,
)

SMALLEST = 64  # the most that a report pictures
_PIECES, _SCORED = TypeAdapter(list[Piece]), TypeAdapter(list[ScoredPiece])


def _empty(value: Any) -> bool:
    """Return whether a field is left out, so that a manifest from before keeps its bytes and its digest."""
    return not value


def _none(value: object) -> bool:
    """Return the same of a number, which may be 0."""
    return value is None


def _unread() -> Any:
    """Declare what the text encoder has no token for."""
    return Field([], exclude_if=_empty, description="characters that the text encoder cannot read")


def _lines(kind: type[Record], description: str) -> Any:
    """Declare lines that most manifests have none of."""
    return Field(default_factory=lambda: Lines(kind, []), exclude_if=_empty, description=description)


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
    """A sample's text-to-vision maps and the statistics of all heads' vision-to-vision maps."""

    key: str
    grid: Grid
    pieces: Ref | list[Piece] = Field(description="list[Piece] as JSON; inline where an older version captured it")
    truncated: int = Field(description="characters of the text beyond the text encoder's length")
    unread: list[Span] = _unread()
    maps: Ref = Field(description="t2v fp16, density relative to uniform: [h, T, S], or [T, S] the mean over `heads`")
    heads: list[Head] | None = Field(
        None, exclude_if=_none, description="heads that the capture chose; None where it keeps all"
    )
    statistics: Ref
    pictures: dict[str, Ref] = {}

    @staticmethod
    def parse_pieces(data: bytes) -> list[Piece]:
        """Read the file that `pieces` names."""
        return _PIECES.validate_json(data)


class HeadLine(AttentionLine):
    """The same with the heads that were chosen for this sample."""

    heads: list[Head] = Field(description="as the capture chose them, where it did")


class PriorLine(SampleLine):
    """A sample's motion prior: everything a consumer of priors needs."""

    key: str
    grid: Grid
    pieces: Ref | list[ScoredPiece] = Field(
        description="list[ScoredPiece] as JSON; inline where an older version made it"
    )
    counts: PieceCounts | None = Field(None, exclude_if=_none, description="None where the pieces are inline")
    truncated: int
    unread: list[Span] = _unread()
    heads: list[Head]
    statistics: Ref
    prior: Ref = Field(description="A_VDM [T', F, H, W] fp16 (before v3: fp32), density relative to uniform")
    per_frame: Ref = Field(description="A_t2f [T, F] of all pieces")
    confidence: Confidence
    pictures: dict[str, Ref] = {}

    @staticmethod
    def parse_pieces(data: bytes) -> list[ScoredPiece]:
        """Read the file that `pieces` names."""
        return _SCORED.validate_json(data)

    @property
    def piece_counts(self) -> PieceCounts:
        """How many pieces the text has, and how many MTTI kept."""
        if self.counts is not None:
            return self.counts
        assert not isinstance(self.pieces, Ref), "a line whose pieces are a file says how many they are"
        return PieceCounts(pieces=len(self.pieces), selected=sum(piece.selected for piece in self.pieces))


class VlmLine(PriorLine):
    """The same words in the VLM: token map, coverage, and where computed the model's own map and its distance."""

    token_map: Ref
    coverage: float
    tokens: int | None = Field(
        None,
        exclude_if=_none,
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
        exclude_if=_none,
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
    sources: list[str] = Field(
        [], exclude_if=_empty, description="what a recipe of several sources calls the training's own"
    )
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
    """Base of all artifacts. `kind` names the type at compile time and again at run time.

    Version 1 has its lines inline, and keeps them so: it has the digest that it always had.
    """

    KIND: ClassVar[str]
    kind: str
    schema_version: Literal["1", "2"] = "2"
    provenance: dict[str, records.StepRecord] = Field(description="every step that led here, by task")
    left_out: Lines[records.Failure] = Field(default_factory=lambda: Lines(records.Failure, []))

    def listed(self) -> dict[str, Lines[Any]]:
        """Return the manifest's lists of lines by field."""
        values = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: value for name, value in values if isinstance(value, Lines)}

    def bind(self, read: Read) -> Self:
        """Say how the texts of its parts are read."""
        for lines in self.listed().values():
            lines.bind(read)
        return self

    def blobs(self) -> Iterator[Blob]:
        """Yield the files that its parts lie in, with repeats; none of version 1."""
        for lines in self.listed().values() if self.schema_version != "1" else ():
            yield from lines.blobs()

    def to_bytes(self) -> bytes:
        """Return the head's one spelling."""
        if self.schema_version != "1":
            return records.canonical_json(self.model_dump(mode="json"))
        raw, fields = self.model_dump(mode="json", exclude={*self.listed()}), type(self).model_fields
        for name, lines in self.listed().items():
            if (left_out := fields[name].exclude_if) is None or not left_out(lines):
                raw[name] = [line.model_dump(mode="json") for line in lines.given or ()]
        return records.canonical_json(raw)

    @property
    def digest(self) -> str:
        """sha256 of the head's bytes."""
        return records.sha256(self.to_bytes())


class Sharded(Manifest):
    """A manifest of one shard, `"k/n"`."""

    shard: str


class VideoDataset(Manifest):
    """Checked videos and their samples, or a benchmark's items."""

    KIND = "VideoDataset"
    lines: Lines[VideoLine]


class Trajectories(Sharded):
    """Inverted videos."""

    KIND = "Trajectories"
    lines: Lines[TrajectoryLine]


class AttentionMaps(Sharded):
    """Captured attention, one line per sample."""

    KIND = "AttentionMaps"
    lines: Lines[AttentionLine]
    statistics: Ref | None = Field(None, exclude_if=_none, description="the lines' files of this name in one")


class HeadSelection(Manifest):
    """Motion-sensitive heads of every sample (MHS)."""

    KIND = "HeadSelection"
    lines: Lines[HeadLine]
    heads: list[HeadRow]
    saturation: dict[str, float] = Field(description="share of the chosen heads whose TCS or DSR is at its maximum")


class MotionPrior(Sharded):
    """Motion priors of one shard (MTTI)."""

    KIND = "MotionPrior"
    lines: Lines[PriorLine]
    heads: list[HeadRow]
    saturation: dict[str, float]


class PriorSet(Manifest):
    """The product: one data set of motion priors that knows nothing of any VLM."""

    KIND = "PriorSet"
    lines: Lines[PriorLine]
    heads: list[HeadRow]
    saturation: dict[str, float]
    first_by_hash: list[str] = Field(
        [],
        exclude_if=_empty,
        description=f"the {SMALLEST} sample ids with the smallest sha256, in that order",
    )
    merged: list[str] = Field(
        [],
        exclude_if=_empty,
        description="the sets that it was merged from, by digest",
    )

    def smallest(self, count: int) -> list[str]:
        """Return the `count` sample ids with the smallest sha256, in that order: those that are pictured."""
        if self.first_by_hash and count <= SMALLEST:
            return self.first_by_hash[:count]
        return smallest_by_hash((line.sample.id for line in self.lines), count)  # also in schema version 1


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
    lines: Lines[VlmLine]


class TunedModel(Manifest):
    """A fine-tuned VLM: the files of a folder that plain `from_pretrained` opens, the aligner and the training log."""

    KIND = "TunedModel"
    key: str
    files: list[Ref]
    aligner: list[Ref]
    adapter: list[Ref] = Field([], description="low-rank updates as peft writes them; they are merged into `files`")
    log: Ref
    samples: int = Field(0, exclude_if=_empty, description="that it was trained on")
    videos: int = Field(0, exclude_if=_empty, description="that these are of")
    maps: list[records.Digest] = Field([], exclude_if=_empty, description="VlmMaps that these are in, by digest")
    leakage: LeakageCounts | None = Field(
        None,
        exclude_if=_none,
        description="what the leakage check found; None where the model was trained without one",
    )
    lines: Lines[VlmLine] = _lines(VlmLine, "the samples, in manifests of schema version 1")


class EvalResult(Manifest):
    """A benchmark answered by one model."""

    KIND = "EvalResult"
    protocol: str
    model: str
    scores: list[Score]
    lines: Lines[ItemResult]
    held_out: Lines[ItemResult] = _lines(ItemResult, "items without an answer, which no score counts")
    permuted: Lines[PermutedReply] = _lines(PermutedReply, "the items of `lines` again, their options in other orders")


class Report(Manifest):
    """The report page."""

    KIND = "Report"
    page: Ref


PRODUCTS = (PriorSet.KIND, TunedModel.KIND, Report.KIND)  # what people name by its digest

M = TypeVar("M", bound=Manifest)


def parse_manifest(data: bytes, expected: type[M], source: str) -> M:
    """Read a manifest's head and check its kind and schema version; `bind` says where its lines are read from.

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
    if version not in ("1", "2"):
        problem = f"schema version {version!r} of {kind}, this code reads '1' and '2'"
        raise DataError(problem, source=source, remedy=again)
    try:
        return expected.model_validate(raw)
    except ValidationError as error:
        raise DataError(f"{kind} manifest does not validate:\n{error}", source=source, remedy=again) from error


def load_manifest(folder: Path, expected: type[M], read: Read | None = None) -> M:
    """Read the head in an artifact's folder; `read` reads its parts. Errors as `parse_manifest`."""
    path = folder / "manifest.json"
    if not path.is_file():
        problem = f"no manifest.json for a {expected.KIND}"
        raise DataError(problem, source=str(folder), remedy="rerun the step that makes it")
    found = parse_manifest(path.read_bytes(), expected, str(path))
    return found if read is None else found.bind(read)
