"""plan: validate everything before anything is computed; predict what a run will compute and cost. Never cached.

Its outputs are the digests of the sources: the importers take them, so a changed folder is noticed. What is remembered
is exact through attention_capture, whose keys follow from the sources, and of token_selection where every sample's maps
are there to choose heads from; else the number of samples is an upper bound. The first look at a source takes longer: a
header lies anywhere in its file, so each new video of an S3 source is downloaded, some at a time, and dropped again.
So does the first look at a VLM: its parameters are counted by building it.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.attention_capture.settings import reads
from components.benchmarks.interface import parse_benchmarks
from components.benchmarks.rows import Row
from components.core.artifacts import PriorSet
from components.core.errors import DataError, ParameterError
from components.core.progress import track
from components.core.records import Head, Json, canonical_json, sha256
from components.core.text import conditioning
from components.dataset_import.checks import Lost, lost_in, refuse_other_counts, repeated_in, too_many
from components.dataset_import.clips import NO_MOTION
from components.dataset_import.clips import clip as clip_of
from components.dataset_import.decode import fetched
from components.dataset_import.recipe import read_training, training_digest
from components.dataset_import.sources import Source, SourceVideo, file_key, index_key, read_source
from components.head_selection.settings import check_selection
from components.models.registry import ResolvedModel, resolve
from components.models.video import family_of
from components.models.video.interface import VideoFamily, unread_characters
from components.pages.markdown import document
from components.plan import page, seeing, tuning
from components.plan.ablations import COLUMNS, Counted, Hours, arms, dealt, extracted, fresh, joined
from components.plan.ablations import page as comparison
from components.plan.cost import PlannedVideo, Shown, StepEstimate, estimate, unlike_training
from components.plan.known import Known
from components.plan.limits import Limits, Misfit, Task, given_limits, misfit
from components.plan.run_size import ARGO, RunSize, estimated
from components.plan.seeing import Text
from components.prior_set.merge import check_agreement
from components.runtime import parameters as p
from components.runtime.context import Context
from components.runtime.declaration import Form, Step, declared
from components.runtime.parameters import Shard, SharedParams, StepParams, as_text, items_of, validated
from components.runtime.variants import baseline_of
from components.steps import EXTRACTION, TUNING
from components.store.address import open_backend
from components.store.entries import Store
from components.store.failures import SHOWN, shortened, write_list
from components.store.transfer import exported_manifest, import_folder
from components.token_selection.members import Members, member_reads, unit_reads

if TYPE_CHECKING:
    from components.head_selection.scores import HeadStatistics

log = logging.getLogger(__name__)
POD = "KFP_POD_NAME"  # in the environment of every task that KFP runs on a cluster
NO_VIDEO = "0" * 64  # a sample's text needs none
LOOKUPS = 16  # requests under way; so many downloads at most lie on the disk


class Shared(SharedParams):
    """What every pipeline has."""

    shards: p.Shards
    seed: p.Seed
    over_limits: p.OverLimits


class MotionPriors(Shared):
    """The shared parameters of `motion_priors`."""

    source: p.SourceUri
    vdm: p.Vdm
    num_steps: p.NumSteps
    head_ratio: p.HeadRatio
    token_ratio: p.TokenRatio
    text: p.Text


class Tuning(Shared):
    """The shared parameters of pipelines that fine-tune."""

    benchmarks: p.Benchmarks
    vlm: p.Vlm
    align_weight: p.AlignWeight


class FineTune(Tuning):
    """The shared parameters of `fine_tune`."""

    priors: p.Priors


class MotionEnhancer(MotionPriors, Tuning):
    """The shared parameters of `motion_enhancer`."""


class Ablations(MotionEnhancer):
    """The shared parameters of `ablations`."""

    variants: p.Variants
    baseline: p.Baseline
    seeds: p.Seeds
    trial_shards: p.TrialShards


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
    compared = _Compared(context, shared) if isinstance(shared, Ablations) else None
    if compared is not None:
        models["vdm"] = resolve(shared.vdm, context.store)
        context.value("source_digest", compared.source_digest)
        parts.append(compared.extraction)
        videos += compared.video_bytes
    elif isinstance(shared, MotionPriors):
        models["vdm"] = resolve(shared.vdm, context.store)
        extraction = _Extraction(context, shared, params, models["vdm"])
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
        counts = _counts(context, models["vlm"], params["sft"])
        downloads = [] if context.store.uri.startswith("file:") else videos
        taken = page.fine_tuning(counts, tuning.disk(counts, params["sft"], downloads))
        parts += [shown, page.positions(trained, asked), taken]
        assert counts.rates is not None
        nodes, imported = 1 if limits is None else limits.sft_nodes, _imported(context.store, sources)
        items = [(source, _items(imported, source)) for source in sources]
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
        lines = _lines(item for item in lost if item.protocol in found)
        problem = f"{', '.join(found.values())} cannot be asked (max_failed_items={params.max_failed_items:g}):"
        remedy = "fix or remove them, or raise params_dataset_import.max_failed_items"
        shown = "".join(f"\n    {line}" for line in shortened(context.store, context.task, lines))
        raise DataError(problem + shown, source="benchmarks", remedy=remedy)
    digests = [[source.protocol, source.digest] for source in sources]
    return sha256(canonical_json(digests)), page.benchmarks(sources, lost, _kept(context, lost)), sources


def _samples(sets: Sequence[PriorSet]) -> list[Text]:
    """Return the samples of prior sets, those of several once."""
    found: dict[str, Text] = {}
    for line in (line for one in sets for line in one.lines):
        video, sample = line.video, line.sample
        shown = Shown.of(video, len(video.times))
        found[sample.id] = Text(video.id, shown, seeing.read_of(sample), sample.response, sample.weight)
    return list(found.values())


def _imported(store: Store, sources: Sequence[Source]) -> Known:
    """Return which files of these sources are imported."""
    return Known(store, "dataset_import", [index_key(declared("dataset_import"), sources)])


def _items(imported: Known, source: Source) -> list[tuple[Row, Text]]:
    """Return the items of a benchmark; clips that are imported are known."""

    def shown(video: SourceVideo) -> Shown | None:
        entry = imported.entry(file_key(declared("dataset_import"), video.reads(source.root)))
        if entry is None:
            return None
        try:
            clip = clip_of(entry, video.part, "dataset_import", video.path)
        except DataError:  # such a clip is left out by the import
            return None
        return Shown.of(clip, len(clip.times))

    videos = [video for video in source.videos if video.file is not None]
    with ThreadPoolExecutor(LOOKUPS) as pool:
        known = list(pool.map(shown, videos))
    pairs = zip(videos, known, strict=True)
    named = ((source.unit(video.path), found, row) for video, found in pairs for row in video.rows)
    return [(row, Text(name, found, seeing.read_of(row))) for name, found, row in named]


def _kept(context: Context[StepParams, Any], lost: Sequence[Lost]) -> str:
    """Write what is lost into the store where it is too long for a page; return where, or nothing."""
    return write_list(context.store, context.task, _lines(lost)) if len(lost) > SHOWN else ""


def _lines(lost: Iterable[Lost]) -> list[str]:
    return [f"{item.unit}: {item.reason}" for item in lost]


def _named(row: Row) -> str:
    """Return what the page calls a row's text."""
    return f"{row.uid} ({row.where})"


