"""What lies at a source: its listing and digest, its layout, and its rows grouped by video file.

`list_source` and `source_digest` are what `plan` compares to notice a changed folder; `read_source` reads annotations
only, never a video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from components.benchmarks.interface import benchmarks, get_benchmark
from components.benchmarks.rows import Layout, Rejected, Row, Rows
from components.core.errors import DataError, ParameterError
from components.core.records import Json, canonical_json, sha256
from components.core.text import clean
from components.dataset_import.layouts import CAPTIONS, JSONL, LLAVA
from components.runtime.declaration import Step
from components.runtime.parameters import StepParams
from components.store.address import open_backend
from components.store.backend import PATIENCE, Listed


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
    task_type = get_benchmark(protocol).task_type if protocol else None
    rows = Rows(open_backend(uri, patience), listed, cleaned, protocol, task_type)
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
