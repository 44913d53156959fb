"""What lies at a source: its listing and digest, its layout, and its rows grouped by video file.

`list_source` and `source_digest` are what `plan` compares to notice a changed folder; `read_source` reads annotations
only, never a video. Layouts themselves are in `layouts.py` and in the benchmarks' modules.
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
from components.store.backend import Backend, Listed


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
        assert self.file is not None
        return {"video": _reads(root, self.file), "mask": None if self.mask is None else _reads(root, self.mask)}


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


def list_source(uri: str) -> list[Listed]:
    """List every file of a source, by path.

    Raises:
        ParameterError: nothing is there, an unknown scheme, no credentials.
        TryAgainError: the endpoint does not answer.
    """
    listed = list(open_backend(uri).walk())
    if not listed:
        raise ParameterError(
            "no files there", source=f"source {uri}", remedy="give a folder or minio:// prefix that holds a data set"
        )
    return listed


def source_digest(listed: Sequence[Listed]) -> str:
    """Return 64 hex over name, size and stamp of every file, whatever the order of the listing."""
    return sha256(canonical_json(sorted([item.path, item.size, item.stamp] for item in listed)))


def file_key(step: Step[Any], reads: Json) -> str:
    """Return the key of a file's import, from `SourceVideo.reads`: no parameter changes what a file holds."""
    return step.key(StepParams(), {}, {}, reads)


def read_source(
    backend: Backend, listed: Sequence[Listed], layout: LayoutName, instructions: Sequence[str], protocol: str = ""
) -> Source:
    """Read all rows of a source, grouped by video file.

    Args:
        backend: the source.
        listed: its listing.
        layout: how its annotations are written; `auto` finds the one whose files are there.
        instructions: declared template instructions.
        protocol: the benchmark whose items are read; empty: training samples.

    Raises:
        ParameterError: no layout or several fit, or an instruction that no model should read.
        DataError: an annotation file is missing or cannot be read at all (single bad rows are in `rejected`).
    """
    rows = Rows(backend, {item.path: item for item in listed}, _cleaned(instructions), protocol)
    known = {one.name: one for one in layouts(protocol)}
    chosen = known[layout] if layout != "auto" else _detect(rows)
    chosen.read(rows)
    videos = tuple(
        SourceVideo(path, rows.files.get(path), tuple(rows.by_video[path]), _mask(rows, path))
        for path in sorted(rows.by_video)
    )
    if not videos and not rows.rejected:
        raise DataError("the annotations hold no rows", source=backend.uri, remedy="complete the source")
    return Source(backend.uri, chosen.name, protocol, videos, tuple(rows.rejected))


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
        remedy = "" if rows.protocol else "set params_dataset_import.layout, or "
        names = " or ".join(layout.name for layout in there)
        raise ParameterError(
            f"ambiguous layout: {names}", source=source, remedy=f"{remedy}keep them in folders of their own"
        )
    return there[0]


def _cleaned(instructions: Sequence[str]) -> list[str]:
    try:
        return [clean(text, "params_dataset_import.template_instructions") for text in instructions]
    except DataError as error:
        raise ParameterError(error.problem, source=error.source, remedy=error.remedy) from error


def _mask(rows: Rows, path: str) -> Listed | None:
    """Return the synthetic set's ground truth for a video, by the video's stem."""
    return rows.files.get(f"gt/{PurePosixPath(path).stem}.safetensors")


def _reads(root: str, file: Listed) -> Json:
    return {"address": f"{root}/{file.path}", "size": file.size, "stamp": file.stamp}
