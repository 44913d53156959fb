"""leakage_check: which training videos a benchmark asks about: same file, footage, id, name or text. A unit is a video.

Each video's fingerprint is a piece of work of its own, remembered for every data set that holds the video. Comparing
them is not: hashes of 25 000 videos and 1 776 take about a minute, and pictures are fetched of candidates alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, islice
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field
from safetensors import numpy as safetensors

from components.core.artifacts import LEAKS, Leak, LeakageReport, LeakKind, PriorSet, VideoDataset
from components.core.errors import DataError
from components.core.progress import track
from components.core.records import Clip, Failure, Json, Part, Ref, Sample, Video
from components.leakage_check.names import distinctive_names, distinctive_texts, normalized, shared
from components.leakage_check.page import page
from components.runtime.context import Context
from components.runtime.declaration import Step
from components.runtime.parameters import StepParams, UnitParams, operational
from components.runtime.remembered import Entries
from components.store.entries import Entry, Store

if TYPE_CHECKING:
    from components.leakage_check.matching import Hashes

Found = tuple[LeakKind, str, str, Json]  # what is shared, the training video, the benchmark's, more of it
_AHEAD = 256  # videos that are read of the manifests before they are decoded
_HELD = 256  # candidates whose pictures are held


@dataclass(frozen=True, slots=True)
class Seen:
    """What is compared of a video and of its samples; the times of its frames, the most of a line, are left behind."""

    file: str
    part: Part | None
    name: str
    called: str
    uids: list[str]
    texts: list[str]
    protocols: set[str]
    sources: set[str]


Side = Mapping[str, Seen]  # by video id


@dataclass(frozen=True, slots=True)
class Print:
    """A video's fingerprint."""

    hashes: Hashes
    pictures: Ref
    distinct: bool


class Hashing(StepParams):
    """What a fingerprint depends on."""

    rate: float = Field(12.0, gt=0, le=60, description="frames per second that are hashed")
    frames: int = Field(
        512, ge=8, le=8192, description="most frames of a video that are hashed; of a longer one they are spread evenly"
    )


class Params(UnitParams, Hashing):
    """Parameters of the check."""

    exclude: list[LeakKind] = Field(
        ["file", "frames", "id", "name"],
        description="what keeps a training video out of training if it shares it with a benchmark's; the rest is "
        "reported only (two videos may share a description)",
    )
    max_distance: int = Field(
        10, ge=0, le=20, description="bits of 64 by which hashes of the same picture may differ (frames)"
    )
    words: int = Field(8, ge=1, description="words that a text needs to tell one video from others (text)")
    readers: int = operational(8, ge=1, le=256, description="videos that are decoded side by side")


def run(context: Context[Params]) -> None:
    """Compare the prior set's videos with the benchmarks', and publish what they share."""
    priors, videos = context.input("priors", PriorSet).lines, context.input("videos", VideoDataset).lines
    asked = {line.video.id: _seen(line.video, line.samples) for line in videos}
    their_texts = _distinctive_texts(asked, context.params.words)
    by_video = groupby(priors, key=lambda line: line.video.id)
    groups = ((name, list(lines)) for name, lines in by_video)
    training = {name: _seen(lines[0].video, [line.sample for line in lines], their_texts) for name, lines in groups}
    clips = _each_once((line.video for line in priors), (line.video for line in videos))
    prints = _fingerprints(context, {*training, *asked}, clips)
    found = [*_same_files(training, asked), *_same_footage(context, prints, training, asked)]
    found += [*_same_names(training, asked), *_same_texts(training, their_texts, context.params.words)]
    pairs = [_leak(training[pair[1]], asked[pair[2]], *pair) for pair in found]
    pairs.sort(key=lambda pair: (list(LEAKS).index(pair.kind), pair.training, pair.benchmark))
    names = sorted({name for seen in asked.values() for name in seen.protocols})
    report = context.manifest(
        LeakageReport,
        training=len(training),
        benchmarks={name: sum(name in seen.protocols for seen in asked.values()) for name in names},
        pairs=pairs,
        excluded=sorted({pair.training for pair in pairs if pair.kind in context.params.exclude}),
    )
    context.publish("leakage", report)
    plain = sum(not one.distinct for one in prints.values())
    context.page("summary", page(report, context.params.exclude, plain))
    context.metrics(pairs=len(pairs), excluded=len(report.excluded))


