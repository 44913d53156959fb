"""What lies at a source: its listing and digest, its layout, and its rows grouped by video file.

`list_source` and `source_digest` are what `plan` compares to notice a changed folder; `read_source` reads annotations
only, never a video. Layouts: MotionBench's captions, one's own JSONL (benchmarks too) and LLaVA conversations are here,
those of published benchmarks in the benchmarks' own modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from components.benchmarks.interface import benchmarks, get_benchmark
from components.benchmarks.rows import Layout, Rejected, Row, Rows, bad_row, has, lettered, list_of, name_of, text_of
from components.core.errors import DataError, ParameterError
from components.core.records import Json, Turn, canonical_json, sha256
from components.core.text import clean
from components.runtime.declaration import Step
from components.runtime.parameters import StepParams
from components.store.address import open_backend
from components.store.backend import PATIENCE, Listed

_CAPTIONS = "MotionBenchCaption-train/train.jsonl"
_FOLDERS = ("", "videos")  # of JSONL and conversations
_TEXTS = ("question", "response", "answer")
_PLACEHOLDER = "<video>"
_HUMAN, _MODEL = {"human", "user"}, {"gpt", "assistant"}


def _read_captions(rows: Rows) -> None:
    """Read one caption per video; the template instruction is its question."""
    for where, line in rows.lines(_CAPTIONS):
        with rows.attempt(where):
            path = text_of(line, "video_path", where)
            uid = path.removesuffix(".mp4")
            with rows.attempt(where, uid):
                caption = text_of(line, "motion_caption", where)
                rows.add(uid, where, path, ("MotionBenchCaption-train/videos",), response=caption)


def _read_jsonl(rows: Rows) -> None:
    """Read any `*.jsonl` at the root: `video`, `response`, optional `question`, `options`, `answer`, `type`, `id`.

    `answer` is a letter. A video's path counts from the root, or from `videos/`.
    """
    for file in rows.root_files(".jsonl"):
        for where, line in rows.lines(file):
            uid = name_of(line, where)
            with rows.attempt(where, uid):
                path = text_of(line, "video", where)
                texts: dict[str, Any] = {field: text_of(line, field, where, "") for field in _TEXTS}
                options, kind = lettered(list_of(line, "options", where, []), where), text_of(line, "type", where, "")
                rows.add(uid, where, path, _FOLDERS, options=options, question_type=kind, **texts)


def _llava_files(rows: Rows) -> list[str]:
    documents = {path: rows.document(path) for path in rows.root_files(".json")}
    lists = {path: items for path, items in documents.items() if isinstance(items, list) and items}
    return [path for path, items in lists.items() if isinstance(items[0], dict) and "conversations" in items[0]]


def _read_llava(rows: Rows) -> None:
    """Read `*.json` at the root, lists of `{video, conversations}`: turn k is a sample with earlier turns 1 … k−1.

    A video's path counts from the root, or from `videos/`.
    """
    for file in _llava_files(rows):
        for where, item in rows.items(file):
            with rows.attempt(where):
                _conversation(rows, item, where)


def _conversation(rows: Rows, item: Any, where: str) -> None:
    uid, path = name_of(item, where), text_of(item, "video", where)
    pairs = _pairs(list_of(item, "conversations", where), where)
    earlier: list[Turn] = []
    for index, (question, response) in enumerate(pairs):
        name = uid if len(pairs) == 1 else f"{uid}#{index + 1}"
        with rows.attempt(where, name):
            if len(earlier) < index:
                raise bad_row("an earlier turn of the conversation is refused", where)
            row = rows.add(name, where, path, _FOLDERS, question=question, response=response, earlier=earlier)
            earlier = [*earlier, Turn(question=row.question, response=row.response)]


def _pairs(turns: list[Any], where: str) -> list[tuple[str, str]]:
    """Return questions and responses in order, the video's placeholder taken out of the first question."""
    if not turns or len(turns) % 2:
        raise bad_row(f"{len(turns)} turns, wanted pairs of question and response", where)
    said = []
    for index, turn in enumerate(turns):
        speaker, due = text_of(turn, "from", where), _MODEL if index % 2 else _HUMAN
        if speaker not in due:
            raise bad_row(f"a turn from {speaker!r} where one from {sorted(due)} was due", where)
        said.append(text_of(turn, "value", where))
    said[0] = said[0].replace(_PLACEHOLDER, "", 1)
    return list(zip(said[::2], said[1::2], strict=True))


CAPTIONS = Layout("motionbench_caption", has(_CAPTIONS), _read_captions)
JSONL = Layout("jsonl", lambda rows: bool(rows.root_files(".jsonl")), _read_jsonl)
LLAVA = Layout("llava", lambda rows: bool(_llava_files(rows)), _read_llava)


