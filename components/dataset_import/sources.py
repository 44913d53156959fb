"""What lies at a source: its listing and digest, its layout, and its rows grouped by video file.

`source_digest` is what `plan` compares to notice a changed folder; `read_source` reads annotations only, never a video.
Both come from one listing, `list_source`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from components.benchmarks.interface import benchmarks, get_benchmark
from components.benchmarks.rows import Layout, Media, Rejected, Row, Rows
from components.core.errors import DataError, ParameterError
from components.core.records import Json, canonical_json, sha256
from components.core.text import clean
from components.core.units import counted
from components.dataset_import.layouts import BY_ROWS, CAPTIONS, JSONL, PREFERENCES, check_annotations, depths
from components.media.parts import Seconds
from components.runtime.declaration import Step
from components.runtime.parameters import StepParams
from components.store.address import open_backend
from components.store.backend import PATIENCE, Listed
from components.store.zipped import Packed, packed_files


def layouts(protocol: str = "") -> list[Layout]:
    """Return the layouts of training sources, or those of a benchmark: JSONL, and its own if it has one."""
    own = [one.layout for one in ([get_benchmark(protocol)] if protocol else benchmarks().values()) if one.layout]
    return [JSONL, *own] if protocol else [CAPTIONS, *BY_ROWS, *(layout for layout in own if layout.training)]


if TYPE_CHECKING:
    LayoutName = str
else:
    LayoutName = Literal[("auto", *(layout.name for layout in layouts()))]


_LISTED = 8  # annotation files that a page names


@dataclass(frozen=True)
class SourceVideo:
    """A video that rows name: path, listing (None: the source has no such file), rows, ground-truth mask.

    `part`: the rows are about a part of the file. `frames`: the video is to be made of these pictures; `path` is then a
    name, and `file` stands for them all.
    """

    path: str
    file: Listed | None
    rows: tuple[Row, ...]
    mask: Listed | None
    part: Seconds | None = None
    frames: tuple[Listed, ...] = ()

    @property
    def files(self) -> tuple[Listed, ...]:
        """What its file has to be made of: a member of a zip file, or still frames; nothing if it is one already."""
        return self.frames or ((self.file,) if isinstance(self.file, Packed) else ())

    def reads(self, root: str) -> Json:
        """Return what this file's import reads, known from the listing: address, size and stamp of video and mask."""
        return {
            name: file and {"address": f"{root}/{file.path}", "size": file.size, "stamp": file.stamp}
            for name, file in (("video", self.file), ("mask", self.mask))
        }


@dataclass(frozen=True)
class Source:
    """What was read of a source: where, in which layout, its videos (by path), the rows that cannot be used.

    Attributes:
        rows: how many rows its annotations have.
        aside: training rows without one video, which can have no prior, by kind.
        annotations: the files whose rows were read.
        notes: what else a person should know.
        name: what a recipe calls it.
        weight: how often its samples are seen in an epoch.
        usable: how many samples it had to draw from; None where all are taken.
        undrawn: the rows that cannot be used where samples are drawn from the others: no failures.
        digest: of the listing that the rows were read by, as of `source_digest`.
    """

    root: str
    layout: str
    protocol: str
    videos: tuple[SourceVideo, ...]
    rejected: tuple[Rejected, ...]
    rows: int = 0
    aside: Mapping[str, int] = field(default_factory=dict)
    annotations: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    name: str = ""
    weight: float = 1.0
    usable: int | None = None
    undrawn: tuple[Rejected, ...] = ()
    digest: str = ""

    @property
    def samples(self) -> int:
        """How many samples it gives."""
        return sum(len(video.rows) for video in self.videos)

    @property
    def facts(self) -> list[str]:
        """What a page says of it in words: files whose rows were read, a draw, and what else is to be known."""
        files = ", ".join(self.annotations[:_LISTED]) + (" …" if len(self.annotations) > _LISTED else "")
        found = [f"rows of {files}"] if files else []
        if self.usable is not None:
            found.append(f"{self.samples:,} samples drawn of the {self.usable:,} that can be used")
        return [self.unit(line) for line in (*found, *self.notes)]

    def not_taken(self) -> dict[str, str]:
        """Return the kinds of rows that are neither samples nor failures, and how many there are of each and why."""
        why = "an item is about one image or one video" if self.protocol else "a prior is of one video"
        found = {f"rows with {kind}": f"{counted(count, 'row')}: {why}" for kind, count in self.aside.items()}
        if self.undrawn:
            first = self.undrawn[0]
            found["rows not drawn from"] = f"{counted(len(self.undrawn), 'row')}, first {first.unit}: {first.reason}"
        return dict(sorted(found.items()))

    def unit(self, name: str) -> str:
        """Return a name for the list of failures; a benchmark's protocol or a source's name comes first."""
        prefix = self.protocol or self.name
        return f"{prefix}: {name}" if prefix else name


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


def index_key(step: Step[Any], sources: Iterable[Source]) -> str:
    """Return what the copy of the entries of these sources' files is named by."""
    there = ((source.root, video) for source in sources for video in source.videos)
    return file_key(step, {"sources": sorted({root for root, video in there if video.file is not None})})