def _seen(video: Clip, samples: Iterable[Sample], wanted: Container[str] | None = None) -> Seen:
    """Return what is compared of a video; of its texts only those that are `wanted`, as they are normalized."""
    uids, texts, protocols, sources = list[str](), list[str](), set[str](), set[str]()
    for sample in samples:
        uids.append(sample.uid)
        texts += (text for text in _texts(sample) if wanted is None or normalized(text) in wanted)
        protocols.add(sample.protocol)
        sources.add(sample.source)
    return Seen(video.file.sha256, video.part, video.name, video.called, uids, texts, protocols, sources)


def _fingerprints(context: Context[Params], names: Iterable[str], videos: Iterator[Video]) -> dict[str, Print]:
    """Return the fingerprint of every video that can be read; files are decoded side by side.

    Args:
        context: of the step.
        names: ids of all videos.
        videos: themselves, which are read where one has no fingerprint yet.
    """
    hashing = Hashing.model_validate(context.params.model_dump(include=set(Hashing.model_fields)))
    keys = {name: STEP.key(hashing, {}, {}, {"video": name}) for name in sorted(names)}
    memory = context.memory(index=STEP.key(hashing, {}, {}, {"scope": "all"}))
    memory.look_up(keys.values())
    todo, failures = {name for name, key in keys.items() if key not in memory.entries}, []
    missing = (video for video in videos if video.id in todo) if todo else iter(())
    for video, answer in track(_computed(context, keys, missing), STEP.title, len(todo)):
        if isinstance(answer, Entry):
            memory.add(answer)
        else:
            failures.append(Failure(unit=video.called, task=context.task, reason=answer.problem))
    context.counts |= {"remembered": len(keys) - len(todo), "computed": len(todo) - len(failures)}
    memory.keep()
    context.fail(failures, len(keys))
    entries = Entries(memory.entries)
    return {name: _print(context, entries[key]) for name, key in keys.items() if key in entries}


def _computed(
    context: Context[Params], keys: Mapping[str, str], videos: Iterator[Video]
) -> Iterator[tuple[Video, Entry | DataError]]:
    """Yield each video with its new fingerprint, or why it has none."""
    with ThreadPoolExecutor(context.params.readers) as pool:
        while batch := list(islice(videos, _AHEAD)):
            answers = pool.map(lambda video: _fingerprint(context, keys[video.id], video), batch)
            yield from zip(batch, answers, strict=True)


def _each_once(*sides: Iterator[Video]) -> Iterator[Video]:
    """Yield the videos of both sides, each of which is ordered by id."""
    merged = heapq.merge(*sides, key=lambda video: video.id)
    return (next(same) for _, same in groupby(merged, key=lambda video: video.id))


def _print(context: Context[Params], entry: Entry) -> Print:
    from components.leakage_check.matching import Hashes

    times, hashes = entry.numbers["times"], [int(text, 16) for text in entry.numbers["hashes"]]
    found = Hashes(np.array(times, dtype=np.float64), np.array(hashes, dtype=np.uint64))
    return Print(found, entry.ref("pictures", context.task), entry.numbers["distinct"])


def _fingerprint(context: Context[Params], key: str, video: Video) -> Entry | DataError:
    """Read and store a video's fingerprint; an expected error is returned."""
    from components.leakage_check.fingerprint import hashes, held, pictures, sampled
    from components.media.video import read_frames

    store = Store(context.store.uri, context.store.patience)  # threads cannot share the folder of its downloads
    indices = sampled(video.times, context.params.rate, context.params.frames)
    try:
        with store.borrowed(video.file) as path:
            small_nRC = pictures(read_frames(path, indices, video, held)[..., 0])
    except DataError as error:
        return error
    found_n = hashes(small_nRC)
    folder = context.work(key)
    folder.put("pictures", "safetensors", safetensors.save({"pictures": small_nRC}))
    numbers = {"times": [video.times[index] for index in indices], "hashes": [f"{value:016x}" for value in found_n]}
    return folder.finish(video.id, {"video": video.id}, {**numbers, "distinct": bool(found_n.any())})


