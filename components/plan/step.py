"""plan: validate everything before anything is computed; predict what a run will compute and cost. Never cached.

Its outputs are the digests of the sources: the importers take them, so a changed folder is noticed. What is remembered
is exact through attention_capture, whose keys follow from the sources, and of token_selection where every sample's maps
are there to choose heads from; else the number of samples is an upper bound. The first look at a source takes longer: a
header lies anywhere in its file, so each new video of an S3 source is downloaded, some at a time, and dropped again.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from components.attention_capture.settings import reads
from components.benchmarks.interface import parse_benchmark
from components.core.artifacts import PriorSet
from components.core.errors import DataError, ParameterError
from components.core.progress import track
from components.core.records import Json, canonical_json, sha256
from components.core.text import conditioning
from components.dataset_import.sources import Source, SourceVideo, file_key, list_source, read_source, source_digest
from components.models.registry import ResolvedModel, resolve
from components.models.video import family_of
from components.pages.markdown import document
from components.plan import page
from components.plan.estimate import Known, PlannedVideo, estimate
from components.runtime.context import Context
from components.runtime.declaration import Form, Step, declared
from components.runtime.parameters import (
    AlignWeight,
    Benchmarks,
    HeadRatio,
    NumSteps,
    Priors,
    Seed,
    Shards,
    SharedParams,
    SourceUri,
    StepParams,
    Text,
    TokenRatio,
    Vdm,
    Vlm,
    validated,
)
from components.runtime.shards import Shard
from components.store.address import open_backend
from components.store.entries import Entry
from components.store.transfer import exported_manifest, import_folder

EXTRACTION = ("dataset_import", "ddim_inversion", "attention_capture", "head_selection", "token_selection")
TUNING = ("dataset_import", "vlm_attention", "sft", "benchmark_eval", "report")
LOOKUPS = 16  # requests under way; so many downloads at most lie on the disk


class Shared(SharedParams):
    """What every pipeline has."""

    shards: Shards
    seed: Seed


class MotionPriors(Shared):
    """The shared parameters of `motion_priors`."""

    source: SourceUri
    vdm: Vdm
    num_steps: NumSteps
    head_ratio: HeadRatio
    token_ratio: TokenRatio
    text: Text


class Tuning(Shared):
    """The shared parameters of pipelines that fine-tune."""

    benchmarks: Benchmarks
    vlm: Vlm
    align_weight: AlignWeight


class FineTune(Tuning):
    """The shared parameters of `fine_tune`."""

    priors: Priors


class MotionEnhancer(MotionPriors, Tuning):
    """The shared parameters of `motion_enhancer`."""


Extraction = Context[StepParams, MotionPriors]


def run(context: Context[StepParams, Shared]) -> None:
    """Validate and predict; a prior set given as a folder is brought into the store."""
    forecast(context)
    shared = context.shared
    if isinstance(shared, FineTune) and not shared.priors.startswith("sha256:"):
        import_folder(Path(shared.priors), context.store)


def forecast(context: Context[StepParams, Any]) -> None:
    """Validate, list, count, predict; write nothing but what was read of headers and models into the store."""
    shared = context.shared
    params = {name: _params(context, name) for name in context.step_params}
    _check_shards(shared.shards)
    models: dict[str, ResolvedModel] = {}
    parts = ["# Plan"]
    if isinstance(shared, MotionPriors):
        models["vdm"] = resolve(shared.vdm, context.store)
        context.value("source_digest", source_digest(list_source(shared.source)))
        parts.append(_extraction(context, params, models["vdm"], _read(context, shared.source)))
    if isinstance(shared, FineTune):
        found = _priors(context, shared.priors)
        context.value("prior_digest", f"sha256:{found.digest}")
        parts.append(page.prior_set(found))
    if isinstance(shared, Tuning):
        models["vlm"] = resolve(shared.vlm, context.store)
        benchmark_digest, shown = _benchmarks(context, shared.benchmarks)
        context.value("benchmark_digest", benchmark_digest)
        parts.append(shown)
    parts.append(page.models({role: model.id for role, model in models.items()}))
    context.page("plan", document(*parts))


def _params(context: Context[StepParams, Any], name: str) -> Any:
    """Return another step's validated parameters."""
    return validated(declared(name).params, context.step_params[name], f"params_{name}")


