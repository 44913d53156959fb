"""Records that manifests and their lines are built of, and the one spelling of JSON.

Nothing here depends on when or where it was made: no dates, hosts, run ids or timings, so equal inputs give equal
bytes.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Json = dict[str, Any]
TextField = Literal["question", "response"]
MediaKind = Literal["video", "image"]


class Record(BaseModel):
    """Base of everything written as JSON: frozen, unknown keys refused, NaN and infinity refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def canonical_json(value: Any) -> bytes:
    """JSON with one spelling: sorted keys, no spaces, UTF-8. The bytes that are hashed and stored."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256(data: bytes) -> str:
    """Hex sha256 of `data`."""
    return hashlib.sha256(data).hexdigest()


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


class Clip(Record):
    """One video file and what decoding it once found, but the times of its frames."""

    file: Ref
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
        """The video's sha256, its name everywhere."""
        return self.file.sha256


class Video(Clip):
    """A clip with the times of its frames."""

    times: list[float] = Field(description="presentation time of every frame, seconds from the first")

    @property
    def called(self) -> str:
        """What people call the video: its path in the source, where that is known."""
        return self.name or self.id


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


class Confidence(Record):
    """Confidence of a prior (supplement §4.1): √(concentration · dynamics), each in [0, 1]."""

    concentration: float
    dynamics: float
    value: float


class HeadRow(Record):
    """One head over the data set: means of its three measures, their z-scores and sum, how often it was chosen."""

    head: int
    dfc: float
    dfc_stderr: float
    tcs: float
    dsr: float
    z: tuple[float, float, float]
    score: float
    chosen: int
    samples: int
