"""What lies at a source: its listing and digest, its layout, and its rows grouped by video file.

`list_source` and `source_digest` are what `plan` compares to notice a changed folder; `read_source` reads annotations
only, never a video. Layouts themselves are in `layouts.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

from components.benchmarks.rows import Rejected, Row, Rows
from components.core.errors import DataError, ParameterError
from components.core.records import Json, canonical_json, sha256
from components.core.text import clean
from components.dataset_import.layouts import CAPTIONS, FAVOR, LAYOUTS, MOTIONBENCH, is_llava, load_json, root_files
from components.runtime.declaration import Step
from components.runtime.parameters import StepParams
from components.store.address import open_backend
from components.store.backend import Backend, Listed

Layout = Literal["auto", "motionbench", "motionbench_caption", "jsonl", "llava", "favor"]

# What a benchmark's questions may be written in. SEED-Bench ships pre-sampled frames and Video-MME a parquet table:
# both come as JSONL.
PROTOCOL_LAYOUTS: dict[str, tuple[str, ...]] = {
    "motionbench": ("motionbench", "jsonl"),
    "favor": ("favor", "jsonl"),
    "seed": ("jsonl",),
    "videomme": ("jsonl",),
}


@dataclass(frozen=True)
class SourceVideo:
    """A video that rows speak of: its path, its listing (None: the source has no such file), its rows, its ground-truth mask."""

    path: str
    file: Listed | None
    rows: tuple[Row, ...]
    mask: Listed | None

    def reads(self, root: str) -> Json:
        """What the import of this file reads, known without reading it: address, size and stamp of the video and of its mask."""
        assert self.file is not None
        return {"video": _reads(root, self.file), "mask": None if self.mask is None else _reads(root, self.mask)}


@dataclass(frozen=True)
class Source:
    """A source read: where, in which layout, its videos (by path) and the rows that cannot be used."""

    root: str
    layout: str
    protocol: str
    videos: tuple[SourceVideo, ...]
    rejected: tuple[Rejected, ...]

    def unit(self, name: str) -> str:
        """A name for the list of failures; a benchmark's protocol comes first."""
        return f"{self.protocol}: {name}" if self.protocol else name


def list_source(uri: str) -> list[Listed]:
    """Every file of a source, by path.

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
    """64 hex over name, size and stamp of every file, whatever the order of the listing."""
    return sha256(canonical_json(sorted([item.path, item.size, item.stamp] for item in listed)))


def file_key(step: Step[Any], reads: Json) -> str:
    """Key of a file's import, from `SourceVideo.reads`: the step's own parameters do not change what a file holds."""
    return step.key(StepParams(), {}, {}, reads)


def parse_benchmark(item: str) -> tuple[str, str]:
    """Protocol and address of `"<protocol>=<folder or minio:// prefix>"`.

    Raises:
        ParameterError: no such form, or an unknown protocol.
    """
    protocol, separator, uri = item.partition("=")
    if not separator or not uri:
        raise ParameterError(
            f"{item!r} is not <protocol>=<address>", source="benchmarks", remedy="e.g. motionbench=./data"
        )
    if protocol not in PROTOCOL_LAYOUTS:
        raise ParameterError(
            f"unknown protocol {protocol!r}",
            source=f"benchmarks: {item}",
            remedy=f"one of {', '.join(PROTOCOL_LAYOUTS)}",
        )
    return protocol, uri


def read_source(
    backend: Backend, listed: Sequence[Listed], layout: Layout, instructions: Sequence[str], protocol: str = ""
) -> Source:
    """All rows of a source, grouped by video file.

    Args:
        backend: the source.
        listed: its listing.
        layout: how its annotations are written; `auto` tells it from the files that are there.
        instructions: declared template instructions.
        protocol: reads benchmark items of this protocol; empty: training samples.

    Raises:
        ParameterError: the layout cannot be told, or an instruction that no model should read.
        DataError: an annotation file is missing or cannot be read at all (single bad rows are in `rejected`).
    """
    rows = Rows({item.path: item for item in listed}, _cleaned(instructions), protocol)
    chosen = layout if layout != "auto" else _detect(rows, backend)
    LAYOUTS[chosen](rows, backend)
    videos = tuple(
        SourceVideo(path, rows.files.get(path), tuple(rows.by_video[path]), _mask(rows, path))
        for path in sorted(rows.by_video)
    )
    if not videos and not rows.rejected:
        raise DataError("the annotations hold no rows", source=backend.uri, remedy="complete the source")
    return Source(backend.uri, chosen, protocol, videos, tuple(rows.rejected))


def _detect(rows: Rows, backend: Backend) -> str:
    """The one layout whose files are there. Training reads MotionBench's captions where its items are there too."""
    there: list[str] = [name for name in get_args(Layout) if name != "auto" and _has(name, rows, backend)]
    if rows.protocol:
        there = [name for name in there if name in PROTOCOL_LAYOUTS[rows.protocol]]
    elif "motionbench_caption" in there:
        there = [name for name in there if name != "motionbench"]
    wanted = ", ".join(PROTOCOL_LAYOUTS[rows.protocol] if rows.protocol else LAYOUTS)
    if not there:
        raise ParameterError(
            "no annotations in a known layout", source=backend.uri, remedy=f"give a source in one of: {wanted}"
        )
    if len(there) > 1:
        raise ParameterError(
            f"ambiguous layout: {' or '.join(there)}", source=backend.uri, remedy=_apart(rows.protocol)
        )
    return there[0]


def _apart(protocol: str) -> str:
    return (
        "keep them in folders of their own"
        if protocol
        else "set params_dataset_import.layout, or keep them in folders of their own"
    )


def _has(layout: str, rows: Rows, backend: Backend) -> bool:
    file = {"motionbench": MOTIONBENCH, "motionbench_caption": CAPTIONS, "favor": FAVOR}.get(layout)
    if file is not None:
        return file in rows.files
    if layout == "jsonl":
        return bool(root_files(rows, ".jsonl"))
    return not rows.protocol and any(is_llava(load_json(backend, path)) for path in root_files(rows, ".json"))


def _cleaned(instructions: Sequence[str]) -> list[str]:
    try:
        return [clean(text, "params_dataset_import.template_instructions") for text in instructions]
    except DataError as error:
        raise ParameterError(error.problem, source=error.source, remedy=error.remedy) from error


def _mask(rows: Rows, path: str) -> Listed | None:
    """The synthetic set's ground truth for a video, by the video's stem."""
    return rows.files.get(f"gt/{PurePosixPath(path).stem}.safetensors")


def _reads(root: str, file: Listed) -> Json:
    return {"address": f"{root}/{file.path}", "size": file.size, "stamp": file.stamp}
