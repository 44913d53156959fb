"""leakage_check: which training videos a benchmark asks about: same file, footage, id, name or text. A unit is a video.

Each video's fingerprint is a piece of work of its own, remembered for every data set that holds the video. Comparing
them is not: hashes of 25 000 videos and 1 776 take about a minute, and pictures are fetched of candidates alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import groupby

import numpy as np
from pydantic import Field
from safetensors import numpy as safetensors

from components.core.artifacts import LEAKS, Leak, LeakageReport, LeakKind, PriorLine, PriorSet, VideoDataset, VideoLine
from components.core.errors import DataError
from components.core.progress import track
from components.core.records import Failure, Json, Part, Sample, Video
from components.leakage_check.names import distinctive_names, distinctive_texts, shared
from components.leakage_check.page import page
from components.runtime.context import Context
from components.runtime.declaration import Step
from components.runtime.parameters import StepParams, UnitParams, operational
from components.runtime.remembered import Entries, named
from components.store.entries import Entry, Store

Training = Mapping[str, list[PriorLine]]  # by video
Asked = Mapping[str, VideoLine]
Found = tuple[LeakKind, str, str, Json]  # what is shared, the training video, the benchmark's, more of it


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
    training = _by_video(context.input("priors", PriorSet).lines)
    asked = {line.video.id: line for line in context.input("videos", VideoDataset).lines}
    videos = _videos(training, asked)
    prints = _fingerprints(context, [videos[name] for name in sorted(videos)])
    found = [*_same_files(training, asked), *_same_footage(context, prints, training, asked)]
    found += [*_same_names(training, asked), *_same_texts(training, asked, context.params.words)]
    pairs = [_leak(training, asked, *pair) for pair in found]
    pairs.sort(key=lambda pair: (list(LEAKS).index(pair.kind), pair.training, pair.benchmark))
    benchmarks = [{sample.protocol for sample in line.samples} for line in asked.values()]
    report = context.manifest(
        LeakageReport,
        training=len(training),
        benchmarks={name: sum(name in of for of in benchmarks) for name in sorted(set().union(*benchmarks))},
        pairs=pairs,
        excluded=sorted({pair.training for pair in pairs if pair.kind in context.params.exclude}),
    )
    context.publish("leakage", report)
    plain = sum(not entry.numbers["distinct"] for entry in prints.values())
    context.page("summary", page(report, context.params.exclude, plain))
    context.metrics(pairs=len(pairs), excluded=len(report.excluded))


def _videos(training: Training, asked: Asked) -> dict[str, Video]:
    videos = {name: line.video for name, line in asked.items()}
    return videos | {name: lines[0].video for name, lines in training.items()}


def _by_video(lines: Iterable[PriorLine]) -> dict[str, list[PriorLine]]:
    ordered = sorted(lines, key=lambda line: (line.video.id, line.sample.id))
    return {name: list(group) for name, group in groupby(ordered, key=lambda line: line.video.id)}


def _fingerprints(context: Context[Params], videos: Sequence[Video]) -> Entries:
    """Return the fingerprint of every video that can be read; files are decoded side by side."""
    hashing = Hashing.model_validate(context.params.model_dump(include=set(Hashing.model_fields)))
    keys = {video.id: STEP.key(hashing, {}, {}, {"video": video.id}) for video in videos}
    memory = context.memory(scope={})
    memory.look_up(keys.values())
    todo, failures = [video for video in videos if keys[video.id] not in memory.entries], []
    with ThreadPoolExecutor(context.params.readers) as pool:
        answers = pool.map(lambda video: _fingerprint(context, keys[video.id], video), todo)
        for video, answer in zip(todo, track(answers, STEP.title, len(todo)), strict=True):
            if isinstance(answer, Entry):
                memory.add(answer)
            else:
                failures.append(Failure(unit=video.called, task=context.task, reason=answer.problem))
    context.counts |= {"remembered": len(videos) - len(todo), "computed": len(todo) - len(failures)}
    memory.keep()
    context.fail(failures, len(videos))
    return named(list(keys.items()), memory, {})


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


def _same_files(training: Training, asked: Asked) -> Iterator[Found]:
    """Yield the pairs of one file, of which a clip may be a part: parts that do not overlap are not the same."""
    by_file: dict[str, list[str]] = {}
    for name, line in asked.items():
        by_file.setdefault(line.video.file.sha256, []).append(name)
    for name, lines in training.items():
        for other in by_file.get(lines[0].video.file.sha256, []):
            if _overlap(lines[0].video.part, asked[other].video.part):
                yield "file", name, other, {}


def _overlap(one: Part | None, other: Part | None) -> bool:
    if one is None or other is None:
        return True
    return one.first < other.first + other.count and other.first < one.first + one.count


def _same_footage(
    context: Context[Params], prints: Mapping[str, Entry], training: Training, asked: Asked
) -> Iterator[Found]:
    """Yield the pairs of different files that show the same."""
    from components.leakage_check.matching import Hashes, candidates, compare

    def hashes(name: str) -> Hashes:
        numbers = prints[name].numbers
        found_n = np.array([int(text, 16) for text in numbers["hashes"]], dtype=np.uint64)
        return Hashes(np.array(numbers["times"], dtype=np.float64), found_n)

    @cache
    def pictures(name: str) -> np.ndarray:
        data = context.store.read(prints[name].ref("pictures", context.task))
        found: np.ndarray = safetensors.load(data)["pictures"]
        return found

    most, videos = context.params.max_distance, _videos(training, asked)
    ours, theirs = ([name for name in sorted(side) if name in prints] for side in (training, asked))
    first, second = (list(map(hashes, names)) for names in (ours, theirs))
    files = [[videos[name].file.sha256 for name in names] for names in (ours, theirs)]
    pairs = [(i, j) for i, j in candidates(first, second, most) if files[0][i] != files[1][j]]
    for i, j in track(pairs, "candidates"):
        one, other = ours[i], theirs[j]
        if (match := compare(first[i], second[j], pictures(one), pictures(other), most)) is not None:
            yield "frames", one, other, {name: round(value, 3) for name, value in vars(match).items()}


def _same_names(training: Training, asked: Asked) -> Iterator[Found]:
    """Yield the pairs whose files have a distinctive name in common, and those whose rows do, or a row and a file."""
    ours = {name: ([lines[0].video.name], [line.sample.uid for line in lines]) for name, lines in training.items()}
    theirs = {name: ([line.video.name], [sample.uid for sample in line.samples]) for name, line in asked.items()}
    files, every = ([_distinctive(side, rows) for side in (ours, theirs)] for rows in (False, True))
    called = {(one, other): name for name, one, other in shared(*files)}
    rows = {(one, other): name for name, one, other in shared(*every)}
    yield from (("name", *pair, {"what": name}) for pair, name in called.items())
    yield from (("id", *pair, {"what": name}) for pair, name in rows.items() if pair not in called)


def _distinctive(side: Mapping[str, tuple[list[str], list[str]]], rows: bool) -> dict[str, set[str]]:
    return distinctive_names({name: [*files, *uids] if rows else files for name, (files, uids) in side.items()})


def _same_texts(training: Training, asked: Asked, words: int) -> Iterator[Found]:
    """Yield the pairs whose samples have a distinctive text in common: a question, a response or an option's text."""
    ours = {name: [text for line in lines for text in _texts(line.sample)] for name, lines in training.items()}
    theirs = {name: [text for sample in line.samples for text in _texts(sample)] for name, line in asked.items()}
    texts = [distinctive_texts(side, words) for side in (ours, theirs)]
    pairs = {(one, other): text for text, one, other in shared(*texts)}
    yield from (("text", *pair, {"what": text}) for pair, text in pairs.items())


def _texts(sample: Sample) -> list[str]:
    turns = [text for turn in sample.earlier for text in (turn.question, turn.response)]
    options = [option.text for option in sample.options]
    asked = [] if sample.is_instruction else [sample.question]
    return [*asked, *turns, *(options or [sample.response])]


def _leak(training: Training, asked: Asked, kind: LeakKind, one: str, other: str, more: Json) -> Leak:
    ours, theirs = training[one][0].video, asked[other]
    names: Json = {"training_name": ours.called, "benchmark_name": theirs.video.called}
    protocols = sorted({sample.protocol for sample in theirs.samples})
    names["sources"] = sorted({line.sample.source for line in training[one]} - {""})
    return Leak(kind=kind, training=one, benchmark=other, protocols=protocols, **names, **more)


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