def _same_files(training: Side, asked: Side) -> Iterator[Found]:
    """Yield the pairs of one file, of which a clip may be a part: parts that do not overlap are not the same."""
    by_file: dict[str, list[str]] = {}
    for name, seen in asked.items():
        by_file.setdefault(seen.file, []).append(name)
    for name, seen in training.items():
        for other in by_file.get(seen.file, []):
            if _overlap(seen.part, asked[other].part):
                yield "file", name, other, {}


def _overlap(one: Part | None, other: Part | None) -> bool:
    if one is None or other is None:
        return True
    return one.first < other.first + other.count and other.first < one.first + one.count


def _same_footage(
    context: Context[Params], prints: Mapping[str, Print], training: Side, asked: Side
) -> Iterator[Found]:
    """Yield the pairs of different files that show the same."""
    from components.leakage_check.matching import candidates, compare

    @lru_cache(_HELD)
    def pictures(name: str) -> np.ndarray:
        found: np.ndarray = safetensors.load(context.store.read(prints[name].pictures))["pictures"]
        return found

    most = context.params.max_distance
    ours, theirs = ([name for name in sorted(side) if name in prints] for side in (training, asked))
    first, second = ([prints[name].hashes for name in names] for names in (ours, theirs))
    pairs = candidates(first, second, most)
    pairs = [(i, j) for i, j in pairs if training[ours[i]].file != asked[theirs[j]].file]
    for i, j in track(pairs, "candidates"):
        one, other = ours[i], theirs[j]
        if (match := compare(first[i], second[j], pictures(one), pictures(other), most)) is not None:
            yield "frames", one, other, {name: round(value, 3) for name, value in vars(match).items()}


def _same_names(training: Side, asked: Side) -> Iterator[Found]:
    """Yield the pairs whose files have a distinctive name in common, and those whose rows do, or a row and a file."""
    files, every = ([_distinctive_names(side, rows) for side in (training, asked)] for rows in (False, True))
    called = {(one, other): name for name, one, other in shared(*files)}
    rows = {(one, other): name for name, one, other in shared(*every)}
    yield from (("name", *pair, {"what": name}) for pair, name in called.items())
    yield from (("id", *pair, {"what": name}) for pair, name in rows.items() if pair not in called)


def _distinctive_names(side: Side, rows: bool) -> dict[str, set[str]]:
    return distinctive_names({name: [seen.name, *(seen.uids if rows else ())] for name, seen in side.items()})


def _distinctive_texts(side: Side, words: int) -> dict[str, set[str]]:
    return distinctive_texts({name: seen.texts for name, seen in side.items()}, words)


def _same_texts(training: Side, their_texts: Mapping[str, set[str]], words: int) -> Iterator[Found]:
    """Yield the pairs whose samples have a distinctive text in common: a question, a response or an option's text."""
    texts = _distinctive_texts(training, words)
    pairs = {(one, other): text for text, one, other in shared(texts, their_texts)}
    yield from (("text", *pair, {"what": text}) for pair, text in pairs.items())


def _texts(sample: Sample) -> list[str]:
    turns = [text for turn in sample.earlier for text in (turn.question, turn.response)]
    options = [option.text for option in sample.options]
    asked = [] if sample.is_instruction else [sample.question]
    return [*asked, *turns, *(options or [sample.response])]


def _leak(ours: Seen, theirs: Seen, kind: LeakKind, one: str, other: str, more: Json) -> Leak:
    names: Json = {"training_name": ours.called, "benchmark_name": theirs.called}
    names["sources"] = sorted(ours.sources - {""})
    return Leak(kind=kind, training=one, benchmark=other, protocols=sorted(theirs.protocols), **names, **more)


STEP = Step(
    name="leakage_check",
    version="1",
    title="Leakage check",
    unit="video",
    device="cpu",
    params=Params,
    run=run,
    inputs={"priors": PriorSet, "videos": VideoDataset},
    outputs={"leakage": LeakageReport},
    pages={"summary": "Markdown", "metrics": "Metrics"},
)