def _counts(context: Context[StepParams, Any], model: ResolvedModel, params: Any) -> tuning.Counts:
    """Return the model's counts, remembered: the imports that build it take most of a plan's time."""
    settings = params.model_dump(mode="json", include={"tuning", "train", "lora_rank", "lora_targets"})
    reads: Json = {"model": model.id.digest, "params_sft": settings}
    key = sha256(canonical_json(reads))[:32]
    entry = context.store.entry("plan", key, miss_if_damaged=True)
    if entry is not None and (known := tuning.Counts.read(entry.numbers)) is not None:
        return known
    counts = tuning.count(model.path, params)
    context.work(key).finish(model.id.name, reads, asdict(counts))
    return counts


def _joined(sources: Sequence[Source]) -> list[tuple[Source, SourceVideo]]:
    """Return the videos of all sources with the source that names them first, a file that several name once."""
    found: dict[str, tuple[Source, SourceVideo]] = {}
    for source in sources:
        for video in source.videos:
            first, known = found.get(address := f"{source.root}/{video.path}", (source, replace(video, rows=())))
            found[address] = (first, replace(known, rows=(*known.rows, *video.rows)))
    return list(found.values())


@dataclass(frozen=True)
class _Reading:
    """A text as the video model reads it: its tokens, the characters that none stands for, and all characters."""

    tokens: int
    unread: int
    characters: int