def _check_shards(shards: list[str]) -> None:
    parsed = [Shard.parse(text) for text in shards]
    if {shard.count for shard in parsed} != {len(parsed)} or len({shard.index for shard in parsed}) != len(parsed):
        raise ParameterError(f"shards {shards} are not 0/n … n-1/n", source="shards", remedy='e.g. ["0/2", "1/2"]')


def _read(context: Context[StepParams, Any], uri: str, protocol: str = "") -> Source:
    params = _params(context, "dataset_import")
    layout = "auto" if protocol else params.layout
    return read_source(open_backend(uri), list_source(uri), layout, params.template_instructions, protocol)


# Extraction -----------------------------------------------------------------------------------------------------------


def _extraction(context: Extraction, params: dict[str, Any], model: ResolvedModel, source: Source) -> str:
    inversion, shared = params["ddim_inversion"], context.shared
    family = family_of(model.path)
    family.check(inversion.num_frames)
    with ThreadPoolExecutor(LOOKUPS) as pool:
        looked = pool.map(lambda video: _planned(context, params, model, source, video), source.videos)
        videos = [video for video in track(looked, STEP.title, len(source.videos)) if video is not None]
    held = [video for video in videos if family.frames.largest(min(video.frames, inversion.num_frames))]
    settings, selected = (inversion, params["attention_capture"]), _selected(context, params, held)
    found = estimate(model.path, videos, *settings, shared.num_steps, shared.token_ratio, selected)
    return page.extraction(source, found, videos, family.frames)


def _planned(
    context: Extraction, params: dict[str, Any], model: ResolvedModel, source: Source, video: SourceVideo
) -> PlannedVideo | None:
    """Return what is known of a video without decoding it: from its remembered import, else from its header."""
    if video.file is None:
        return None
    address, words = video.reads(source.root), [len(f"{row.question} {row.response}".split()) for row in video.rows]
    entry = _entry(context, "dataset_import", file_key(declared("dataset_import"), address))
    if entry is None:
        return PlannedVideo(video.path, _header_frames(context, source, video, address), words, None)
    known = _known(context, params, model, video, entry.files["video"].sha256)
    return PlannedVideo(video.path, len(entry.numbers["times"]), words, known)


def _known(context: Extraction, params: dict[str, Any], model: ResolvedModel, video: SourceVideo, digest: str) -> Known:
    """Return which of the keys that follow from the sources are remembered."""
    models, shared = {"vdm": model.id}, context.shared
    inversion, capture = declared("ddim_inversion"), declared("attention_capture")
    trajectory = inversion.key(params["ddim_inversion"], inversion.shared_result(shared), models, {"video": digest})
    captured: list[Entry | None] = []
    for row in video.rows:
        try:
            conditioning(row.sample(digest), shared.text)
        except DataError:  # raised by the step itself, with the sample's name
            captured.append(None)
            continue
        found = reads(trajectory, row.sample(digest), shared.text)
        key = capture.key(params["attention_capture"], capture.shared_result(shared), models, found)
        captured.append(_entry(context, "attention_capture", key))
    return Known(_entry(context, "ddim_inversion", trajectory) is not None, captured)


def _entry(context: Extraction, step: str, key: str) -> Entry | None:
    """Return the entry; damage counts as work to do, as the rerun that computes it again begins with this step."""
    return context.store.entry(step, key, miss_if_damaged=True)


