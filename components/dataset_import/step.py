"""Step 0 · dataset_import: videos and questions in, checked samples out. A unit is one source file.

Every video is copied to the store under its sha256 and decoded once. What is remembered of a file follows from its
address, size and stamp alone, so that other text, another layout or another benchmark list decodes nothing again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from pydantic import Field

from components.benchmarks.interface import parse_benchmarks
from components.core.artifacts import VideoDataset, VideoLine
from components.core.errors import DataError
from components.core.progress import track
from components.core.records import Failure, Ref, Video, sha256
from components.dataset_import.checks import Lost, distinct, lost_in, refuse_other_counts, too_many
from components.dataset_import.clips import NO_MOTION, clip
from components.dataset_import.decode import Decoded, Job, decode_all
from components.dataset_import.page import page
from components.dataset_import.recipe import read_training
from components.dataset_import.sources import LayoutName, Source, SourceVideo, file_key, index_key, read_source
from components.models.video import fewest_frames
from components.runtime.context import Context
from components.runtime.declaration import Form, Step
from components.runtime.parameters import (
    BenchmarkDigest,
    Benchmarks,
    SharedParams,
    SourceDigest,
    SourceUri,
    UnitParams,
    operational,
)
from components.runtime.remembered import Entries
from components.store.address import open_backend
from components.store.entries import Entry, File

MOTIONBENCH_INSTRUCTION = "Describe the motion in this video in detail."


class Params(UnitParams):
    """Parameters of the import."""

    layout: LayoutName = Field(
        "auto",
        description="how training sources are written that say no layout of their own; benchmarks go by their protocol",
    )
    template_instructions: list[str] = Field(
        [MOTIONBENCH_INSTRUCTION],
        min_length=1,
        description="questions that say nothing of the video; the first one is asked where a training row has none",
    )
    max_corrupt: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of a clip's frames that the decoder may report as damaged, or that build on such ones; "
        "above it the clip is refused, below it the manifest says how many they are",
    )
    max_failed_items: float = operational(
        0.0,
        ge=0,
        le=1,
        description="share of a benchmark's items that may be left out, each benchmark by itself; of a training source "
        "it is `max_failed`, a share of its files",
    )
    allow_subset: bool = operational(
        False, description="take a benchmark whose items are not those that were published, by number and type"
    )
    processes: int = operational(8, ge=1, le=256, description="videos that are decoded side by side")


class Training(SharedParams):
    """The training sources."""

    source: SourceUri
    source_digest: SourceDigest


class Evaluation(SharedParams):
    """Every benchmark of the list."""

    benchmarks: Benchmarks
    benchmark_digest: BenchmarkDigest


@dataclass(frozen=True)
class Unit:
    """A video of one of the sources, and the key of its import."""

    source: Source
    video: SourceVideo
    key: str

    @property
    def name(self) -> str:
        """What failures call it."""
        return self.source.unit(self.video.path)


class Usable(NamedTuple):
    """A file that was imported, the clip that its rows are about, and its mask where it has one."""

    unit: Unit
    clip: Video
    mask: Ref | None


def run(context: Context[Params, Training | Evaluation]) -> None:
    """Read the annotations, import every file that is not remembered, and join both."""
    sources = _sources(context)
    units, lost = _units(sources)
    lines = _lines(_imported(context, sources, units, lost), lost)
    _judge(context, sources, lost)
    context.note_left_out(_not_taken(context, sources))
    if not lines:
        roots = ", ".join(source.root for source in sources)
        raise DataError("no usable video", source=roots, remedy="fix the videos and rows listed")
    context.publish("videos", context.manifest(VideoDataset, lines=lines))
    context.page("summary", page(sources, lines, list(context.left_out)))
    megabytes = round(sum(line.video.file.bytes for line in lines) / 1e6, 3)
    context.metrics(videos=len(lines), samples=sum(len(line.samples) for line in lines), megabytes=megabytes)


def _sources(context: Context[Params, Training | Evaluation]) -> list[Source]:
    """Read the training sources, or every benchmark of the list, which must have the published items."""
    params, shared, patience = context.params, context.shared, context.store.patience
    if isinstance(shared, Training):
        return read_training(shared.source, params.layout, params.template_instructions, patience)
    parsed = parse_benchmarks(shared.benchmarks)
    sources = [read_source(uri, "auto", params.template_instructions, protocol, patience) for protocol, uri in parsed]
    if not params.allow_subset:
        refuse_other_counts(sources)
    return sources


def _units(sources: Sequence[Source]) -> tuple[list[Unit], list[Lost]]:
    """Return the files to import, and the rows and missing files that cannot be."""
    there = [(source, video) for source in sources for video in source.videos if video.file is not None]
    units = [Unit(source, video, file_key(STEP, video.reads(source.root))) for source, video in there]
    return units, [item for source in sources for item in lost_in(source)]


def _judge(context: Context[Params, Training | Evaluation], sources: Sequence[Source], lost: Sequence[Lost]) -> None:
    """Record what is left out, and stop where it is more than the source's own tolerance allows."""
    failures = [Failure(unit=item.unit, task=context.task, reason=item.reason) for item in lost]
    if isinstance(context.shared, Training):
        files = sum(len(source.videos) for source in sources)
        context.fail(failures, files + sum(item.kind != "video" for item in lost))
        return
    context.leave_out(failures)
    if found := too_many(sources, lost, context.params.max_failed_items):
        named = [failure for failure, item in zip(failures, lost, strict=True) if item.protocol in found]
        raise context.failed(f"{', '.join(found.values())} cannot be asked", named, "max_failed_items")