@dataclass(frozen=True)
class _Statistics:
    """The statistics of captures, read anew each time."""

    known: Known
    keys: Sequence[str]
    readers: int

    def __iter__(self) -> Iterator[HeadStatistics]:
        from components.head_selection.scores import HeadStatistics
        from components.store.tensors import unpack

        for sample, data in self.known.files("statistics", self.keys, self.readers):
            yield HeadStatistics.from_tensors(unpack(data), sample)


class _Extraction:
    """What the steps up to token_selection will do with the sources."""

    def __init__(
        self,
        context: Context[StepParams, Any],
        shared: MotionPriors,
        params: Mapping[str, Any],
        model: ResolvedModel,
        counted: Counted | None = None,
    ) -> None:
        self.context, self.shared, self.store = context, shared, context.store
        self.params, self.model, self.counted = params, model, counted
        if params["attention_capture"].keep == "selected":
            check_selection(params["attention_capture"].selection, params["head_selection"], shared.head_ratio)
        given = params["dataset_import"]
        instructions, patience = given.template_instructions, self.store.patience
        self.sources = read_training(shared.source, given.layout, instructions, patience)
        self.videos = _joined(self.sources)
        self.known: dict[str, Known] = {}
        self.steps: list[StepEstimate] = []
        self.whole: list[StepEstimate] = []  # as if nothing were remembered
        self.texts: list[Text] = []  # samples that the VLM is trained on
        self.members = Members(context.store, params["token_selection"].ensemble_with, member_reads)
        self.lacking = Counter[str]()  # samples that the ensemble's other selections have not, by digest
        self.readings: dict[str, _Reading] = {}  # by the row's name; without texts that conditioning refuses

    def forecast(self) -> str:
        """Return the page's part about them."""
        inversion, capture = self.params["ddim_inversion"], self.params["attention_capture"]
        family = family_of(self.model.path)
        family.check(inversion.num_frames)
        self._read_texts(family)
        for step in ("dataset_import", "ddim_inversion", "attention_capture"):
            self.known[step] = self._known(step)
        with ThreadPoolExecutor(LOOKUPS) as pool:
            looked = list(track(pool.map(self._planned, self.videos), STEP.title, len(self.videos)))
        videos = [video for video in looked if video is not None]
        for (_, named), found in zip(self.videos, looked, strict=True):
            if found is not None and family.frames.largest(min(found.frames, inversion.num_frames)):
                clip = found.name, found.shown
                self.texts += [Text(*clip, seeing.read_of(row), row.response, row.weight) for row in named.rows]
        held = [video for video in videos if family.frames.largest(min(video.frames, inversion.num_frames))]
        files = {(one.root, file.path): file.size for one, video in self.videos if (file := video.file)}
        taken = sum(files.values())
        self.lacking = Counter(digest for one in held for name in one.samples for digest in self.members.lacking(name))
        args = inversion, capture, self.shared
        selected = self._selected(held)
        if self.counted is not None:
            self.whole = estimate(self.model.path, [fresh(video) for video in videos], *args, None)
            videos = [self._marked(*named, found) for named, found in zip(self.videos, looked, strict=True) if found]
        self.steps = estimate(self.model.path, videos, *args, selected, taken)
        missing, repeated = ([item for one in self.sources for item in find(one)] for find in (lost_in, repeated_in))
        lost = [*missing, *page.unfit(videos, family.frames), *repeated]
        size = inversion.num_frames, inversion.height, inversion.width
        if unlike := unlike_training(family.sizes(self.model.path), self.model.id.name, *size):
            log.warning("%s", unlike)
        return page.extraction(self.sources, self.steps, unlike, lost, _kept(self.context, lost), self._texts())

    def tasks(self) -> list[Task]:
        """Return what the steps on a GPU take in the pods of this run."""
        return [
            Task(one.step, "shard", one.hours, len(self.shared.shards), one.to_compute, peak=one.peak)
            for one in self.steps
            if one.hours is not None
        ]

    def kept(self, priors: bool) -> float:
        """Return the bytes of maps and, if they are new, of priors that are to be written."""
        capture, selection = self.steps[2:]
        count = (capture.remembered or 0) + capture.to_compute
        maps = (capture.stored_bytes or 0.0) * capture.to_compute / max(1, count)
        return maps + (selection.stored_bytes or 0.0) * priors

    def _marked(self, source: Source, video: SourceVideo, found: PlannedVideo) -> PlannedVideo:
        """Return a video with what earlier variants do for it. What it is called tells it from others before import."""
        assert self.counted is not None
        imported = video.reads(source.root)
        name = sha256(canonical_json([imported, video.part]))
        trajectory, captured = self._key("ddim_inversion", {"video": name}), []
        for sample in [row.sample(name) for row in video.rows]:
            try:
                captured.append(self._key("attention_capture", reads(trajectory, sample, self.shared.text)))
            except DataError:  # raised by the step itself, with the sample's name
                captured.append(sample.id)
        return self.counted.mark(found, imported, trajectory, captured)

    def _read_texts(self, family: VideoFamily) -> None:
        """Read every text with the video model's tokenizer."""
        tokenizer, length = family.tokenizer(self.model.path), family.sizes(self.model.path).text_tokens
        for row in (row for _, video in self.videos for row in video.rows):
            try:
                text, _ = conditioning(row.sample(NO_VIDEO), self.shared.text)
            except DataError:  # raised by the step itself, with the sample's name
                continue
            pieces = family.pieces(tokenizer, text, length)
            self.readings[_named(row)] = _Reading(sum(one.known for one in pieces), *unread_characters(pieces))

    def _tokens(self, row: Row) -> int:
        """Return how many tokens carry a row's text; 0 of one that is refused."""
        return self.readings[name].tokens if (name := _named(row)) in self.readings else 0

    def _texts(self) -> page.Texts:
        """Return how many texts the video model cannot read."""
        most = self.params["attention_capture"].max_unreadable
        shares = {name: one.unread / max(1, one.characters) for name, one in self.readings.items()}
        worst = sorted((name for name, share in shares.items() if share > most), key=lambda name: (-shares[name], name))
        return page.Texts(len(shares), sum(0 < share <= most for share in shares.values()), worst)

    def _planned(self, named: tuple[Source, SourceVideo]) -> PlannedVideo | None:
        """Return what is known of a video without decoding it: from its remembered import, else from its header."""
        source, video = named
        if video.file is None:
            return None
        name, address = source.unit(video.path), video.reads(source.root)
        tokens = [self._tokens(row) for row in video.rows]
        entry = self.known["dataset_import"].entry(file_key(declared("dataset_import"), address))
        if entry is None:
            shown, problem = self._header(source, video, address)
            return PlannedVideo(name, shown.frames if shown else 0, tokens, problem=problem, shown=shown)
        try:
            clip = clip_of(entry, video.part, "dataset_import", name)
        except DataError as error:
            return PlannedVideo(name, 0, tokens, problem=error.problem)
        if clip.kind == "image":
            return PlannedVideo(name, 0, tokens, problem=NO_MOTION)
        digest = clip.id
        trajectory = self._key("ddim_inversion", {"video": digest})
        captured: list[str] = []
        samples = [row.sample(digest) for row in video.rows]
        for sample in samples:
            try:
                conditioning(sample, self.shared.text)
            except DataError:  # raised by the step itself, with the sample's name
                captured.append("")
                continue
            key = self._key("attention_capture", reads(trajectory, sample, self.shared.text))
            captured.append(key if key in self.known["attention_capture"] else "")
        inverted = trajectory in self.known["ddim_inversion"]
        shown = Shown.of(clip, len(clip.times))
        names = [sample.id for sample in samples]
        return PlannedVideo(name, shown.frames, tokens, True, inverted, captured, names, shown=shown)

    def _key(self, name: str, reads: Json) -> str:
        step = declared(name)
        models = {"vdm": self.model.id} if name in ("ddim_inversion", "attention_capture") else {}
        if name == "token_selection":
            models = self.members.models
        return step.key(self.params[name], step.shared_result(self.shared), models, reads)

    def _known(self, step: str) -> Known:
        """Return what is remembered of a step, with the copies that its tasks of this run keep."""
        if step == "dataset_import":
            return _imported(self.store, self.sources)
        scopes: list[Json] = [{"shard": shard} for shard in self.shared.shards]
        return Known(self.store, step, [self._key(step, {"scope": scope}) for scope in scopes])

    def _selected(self, videos: list[PlannedVideo]) -> int | None:
        """Count samples whose token selection is remembered, for the heads that the stored statistics choose.

        None where a sample is not captured yet.
        """
        captured = [key for video in videos for key in (video.captured if video.imported else [""])]
        samples = [name for video in videos for name in video.samples]
        if not captured or not all(captured):
            return None
        try:
            chosen = zip(samples, captured, self._heads(captured), strict=True)
            own = ((sample, {"attention": key, "heads": heads}) for sample, key, heads in chosen)
            there = ((sample, read) for sample, read in own if not self.members.lacking(sample))  # others are left out
            keys = [self._key("token_selection", unit_reads(read, self.members.of(sample))) for sample, read in there]
        except DataError:  # damage: the step that reads it raises this, with the rerun that computes it again
            return None
        known = self._known("token_selection")
        with ThreadPoolExecutor(LOOKUPS) as pool:
            return sum(pool.map(known.__contains__, keys))

    def _heads(self, captured: list[str]) -> Iterator[list[Head]]:
        """Yield each sample's heads as head_selection will choose them, or its capture has chosen them."""
        from components.head_selection.scores import choose_all

        params = self.params["head_selection"]
        if self.params["attention_capture"].keep == "selected":
            for entry in map(self.known["attention_capture"].entry, captured):
                assert entry is not None
                yield entry.numbers["heads"]
            return
        statistics = _Statistics(self.known["attention_capture"], captured, params.readers)
        for choice in choose_all(statistics, head_ratio=self.shared.head_ratio, **params.result()):
            yield choice.named

    def _header(self, source: Source, video: SourceVideo, reads: Json) -> tuple[Shown | None, str]:
        """Return what the container's header says, remembered; or None and why, not remembered.

        What lies in a zip file is unpacked for this.
        """
        from components.media.video import header

        assert video.file is not None
        key = sha256(canonical_json(reads))[:32]
        if (
            entry := self.store.entry("plan", key, miss_if_damaged=True)
        ) is not None and "duration" in entry.numbers:  # an older one has frames
            return Shown(**entry.numbers), ""
        # one of its own: threads cannot share the folder of its downloads
        backend, path = open_backend(source.root, self.store.patience), None
        try:
            with fetched(backend, video.file.path, video.files, self.store.patience) as path:
                found = header(path)
        except DataError as error:
            return None, error.problem.replace(str(path), video.path)
        if found.kind == "image":
            return None, NO_MOTION
        shown = Shown(found.num_frames, found.height, found.width, found.duration)
        self.context.work(key).finish(video.path, reads, asdict(shown))
        return shown, ""