def _selected(context: Extraction, params: dict[str, Any], videos: list[PlannedVideo]) -> int | None:
    """Count samples whose token selection is remembered, for the heads that the stored statistics choose.

    None where a sample is not captured yet.
    """
    found = [entry for video in videos for entry in (video.known.captured if video.known else [None])]
    captured = sorted((entry for entry in found if entry is not None), key=lambda entry: entry.unit)
    if not captured or len(captured) < len(found):
        return None
    try:
        heads = _heads(context, params["head_selection"], captured)
    except DataError:  # damage: the step that reads it raises this, with the rerun that computes it again
        return None
    select = declared("token_selection")
    reads = [{"attention": entry.key, "heads": chosen} for entry, chosen in zip(captured, heads, strict=True)]
    shared = select.shared_result(context.shared)
    keys = [select.key(params["token_selection"], shared, {}, item) for item in reads]
    with ThreadPoolExecutor(LOOKUPS) as pool:
        return sum(pool.map(lambda key: _entry(context, "token_selection", key) is not None, keys))


def _heads(context: Extraction, params: Any, captured: list[Entry]) -> list[list[int]]:
    """Return each sample's heads as head_selection will choose them."""
    from components.head_selection.scores import HeadStatistics, choose_all
    from components.store.tensors import unpack

    with ThreadPoolExecutor(params.readers) as pool:
        data = list(pool.map(lambda entry: context.store.read(entry.ref("statistics", "attention_capture")), captured))
    statistics = [
        HeadStatistics.from_tensors(unpack(item), entry.unit) for item, entry in zip(data, captured, strict=True)
    ]
    choices = choose_all(
        statistics,
        scope=params.scope,
        tau=params.tau,
        include_self=params.include_self,
        head_ratio=context.shared.head_ratio,
        mhs=params.mhs,
    )
    return [choice.heads for choice in choices]


def _header_frames(context: Extraction, source: Source, video: SourceVideo, reads: Json) -> int:
    """Return the frames by the container's header, remembered; 0, not remembered, where there is none to read."""
    from components.media.video import header

    key = sha256(canonical_json(reads))[:32]
    if (entry := _entry(context, "plan", key)) is not None:
        return int(entry.numbers["frames"])
    backend = open_backend(source.root)  # one of its own: threads cannot share the folder of its downloads
    try:
        path = backend.local(video.path)
        if path is None:
            return 0
        frames = header(path).num_frames
    except DataError:
        return 0  # the import's message names the reason
    finally:
        backend.release(video.path)
    context.work(key).finish(video.path, reads, {"frames": frames})
    return frames


# The other sources ----------------------------------------------------------------------------------------------------


def _priors(context: Context[StepParams, Any], priors: str) -> PriorSet:
    """Return the prior set, from the store or an exported folder."""
    stored = priors.startswith("sha256:")
    return context.store.manifest(priors, PriorSet) if stored else exported_manifest(Path(priors), PriorSet)


def _benchmarks(context: Context[StepParams, Any], benchmarks: list[str]) -> tuple[str, str]:
    lines, digests = [], []
    for item in benchmarks:
        protocol, uri = parse_benchmark(item)
        source = _read(context, uri, protocol)
        rows = [row for video in source.videos for row in video.rows]
        digests.append([protocol, source_digest(list_source(uri))])
        lines.append((protocol, len(source.videos), len(rows), sum(not row.answer for row in rows)))
    return sha256(canonical_json(digests)), page.benchmarks(lines)


STEP = Step(
    name="plan",
    version="1",
    title="Plan",
    unit="source",
    device="cpu",
    params=StepParams,
    run=run,
    pages={"plan": "Markdown"},
    forms={
        "motion_priors": Form(MotionPriors, values=("source_digest",), planned=EXTRACTION),
        "fine_tune": Form(FineTune, values=("prior_digest", "benchmark_digest"), planned=TUNING),
        "motion_enhancer": Form(
            MotionEnhancer, values=("source_digest", "benchmark_digest"), planned=(*EXTRACTION, *TUNING[1:])
        ),
    },
)