def _not_taken(context: Context[Params], sources: Sequence[Source]) -> list[Failure]:
    """Return one line per kind of rows that are neither samples nor failures."""
    return [
        Failure(unit=source.unit(kind), task=context.task, reason=reason)
        for source in sources
        for kind, reason in source.not_taken().items()
    ]


def _imported(
    context: Context[Params], sources: Sequence[Source], units: Sequence[Unit], lost: list[Lost]
) -> list[Usable]:
    """Return the usable files; a file that two benchmarks share is imported once."""
    by_key: dict[str, list[Unit]] = {}
    for unit in units:
        by_key.setdefault(unit.key, []).append(unit)
    memory = context.memory(index=index_key(STEP, sources))
    memory.look_up(by_key)
    todo = [same[0] for key, same in by_key.items() if key not in memory.entries]
    rewrite = context.rerun != "0"  # something is damaged: its size may be right
    store = (context.store.uri, rewrite, context.store.patience)
    jobs = [_job(unit, *store) for unit in todo]
    for job, answer in track(decode_all(jobs, context.params.processes), STEP.title, len(jobs)):
        if isinstance(answer, Decoded):
            memory.add(_finish(context, by_key[job.key][0], answer))
        elif isinstance(answer, DataError):
            lost.extend(_bad(unit, answer.problem) for unit in by_key[job.key])
        else:
            raise answer
    memory.keep()
    entries, usable, fewest = Entries(memory.entries), list[Usable](), fewest_frames()
    for unit in units:
        if (entry := entries.get(unit.key)) is not None:
            try:
                video = clip(entry, unit.video.part, context.task, unit.video.path)
            except DataError as error:
                lost.append(_bad(unit, error.problem))
                continue
            # a benchmark's items go to the VLM alone
            if reason := _unusable(video, entry, context.params.max_corrupt, 0 if unit.source.protocol else fewest):
                lost.append(_bad(unit, reason))
            else:
                mask = entry.ref("mask", context.task) if "mask" in entry.files else None
                usable.append(Usable(unit, video, mask))
    keys, tried = {one.unit.key for one in usable}, {unit.key for unit in todo}
    context.counts |= {"remembered": len(keys - tried), "computed": len(keys & tried)}
    return usable


def _job(unit: Unit, store: str, rewrite: bool, patience: float) -> Job:
    assert unit.video.file is not None
    return Job(unit.key, unit.source.root, unit.video.file.path, store, rewrite, patience, unit.video.files)


def _bad(unit: Unit, reason: str) -> Lost:
    return Lost("video", unit.source.protocol, unit.name, reason, len(unit.video.rows))


def _unusable(video: Video, entry: Entry, max_corrupt: float, fewest: int) -> str:
    """Return why a clip is left out that decodes; nothing where it is taken.

    `fewest` are the frames that a video model needs, 0 where none reads the clip.
    """
    count, corrupt = len(entry.numbers["times"]), entry.numbers["corrupt"]
    if fewest and video.kind == "image":
        return NO_MOTION
    if len(video.times) < fewest:
        return f"{len(video.times)} frames, the video model needs at least {fewest}"
    if corrupt > max_corrupt * count:
        return f"the decoder reports damage in {corrupt} of {count} frames, max_corrupt is {max_corrupt:g}"
    return ""


def _finish(context: Context[Params], unit: Unit, decoded: Decoded) -> Entry:
    reads, folder = unit.video.reads(unit.source.root), context.work(unit.key)
    folder.adopt("video", decoded.file)
    if unit.video.mask is not None:
        folder.adopt("mask", _put_mask(context, unit.source.root, unit.video.mask.path, decoded.file.sha256))
    return folder.finish(reads["video"]["address"], reads, asdict(decoded.info))


def _put_mask(context: Context[Params], root: str, path: str, video_sha256: str) -> File:
    """Copy a mask under a key of its content: its place in the manifest must not depend on where the source lay."""
    data = open_backend(root, context.store.patience).get(path)
    if data is None:
        raise DataError("the mask is gone since the source was listed", source=f"{root}/{path}", remedy="run again")
    reads = {"video": video_sha256, "mask": sha256(data)}
    folder = context.work(file_key(STEP, reads))
    folder.put("mask", "safetensors", data)
    return folder.finish(f"mask of {video_sha256}", reads, {}).files["mask"]


def _lines(usable: Sequence[Usable], lost: list[Lost]) -> list[VideoLine]:
    """Return one line per video: files of one content are one, with the samples of all; rows that repeat are lost."""
    groups: dict[str, list[Usable]] = {}
    for one in sorted(usable, key=lambda one: one.unit.name):
        groups.setdefault(one.clip.id, []).append(one)
    lines = []
    for digest, group in sorted(groups.items()):
        rows = [(one.unit.source, row) for one in group for row in one.unit.video.rows]
        masks = {one.mask.sha256: (one.unit.name, one.mask) for one in group if one.mask is not None}
        if len(masks) > 1:
            names, remedy = " and ".join(name for name, _ in masks.values()), "keep the mask that belongs to it"
            raise DataError("one video with two different masks", source=names, remedy=remedy)
        mask = next((mask for _, mask in masks.values()), None)
        samples, repeated = distinct(digest, rows)
        lost.extend(repeated)
        lines.append(VideoLine(video=group[0].clip, mask=mask, samples=samples))
    return lines


STEP = Step(
    name="dataset_import",
    version="2",
    title="0 · Import",
    unit="file",
    device="cpu",
    params=Params,
    run=run,
    outputs={"videos": VideoDataset},
    pages={"metrics": "Metrics", "summary": "Markdown"},
    forms={"training": Form(Training), "benchmark": Form(Evaluation)},
)
