"""Records that manifests and their lines are built of, and the one spelling of JSON.

Nothing here depends on when or where it was made: no dates, hosts, run ids or timings, so equal inputs give equal
bytes.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Json = dict[str, Any]
Head = int | tuple[int, int]
"""A head of the video model, averaged over its layers; or a layer and one of its heads."""
TextField = Literal["question", "response"]
MediaKind = Literal["video", "image"]


class Record(BaseModel):
    """Base of everything written as JSON: frozen, unknown keys refused, NaN and infinity refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def canonical_json(value: Any) -> bytes:
    """JSON with one spelling: sorted keys, no spaces, UTF-8. The bytes that are hashed and stored."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256(data: bytes | memoryview) -> str:
    """Hex sha256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def smallest_by_hash(names: Iterable[str], count: int) -> list[str]:
    """Return the `count` names with the smallest sha256, in that order: one new unit changes at most one of them."""
    return heapq.nsmallest(count, set(names), key=lambda name: sha256(name.encode()))


class Ref(Record):
    """A file in the store: path below the store's root, content hash, size in bytes, and the task that made it."""

    path: str
    sha256: Digest
    bytes: int
    task: str


class Failure(Record):
    """A unit that was left out: what it was, which task left it out, and why."""

    unit: str
    task: str
    reason: str


class ModelId(Record):
    """A model by name and digest (the registry's commit, or the digest of a folder's files)."""

    name: str
    digest: str


class StepRecord(Record):
    """How one step was run: version, result parameters, shared result parameters (`scalars`), models."""

    version: str
    params: Json
    scalars: Json
    models: dict[str, ModelId] = {}


class Option(Record):
    """One choice of a multiple-choice question."""

    letter: Annotated[str, Field(pattern=r"^[A-Z]$")]
    text: str


class Turn(Record):
    """An earlier question and response of the same conversation."""

    question: str
    response: str


class Sample(Record):
    """A video's question and response, or a benchmark item; all text is NFC."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    uid: str = Field(description="the source's own name for it")
    question: str
    is_instruction: bool = Field(description="the question is a declared template instruction, not about the video")
    options: list[Option] = []
    response: str = Field(description="the target response; for a held-out item empty")
    answer: str = Field(description="letter of the right option; empty where there are no options or it is held out")
    earlier: list[Turn] = []
    question_type: str = ""
    protocol: str = Field("", description="the benchmark's protocol; empty for training samples")
    labels: dict[str, str] = Field(
        {},
        exclude_if=lambda labels: not labels,  # so that a manifest from before keeps its bytes and its digest
        description="what its benchmark's submission file repeats of it",
    )
    # left out where they are the default, so that a manifest from before keeps its bytes and its digest
    source: str = Field(
        "", exclude_if=lambda name: not name, description="what a recipe of several sources calls the sample's own"
    )
    weight: float = Field(
        1.0, gt=0, exclude_if=lambda weight: weight == 1, description="how often it is seen in an epoch of a training"
    )

    def called(self, clip: Clip) -> str:
        """Return what failures call it: its id, its own name in the source, and the clip's."""
        return f"{self.id} ({self.uid!r} of {clip.called})"


class Part(Record):
    """The frames of a file that a clip is about, where these are not all."""

    first: int = Field(description="index in the file of the first one")
    count: int = Field(description="how many")
    offset: float = Field(description="seconds from the file's first frame to the first of these")


class Clip(Record):
    """One video file, or a part of one, and what decoding it once found, but the times of its frames."""

    file: Ref
    part: Part | None = Field(None, exclude_if=lambda part: part is None, description="its frames, if not all")
    name: str = Field("", description="path in its source; of several with the same content the first")
    kind: MediaKind = Field("video", description="an `image` is asked about as an image, and has no motion")
    width: int = Field(description="pixels, as shown")
    height: int = Field(description="pixels, as shown")
    rotation: int = Field(description="degrees that the container asks for")
    mirrored: bool = Field(False, description="whether left and right change places after the rotation")
    corrupt: int = Field(0, description="frames that the decoder does not vouch for")
    duration: float = Field(description="seconds")

    @property
    def id(self) -> str:
        """Its name everywhere: the file's sha256, of a part the sha256 of that and of the frames."""
        if self.part is None:
            return self.file.sha256
        return sha256(canonical_json([self.file.sha256, self.part.first, self.part.count]))

    @property
    def called(self) -> str:
        """What people call the video: its path in the source, where that is known."""
        return self.name or self.id


class Video(Clip):
    """A clip with the times of its frames."""

    times: list[float] = Field(description="presentation time of every frame, seconds from the clip's first")

    @property
    def clip(self) -> Clip:
        """The video without the times of its frames."""
        return Clip(**self.model_dump(exclude={"times"}))


class Grid(Record):
    """The cells of an attention map in the source's coordinates, frame-major (f, y, x)."""

    times: list[tuple[float, float]] = Field(description="start and end of each frame's cell, seconds of the clip")
    rows: int
    cols: int
    box: tuple[float, float, float, float] = Field(description="top, bottom, left, right of the cells, share of frame")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(F, H, W)."""
        return len(self.times), self.rows, self.cols


class Piece(Record):
    """A text token of the video model: its string and its characters in one field of the sample."""

    index: int = Field(description="position in the text encoder's sequence")
    token: str
    field: TextField
    start: int
    end: int


class Span(Record):
    """Characters of one field of the sample."""

    field: TextField
    start: int
    end: int


class ScoredPiece(Piece):
    """A piece with its motion score MS(t) = m_t + d_t, that standardized over the sample, and whether MTTI kept it."""

    score: float
    standardized: float
    selected: bool


class PieceCounts(Record):
    """How many pieces a sample's text has, and how many of them MTTI kept."""

    pieces: int
    selected: int


class Confidence(Record):
    """Confidence of a prior (supplement §4.1): √(concentration · dynamics), each in [0, 1]."""

    concentration: float
    dynamics: float
    value: float


def head_name(head: Head) -> str:
    """Return what pages call a head: its number, or layer·head."""
    return str(head) if isinstance(head, int) else f"{head[0]}·{head[1]}"


class HeadRow(Record):
    """One head over the data set: means of its three measures, their z-scores and sum, how often it was chosen."""

    head: int
    layer: int | None = Field(
        None, exclude_if=lambda layer: layer is None, description="None where maps are averaged over the layers"
    )
    dfc: float
    dfc_stderr: float
    tcs: float
    dsr: float
    z: tuple[float, float, float]
    score: float
    chosen: int
    samples: int

    @property
    def id(self) -> Head:
        """What lines call the head."""
        return self.head if self.layer is None else (self.layer, self.head)