def layouts(protocol: str = "") -> list[Layout]:
    """Return the layouts of training sources, or those of a benchmark: JSONL, and its own if it has one."""
    own = [one.layout for one in ([get_benchmark(protocol)] if protocol else benchmarks().values()) if one.layout]
    return [JSONL, *own] if protocol else [CAPTIONS, JSONL, LLAVA, *own]


if TYPE_CHECKING:
    LayoutName = str
else:
    LayoutName = Literal[("auto", *(layout.name for layout in layouts()))]


@dataclass(frozen=True)
class SourceVideo:
    """A video that rows name: path, listing (None: the source has no such file), rows, ground-truth mask."""

    path: str
    file: Listed | None
    rows: tuple[Row, ...]
    mask: Listed | None

    def reads(self, root: str) -> Json:
        """Return what this file's import reads, known from the listing: address, size and stamp of video and mask."""
        return {
            name: file and {"address": f"{root}/{file.path}", "size": file.size, "stamp": file.stamp}
            for name, file in (("video", self.file), ("mask", self.mask))
        }


@dataclass(frozen=True)
class Source:
    """What was read of a source: where, in which layout, its videos (by path), the rows that cannot be used."""

    root: str
    layout: str
    protocol: str
    videos: tuple[SourceVideo, ...]
    rejected: tuple[Rejected, ...]

    def unit(self, name: str) -> str:
        """Return a name for the list of failures; a benchmark's protocol comes first."""
        return f"{self.protocol}: {name}" if self.protocol else name


def list_source(uri: str, patience: float = PATIENCE) -> list[Listed]:
    """List every file of a source, by path; ParameterError if nothing is there. `patience`: as of `open_backend`."""
    listed = list(open_backend(uri, patience).walk())
    if not listed:
        remedy = "give a folder or minio:// prefix that holds a data set"
        raise ParameterError("no files there", source=f"source {uri}", remedy=remedy)
    return listed


def source_digest(listed: Sequence[Listed]) -> str:
    """Return 64 hex over name, size and stamp of every file, whatever the order of the listing."""
    return sha256(canonical_json(sorted([item.path, item.size, item.stamp] for item in listed)))


def file_key(step: Step[Any], reads: Json) -> str:
    """Return the key of a file's import, from `SourceVideo.reads`: no parameter changes what a file holds."""
    return step.key(StepParams(), {}, {}, reads)


def read_source(
    uri: str, layout: LayoutName, instructions: Sequence[str], protocol: str = "", patience: float = PATIENCE
) -> Source:
    """Read all rows of a source, grouped by video file; single bad rows are in `rejected`.

    The layout `auto` is the one whose files are there. Without a benchmark's protocol, training samples are read.
    `patience`: as of `open_backend`.

    Raises:
        ParameterError: no layout or several fit, or an instruction that no model should read.
        DataError: an annotation file is missing or cannot be read at all.
    """
    try:
        cleaned = [clean(text, "params_dataset_import.template_instructions") for text in instructions]
    except DataError as error:
        raise ParameterError(error.problem, source=error.source, remedy=error.remedy) from error
    listed = {item.path: item for item in list_source(uri, patience)}
    rows = Rows(open_backend(uri, patience), listed, cleaned, protocol)
    chosen = _detect(rows) if layout == "auto" else next(one for one in layouts(protocol) if one.name == layout)
    chosen.read(rows)
    root, videos = rows.backend.uri, []
    for path, found in sorted(rows.by_video.items()):
        mask = rows.files.get(f"gt/{PurePosixPath(path).stem}.safetensors")  # the synthetic set's ground truth
        videos.append(SourceVideo(path, rows.files.get(path), tuple(found), mask))
    if not videos and not rows.rejected:
        raise DataError("the annotations hold no rows", source=root, remedy="complete the source")
    return Source(root, chosen.name, protocol, tuple(videos), tuple(rows.rejected))


def _detect(rows: Rows) -> Layout:
    """Return the one layout whose files are there; training reads MotionBench's captions where its items are too."""
    source, known = rows.backend.uri, layouts(rows.protocol)
    there = [layout for layout in known if layout.present(rows)]
    if CAPTIONS in there:
        there = [layout for layout in there if layout.name != "motionbench"]
    if not there:
        remedy = f"give a source in one of: {', '.join(layout.name for layout in known)}"
        raise ParameterError("no annotations in a known layout", source=source, remedy=remedy)
    if len(there) > 1:
        names = " or ".join(layout.name for layout in there)
        first = "" if rows.protocol else "set params_dataset_import.layout, or "
        remedy = f"{first}keep them in folders of their own"
        raise ParameterError(f"ambiguous layout: {names}", source=source, remedy=remedy)
    return there[0]