def read_source(
    uri: str,
    layout: LayoutName,
    instructions: Sequence[str],
    protocol: str = "",
    patience: float = PATIENCE,
    listing: Sequence[Listed] | None = None,
) -> Source:
    """Read all rows of a source, grouped by video file; single bad rows are in `rejected`.

    The layout `auto` is the one whose files are there. Without a benchmark's protocol, training samples are read.
    `patience`: as of `open_backend`. `listing`: what lies there, where somebody has listed it already.

    Raises:
        ParameterError: no layout or several fit, or an instruction that no model should read.
        DataError: an annotation file is missing or cannot be read at all.
    """
    try:
        cleaned = [clean(text, "params_dataset_import.template_instructions") for text in instructions]
    except DataError as error:
        raise ParameterError(error.problem, source=error.source, remedy=error.remedy) from error
    listing = list_source(uri, patience) if listing is None else listing
    listed, digest = {item.path: item for item in listing}, source_digest(listing)
    backend = open_backend(uri, patience)
    task_type = get_benchmark(protocol).task_type if protocol else None
    packed, refused = packed_files(backend, listed.values(), patience)
    rows = Rows(backend, listed, cleaned, protocol, task_type, packed=packed)
    chosen = _detect(rows) if layout == "auto" else next(one for one in layouts(protocol) if one.name == layout)
    chosen.read(rows)
    root, videos = rows.backend.uri, []
    for path, found in sorted(rows.by_video.items()):
        mask = rows.files.get(f"gt/{PurePosixPath(path).stem}.safetensors")  # the synthetic set's ground truth
        media = rows.media.get(path, Media((path,)))
        videos.append(_video(path, media, [rows.find(one) for one in media.paths], tuple(found), mask))
    _not_read(rows, refused, videos)
    if not videos and not rows.rejected:
        kinds = ", ".join(f"{count} with {kind}" for kind, count in sorted(rows.aside.items()))
        problem = f"no row has one video: {kinds}" if kinds else "the annotations hold no rows"
        raise DataError(problem, source=root, remedy="complete the source")
    count = sum(len(video.rows) for video in videos) + len(rows.rejected) + rows.aside.total()
    known = (count, dict(rows.aside), tuple(rows.annotations), tuple(rows.notes))
    return Source(root, chosen.name, protocol, tuple(videos), tuple(rows.rejected), *known, digest=digest)


def _video(
    name: str, media: Media, files: Sequence[Listed | None], rows: tuple[Row, ...], mask: Listed | None
) -> SourceVideo:
    there = tuple(file for file in files if file is not None)
    if len(there) < len(files):
        return SourceVideo(name, None, rows, mask)
    if media.part is not None or len(media.paths) == 1:
        return SourceVideo(name, there[0], rows, None if media.part else mask, media.part)
    stamp = sha256(canonical_json([[file.path, file.size, file.stamp] for file in there]))
    return SourceVideo(name, Listed(name, sum(file.size for file in there), stamp), rows, mask, frames=there)


def _not_read(rows: Rows, refused: Sequence[DataError], videos: Sequence[SourceVideo]) -> None:
    """Raise DataError where videos are missing that may lie in a zip file that is not read."""
    missing = [video.path for video in videos if video.file is None]
    inner = next((file for path, file in rows.packed.items() if path.lower().endswith(".zip")), None)
    if not missing or not (refused or inner):
        return
    problem = f"{len(missing)} videos are not in the source, as {missing[0]}"
    if refused:
        first, problem = refused[0], f"{problem}, and an archive is not read: {refused[0].problem}"
        raise DataError(problem, source=first.source, remedy=first.remedy)
    assert inner is not None
    source = f"{rows.backend.uri}/{inner.archive.path}"
    remedy = "unpack the archive that holds another"
    raise DataError(f"{problem}; {inner.member}, an archive inside another, is not read", source=source, remedy=remedy)


def _detect(rows: Rows) -> Layout:
    """Return the one layout whose files are there, at the root or, where nothing is there, nearest to it.

    Training reads MotionBench's captions where its items are too, and no preferences where something else is.
    """
    source, known = rows.backend.uri, layouts(rows.protocol)
    there = [layout for layout in known if layout.present(rows)]
    if not there and not rows.protocol:
        nearest = next(depths(rows), {})
        there = [layout for layout in BY_ROWS if layout.name in nearest]
    if CAPTIONS in there:
        there = [layout for layout in there if layout.name != "motionbench"]
    if PREFERENCES in there and len(there) > 1:
        there.remove(PREFERENCES)
        files = ", ".join(next(found for found in depths(rows) if PREFERENCES.name in found)[PREFERENCES.name])
        how = f"give the same address once more in a recipe, with the layout {PREFERENCES.name!r}"
        rows.notes.append(f"{files}: preferences (chosen, rejected), not read here; to learn what is chosen, {how}")
    if not there:
        check_annotations(rows)
        remedy = f"give a source in one of: {', '.join(layout.name for layout in known)}"
        raise ParameterError("no annotations in a known layout", source=source, remedy=remedy)
    if len(there) > 1:
        names = " or ".join(layout.name for layout in there)
        first = "" if rows.protocol else "set params_dataset_import.layout, or "
        remedy = f"{first}keep them in folders of their own"
        raise ParameterError(f"ambiguous layout: {names}", source=source, remedy=remedy)
    return there[0]