class _Compared:
    """What every variant of a run adds to those before it."""

    def __init__(self, context: Context[StepParams, Any], shared: Ablations) -> None:
        self.context, self.shared = context, shared
        self.arms = arms(shared, context.step_params, shared.variants)
        self.baseline = baseline_of(shared.baseline, [arm.variant.name for arm in self.arms])
        self.hours = [Hours() for _ in self.arms]
        self.counted, self._tasks, self.texts = Counted(), list[Task](), list[list[Text]]()
        digests: dict[str, str] = {}
        pages, sizes = dict[str, str](), dict[str, list[int]]()
        for arm, hours in zip(self.arms, self.hours, strict=True):
            model = resolve(arm.shared.vdm, context.store)
            made = _Extraction(context, arm.shared, arm.params, model, self.counted)
            part = made.forecast()
            pages.setdefault(arm.shared.source, part)
            digests[arm.shared.source] = training_digest(made.sources)
            sizes[arm.shared.source] = [video.file.size for _, video in made.videos if video.file is not None]
            self._tasks += made.tasks()
            self.texts.append(made.texts)
            for column, new, whole in zip(COLUMNS, made.steps[1:3], made.whole[1:3], strict=False):
                hours.add(column, new.hours or 0.0, True)
                hours.add(column, (whole.hours or 0.0) - (new.hours or 0.0), False)
            hours.kept = made.kept(self.counted.first(["prior set", extracted(arm, model.id.digest)]))
        found = list(digests.values())
        self.source_digest = found[0] if len(found) == 1 else sha256(canonical_json(found))
        self.extraction = document(*pages.values())
        self.video_bytes = [size for each in sizes.values() for size in each]

    def tasks(self, items: Sequence[tuple[Source, list[tuple[Row, Text]]]], nodes: int) -> list[Task]:
        """Return what the tasks of all variants take, of the steps on a GPU, and count it."""
        trainings, evaluations = list[float](), list[float]()
        for arm, hours, texts in zip(self.arms, self.hours, self.texts, strict=True):
            model = resolve(arm.shared.vlm, self.context.store)
            counts = _counts(self.context, model, arm.params["sft"])
            assert counts.rates is not None
            vlm = seeing.Seeing(model.path, counts.rates)
            count = len(self.shared.seeds)
            attention, training = seeing.tuned(vlm, texts, arm.params, len(self.shared.shards), nodes)
            asked = [seeing.evaluated(vlm, *one, arm.params["benchmark_eval"]) for one in items]
            follows: Any = [*extracted(arm, resolve(arm.shared.vdm, self.context.store).id.digest), model.id.digest]
            follows = [*follows, arm.params["vlm_attention"].result()]
            if new := self.counted.first(["vlm_attention", follows]):
                self._tasks.append(attention)
            hours.add("training", attention.hours, new)
            own = [arm.shared.align_weight, *(arm.params[name].result() for name in ("leakage_check", "sft"))]
            if new := self.counted.first(["sft", follows, own]):
                trainings += [training.hours] * count
            hours.add("training", training.hours * count, new)
            how, sum_ = arm.params["benchmark_eval"].result(), sum(task.hours for task in asked)
            if new := self.counted.first(["untouched", model.id.digest, how]):
                self._tasks += asked
            hours.add("evaluation", sum_, new)
            if new := self.counted.first(["tuned", follows, own, how]):
                evaluations += [sum_] * count
            hours.add("evaluation", sum_ * count, new)
        each, units = self.shared.trial_shards, self.arms[0].params["sft"].global_batch
        way = f"a part for each training (--trial-shards {len(trainings)})" if len(trainings) > len(each) else ""
        return [
            *joined(self._tasks),
            Task("sft", "node", max(dealt(trainings, each)), nodes, units, at_most=True, way=way),
            Task("tuned_eval", "benchmark", max(dealt(evaluations, each)), 1, len(items), at_most=True, way=way),
        ]

    def table(self) -> str:
        """Return the page's part about the variants."""
        return comparison(list(zip(self.arms, self.hours, strict=True)), self.baseline, self.shared.seeds)


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
