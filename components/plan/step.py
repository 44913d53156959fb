"""plan: validate everything before anything is computed; predict what a run will compute and cost. Never cached.

Its outputs are the digests of the sources: the importers take them, so a changed folder is noticed. The first look at a
source takes longer: a header lies anywhere in its file, so each new video of an S3 source is downloaded, some at a
time, and dropped again. So does the first look at a VLM: its parameters are counted by building it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from components.benchmarks.interface import parse_benchmarks
from components.core.artifacts import PriorSet
from components.core.errors import DataError, ParameterError
from components.core.records import canonical_json, sha256
from components.dataset_import.checks import lost_in, refuse_other_counts, repeated_in, too_many
from components.dataset_import.clips import clip as clip_of
from components.dataset_import.recipe import training_digest
from components.dataset_import.sources import Source, SourceVideo, file_key, read_source
from components.models.registry import ResolvedModel, resolve
from components.pages.markdown import document
from components.plan import page, seeing, tuning
from components.plan.compared import Compared
from components.plan.cost import Shown
from components.plan.extraction import LOOKUPS, Extraction, as_lines, imported, kept
from components.plan.known import Known
from components.plan.limits import Limits, Misfit, Task, given_limits, misfit
from components.plan.run_size import ARGO, RunSize, estimated
from components.plan.seeing import Text
from components.plan.shared import Ablations, FineTune, MotionEnhancer, MotionPriors, Shared, Tuning
from components.prior_set.merge import check_agreement
from components.runtime.context import Context
from components.runtime.declaration import Form, Step, declared
from components.runtime.parameters import Shard, StepParams, as_text, items_of, validated
from components.steps import EXTRACTION, TUNING
from components.store.failures import shortened
from components.store.packed import in_batches
from components.store.transfer import exported_manifest, import_folder

log = logging.getLogger(__name__)
POD = "KFP_POD_NAME"  # in the environment of every task that KFP runs on a cluster


def run(context: Context[StepParams, Shared]) -> None:
    """Validate and predict; a prior set given as a folder is brought into the store.

    Raises ParameterError also where Argo would end the run in its middle (in a pod of KFP, not on a laptop), and where
    the run does not fit its pods.
    """
    if POD in os.environ:
        _record(context.shared).check("shards")
    forecast(context, given_limits())
    if isinstance(context.shared, FineTune):
        for name in _named_priors(context.shared):
            if not name.startswith("sha256:"):
                import_folder(Path(name), context.store)


def forecast(context: Context[StepParams, Any], limits: Limits | None = None) -> None:
    """Validate, list, count, predict; write nothing but what was read of headers and models into the store.

    Raises ParameterError where the run does not fit `limits`, unless it shall go all the same; the page is written.
    """
    shared = context.shared
    params = {
        name: validated(declared(name).params, given, f"params_{name}") for name, given in context.step_params.items()
    }
    shards = [Shard.parse(text) for text in shared.shards]
    if not Shard.all(shards):
        problem = f"shards {shared.shards} are not 0/n … n-1/n"
        raise ParameterError(problem, source="shards", remedy='e.g. ["0/2", "1/2"]')
    models: dict[str, ResolvedModel] = {}
    parts = ["# Plan"]
    videos: list[int] = []  # bytes of each
    texts: list[Text] = []
    tasks: list[Task] = []
    compared = Compared(context, shared) if isinstance(shared, Ablations) else None
    if compared is not None:
        models["vdm"] = resolve(shared.vdm, context.store)
        context.value("source_digest", compared.source_digest)
        parts.append(compared.extraction)
        videos += compared.video_bytes
    elif isinstance(shared, MotionPriors):
        models["vdm"] = resolve(shared.vdm, context.store)
        extraction = Extraction(context, shared, params, models["vdm"])
        context.value("source_digest", training_digest(extraction.sources))
        videos += [video.file.size for _, video in extraction.videos if video.file is not None]
        parts += [extraction.forecast(), page.ensemble(extraction.members.selections, extraction.lacking)]
        tasks += extraction.tasks()
        texts += extraction.texts
    if isinstance(shared, FineTune):
        sets = [_prior_set(context, name) for name in _named_priors(shared)]
        check_agreement(sets)
        digests = [f"sha256:{one.digest}" for one in sets]
        context.value("prior_digest", digests[0] if len(sets) == 1 else as_text(digests))
        videos += {line.video.id: line.video.file.bytes for one in sets for line in one.lines}.values()
        parts.append(page.prior_sets(sets))
        texts += _samples(sets)
    if isinstance(shared, Tuning):
        models["vlm"] = resolve(shared.vlm, context.store)
        benchmark_digest, shown, sources = _benchmarks(context, params["dataset_import"], shared.benchmarks)
        context.value("benchmark_digest", benchmark_digest)
        trained, asked = (params[name].viewing.positions for name in ("vlm_attention", "benchmark_eval"))
        counts = tuning.counted(context, models["vlm"], params["sft"])
        downloads = [] if context.store.uri.startswith("file:") else videos
        taken = page.fine_tuning(counts, tuning.disk(counts, params["sft"], downloads))
        parts += [shown, page.positions(trained, asked), taken]
        assert counts.rates is not None
        nodes, there = 1 if limits is None else limits.sft_nodes, imported(context.store, sources)
        items = [(source, _items(there, source)) for source in sources]
        if compared is not None:
            tasks += compared.tasks(items, nodes)
            parts.append(compared.table())
        else:
            vlm = seeing.Seeing(models["vlm"].path, counts.rates)
            tasks += seeing.tuned(vlm, texts, params, len(shards), nodes)
            tasks += [seeing.evaluated(vlm, *one, params["benchmark_eval"]) for one in items]
    sure, bounds = (_misfit(shared, [one for one in tasks if one.at_most is bound], limits) for bound in (False, True))
    parts.append(page.pods(tasks, limits, [found for found in (sure, bounds) if found is not None]))
    parts.append(page.cluster(_record(shared)))
    parts.append(page.models({role: model.id for role, model in models.items()}))
    context.page("plan", document(*parts))
    if sure is not None and shared.over_limits == "stop":
        raise sure.error
    for found in (sure, bounds):
        for fault in found.faults if found else ():
            log.warning("more than its pod has: %s", fault)


def _misfit(shared: Shared, tasks: Sequence[Task], limits: Limits | None) -> Misfit | None:
    """Return what of these tasks does not fit their pods; nothing where no limits are known."""
    if limits is None:
        return None
    return misfit(tasks, limits, lambda count: _record(shared, count).packed <= ARGO)


def _named_priors(shared: FineTune) -> list[str]:
    """Return the prior sets that are named, each once. Raises ParameterError: something else in the list."""
    names = list(dict.fromkeys(map(as_text, items_of(shared.priors, "priors"))))
    if wrong := [name for name in names if not isinstance(name, str) or name.startswith(("[", "{")) or not name]:
        remedy = "name each set by sha256:… or by its folder"
        raise ParameterError(f"{wrong[0]!r} names no prior set", source="priors", remedy=remedy)
    return names


def _prior_set(context: Context[StepParams, Any], name: str) -> PriorSet:
    stored = name.startswith("sha256:")
    return context.store.manifest(name, PriorSet) if stored else exported_manifest(Path(name), PriorSet)


def _record(shared: Shared, shards: int | None = None) -> RunSize:
    """Return the size of the record that Argo keeps of this run, or of one with so many shards."""
    (name,) = (name for name, form in STEP.forms.items() if form.shared is type(shared))
    benchmarks = len(shared.benchmarks) if isinstance(shared, Tuning) else 0
    trials = len(shared.trial_shards) if isinstance(shared, Ablations) else 0
    return estimated(name, shards or len(shared.shards), benchmarks, trials)


def _read(params: Any, uri: str, patience: float, protocol: str = "") -> Source:
    layout = "auto" if protocol else params.layout
    return read_source(uri, layout, params.template_instructions, protocol, patience)


def _benchmarks(context: Context[StepParams, Any], params: Any, benchmarks: list[str]) -> tuple[str, str, list[Source]]:
    """Return the digest of the benchmarks' listings, the page's part about them, and what they are.

    Raises DataError where their import would be refused, by what annotations and listing say.
    """
    patience, parsed = context.store.patience, parse_benchmarks(benchmarks)
    sources = [_read(params, uri, patience, protocol) for protocol, uri in parsed]
    if not params.allow_subset:
        refuse_other_counts(sources)
    lost = [item for source in sources for item in (*lost_in(source), *repeated_in(source))]
    if found := too_many(sources, lost, params.max_failed_items):
        lines = as_lines(item for item in lost if item.protocol in found)
        problem = f"{', '.join(found.values())} cannot be asked (max_failed_items={params.max_failed_items:g}):"
        remedy = "fix or remove them, or raise params_dataset_import.max_failed_items"
        shown = "".join(f"\n    {line}" for line in shortened(context.store, context.task, lines))
        raise DataError(problem + shown, source="benchmarks", remedy=remedy)
    digests = [[source.protocol, source.digest] for source in sources]
    return sha256(canonical_json(digests)), page.benchmarks(sources, lost, kept(context, lost)), sources


def _samples(sets: Sequence[PriorSet]) -> list[Text]:
    """Return the samples of prior sets, those of several once."""
    found: dict[str, Text] = {}
    for line in (line for one in sets for line in one.lines):
        found[line.sample.id] = Text(line.video.id, Shown.of(line.video), line.sample)
    return list(found.values())


def _items(imported: Known, source: Source) -> list[Text]:
    """Return the items of a benchmark; clips that are imported are known."""

    def shown(video: SourceVideo) -> Shown | None:
        entry = imported.entry(file_key(declared("dataset_import"), video.reads(source.root)))
        if entry is None:
            return None
        try:
            clip = clip_of(entry, video.part, "dataset_import", video.path)
        except DataError:  # such a clip is left out by the import
            return None
        return Shown.of(clip)

    videos = [video for video in source.videos if video.file is not None]
    with ThreadPoolExecutor(LOOKUPS) as pool:
        known = list(in_batches(pool, shown, videos))
    pairs = zip(videos, known, strict=True)
    return [Text(source.unit(video.path), found, row) for video, found in pairs for row in video.rows]


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
        "fine_tune": Form(FineTune, values=("prior_digest", "benchmark_digest"), planned=("dataset_import", *TUNING)),
        "motion_enhancer": Form(
            MotionEnhancer, values=("source_digest", "benchmark_digest"), planned=(*EXTRACTION, *TUNING)
        ),
        "ablations": Form(
            Ablations,
            values=("source_digest", "benchmark_digest"),
            planned=(*EXTRACTION, *(name for name in TUNING if name != "report"), "comparison"),
        ),
    },
)
