"""Step 0 · dataset_import: videos and questions in, checked samples out. A unit is one source file.

Every video is copied to the store under its sha256 and decoded once. What is remembered of a file follows from its
address, size and stamp alone, so that other text, another layout or another benchmark list decodes nothing again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pydantic import Field

from components.benchmarks.interface import parse_benchmark
from components.benchmarks.rows import Row
from components.core.artifacts import VideoDataset, VideoLine
from components.core.errors import DataError, ParameterError
from components.core.progress import track
from components.core.records import Failure, Sample, Video, sha256
from components.dataset_import.decode import Decoded, Job, decode_all
from components.dataset_import.page import page
from components.dataset_import.recipe import read_training
from components.dataset_import.sources import LayoutName, Source, SourceVideo, file_key, read_source
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


def run(context: Context[Params, Training | Evaluation]) -> None:
    """Read the annotations, import every file that is not remembered, and join both."""
    sources = _sources(context)
    units, failures = _units(context, sources)
    lines = _lines(context, _imported(context, units, failures))
    context.fail(failures, sum(len(source.videos) + len(source.rejected) for source in sources))
    context.left_out.extend(_not_taken(context, sources))
    if not lines:
        roots = ", ".join(source.root for source in sources)
        raise DataError("no usable video", source=roots, remedy="fix the videos and rows listed")
    context.publish("videos", context.manifest(VideoDataset, lines=lines))
    context.page("summary", page(sources, lines, context.left_out))
    megabytes = round(sum(line.video.file.bytes for line in lines) / 1e6, 3)
    context.metrics(videos=len(lines), samples=sum(len(line.samples) for line in lines), megabytes=megabytes)


def _sources(context: Context[Params, Training | Evaluation]) -> list[Source]:
    """Read the training sources, or every benchmark of the list."""
    params, shared, patience = context.params, context.shared, context.store.patience
    if isinstance(shared, Training):
        return read_training(shared.source, params.layout, params.template_instructions, patience)
    parsed = [parse_benchmark(item) for item in shared.benchmarks]
    protocols = [protocol for protocol, _ in parsed]
    if repeated := {protocol for protocol in protocols if protocols.count(protocol) > 1}:
        problem = f"protocol named twice: {sorted(repeated)}"
        raise ParameterError(problem, source="benchmarks", remedy="give one source per protocol")
    return [read_source(uri, "auto", params.template_instructions, protocol, patience) for protocol, uri in parsed]


def _units(context: Context[Params], sources: Sequence[Source]) -> tuple[list[Unit], list[Failure]]:
    """Return the files to import, and the rows and missing files that cannot be."""
    failures = [_failure(context, source.unit(row.unit), row.reason) for source in sources for row in source.rejected]
    units = []
    for source in sources:
        for video in source.videos:
            if video.file is None:
                first, more = video.rows[0], f" and {len(video.rows) - 1} more" if len(video.rows) > 1 else ""
                reason = f"not in the source, named by {first.uid} ({first.where}){more}"
                failures.append(_failure(context, source.unit(video.path), reason))
            else:
                units.append(Unit(source, video, file_key(STEP, video.reads(source.root))))
    return units, failures


def _imported(context: Context[Params], units: Sequence[Unit], failures: list[Failure]) -> list[tuple[Unit, Entry]]:
    """Return the usable files with their entries; a file that two benchmarks share is imported once."""
    by_key = {unit.key: unit for unit in units}
    entries = {key: entry for key in by_key if (entry := context.remembered(key)) is not None}
    todo = [unit for key, unit in by_key.items() if key not in entries]
    rewrite = context.rerun != "0"  # something is damaged: its size may be right
    store = (context.store.uri, rewrite, context.store.patience)
    jobs = [Job(unit.key, unit.source.root, unit.video.path, *store) for unit in todo]
    for job, answer in track(decode_all(jobs, context.params.processes), STEP.title, len(jobs)):
        if isinstance(answer, Decoded):
            entries[job.key] = _finish(context, by_key[job.key], answer)
        elif isinstance(answer, DataError):
            failures.extend(_failure(context, unit.name, answer.problem) for unit in units if unit.key == job.key)
        else:
            raise answer
    usable = []
    for unit in units:
        if (entry := entries.get(unit.key)) is not None:
            if reason := _unusable(unit, entry, context.params.max_corrupt):
                failures.append(_failure(context, unit.name, reason))
            else:
                usable.append((unit, entry))
    keys, tried = {unit.key for unit, _ in usable}, {unit.key for unit in todo}
    context.counts |= {"remembered": len(keys - tried), "computed": len(keys & tried)}
    return usable


def _unusable(unit: Unit, entry: Entry, max_corrupt: float) -> str:
    """Return why a file that decodes is left out all the same; nothing where it is taken."""
    count, corrupt = len(entry.numbers["times"]), entry.numbers["corrupt"]
    needed = 1 if unit.source.protocol else fewest_frames()  # a benchmark's items go to the VLM alone
    if count < needed:
        return f"{count} frames, the video model needs at least {needed}"
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


def _lines(context: Context[Params], usable: Sequence[tuple[Unit, Entry]]) -> list[VideoLine]:
    """Return one line per video: files of one content are one video, with the samples of all."""
    groups: dict[str, list[tuple[Unit, Entry]]] = {}
    for unit, entry in sorted(usable, key=lambda pair: pair[0].name):
        groups.setdefault(entry.files["video"].sha256, []).append((unit, entry))
    lines = []
    for digest, group in sorted(groups.items()):
        entry, rows = group[0][1], [row for unit, _ in group for row in unit.video.rows]
        masks = {entry.files["mask"].sha256: (unit, entry) for unit, entry in group if "mask" in entry.files}
        if len(masks) > 1:
            names, remedy = " and ".join(unit.name for unit, _ in masks.values()), "keep the mask that belongs to it"
            raise DataError("one video with two different masks", source=names, remedy=remedy)
        mask = next((entry.ref("mask", context.task) for _, entry in masks.values()), None)
        video = Video(file=entry.ref("video", context.task), name=group[0][0].name, **entry.numbers)
        lines.append(VideoLine(video=video, mask=mask, samples=_samples(digest, rows)))
    return lines


def _samples(digest: str, rows: Sequence[Row]) -> list[Sample]:
    """Return a video's samples by id; two rows with the same text about it are refused."""
    seen: dict[str, tuple[Row, Sample]] = {}
    for row in rows:
        sample = row.sample(digest)
        first, _ = seen.setdefault(sample.id, (row, sample))
        if first is not row:
            names = f"{first.uid!r} ({first.where}) and {row.uid!r} ({row.where})"
            problem = f"two rows are one sample {sample.id}: {names}"
            raise DataError(problem, source=f"video {digest}", remedy="remove one of them")
    return [seen[key][1] for key in sorted(seen)]


def _not_taken(context: Context[Params], sources: Sequence[Source]) -> list[Failure]:
    """Return one line per kind of rows that are neither samples nor failures."""
    return [
        _failure(context, source.unit(kind), reason)
        for source in sources
        for kind, reason in source.not_taken().items()
    ]


def _failure(context: Context[Params], unit: str, reason: str) -> Failure:
    return Failure(unit=unit, task=context.task, reason=reason)


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
