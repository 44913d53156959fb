"""The plan as Markdown, for the KFP UI and the terminal: what a run will compute and cost, and what it cannot use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import chain

from components.benchmarks.interface import get_benchmark
from components.core.artifacts import HeadSelection, PriorSet
from components.core.lines import position
from components.core.records import ModelId
from components.core.units import counted, readable_bytes, readable_hours
from components.dataset_import.checks import NAMES, Lost
from components.dataset_import.sources import Source
from components.media.choices import PositionRule
from components.media.sampling import FrameCounts
from components.pages.markdown import Markdown, bullets, code, document, table, text
from components.plan.cost import PlannedVideo, StepEstimate
from components.plan.limits import Limits, Load, Misfit, Task
from components.plan.run_size import ARGO, REMEDY, RunSize
from components.plan.tuning import Counts, Disk
from components.store.failures import SHOWN

SCRATCH = ("ddim_inversion",)  # steps whose files lie under the store's scratch/
_NAMED = 5  # texts that a warning names


@dataclass(frozen=True)
class Texts:
    """Texts of a source: all, those with characters that the video model cannot read, those with too many of them."""

    count: int
    partly: int
    unreadable: list[str]


def extraction(
    sources: Sequence[Source],
    found: Sequence[StepEstimate],
    unlike: str,
    lost: Sequence[Lost],
    list_at: str,
    texts: Texts,
) -> str:
    """Return what the steps up to token_selection will do with the sources; the file `list_at` has all that is lost.

    `unlike` says where the video model was not trained at the clips' size.
    """
    files, samples = sum(len(source.videos) for source in sources), sum(source.samples for source in sources)
    kinds = ", ".join(code(name) for name in dict.fromkeys(source.layout for source in sources))
    return document(
        f"{counted(files, 'video')} with {counted(samples, 'sample')}, layout {kinds}.",
        table(("step", "remembered", "to compute", "A100 time", "bytes"), map(_step, found)),
        f"A100 time at 184 TFLOP/s in bf16. {_kept(found)}",
        f"**Warning:** {text(unlike)}." if unlike else "",
        "## Sources",
        *_sources(sources),
        "## Unusable",
        bullets(_listing(lost, list_at)) or "Nothing, by the headers.",
        *_unreadable(texts),
        *(warning for source in sources for warning in _shared_questions(source)),
    )


def _sources(sources: Sequence[Source]) -> list[str]:
    """Return what each source gives: samples of all rows that its annotations have, and how often they are seen."""
    rows = [
        (one.name or "training", one.layout, len(one.videos), f"{one.samples:,} of {one.rows:,}", f"{one.weight:g}")
        for one in sources
    ]
    aside = [
        Markdown(f"{code(one.unit(kind))}: {text(why)}") for one in sources for kind, why in one.not_taken().items()
    ]
    facts = [line for one in sources for line in one.facts]
    return [table(("source", "layout", "videos", "samples of rows", "weight"), rows), bullets([*facts, *aside])]


def _kept(found: Sequence[StepEstimate]) -> str:
    """Return what the store holds at the end, scratch apart."""
    scratch = sum(one.stored_bytes or 0 for one in found if one.step in SCRATCH)
    kept = sum(one.stored_bytes or 0 for one in found) - scratch
    return f"The store takes {readable_bytes(kept)}, and {readable_bytes(scratch)} of scratch, which may be emptied."


def _step(one: StepEstimate) -> tuple[object, ...]:
    known = one.remembered is not None
    stored = readable_bytes(one.stored_bytes or 0)
    return (
        one.step,
        one.remembered if known else "–",
        one.to_compute if known else f"≤ {one.to_compute:,}",
        "–" if one.hours is None else readable_hours(one.hours),
        f"{stored} (scratch)" if one.step in SCRATCH else stored,
    )


def unfit(videos: Sequence[PlannedVideo], counts: FrameCounts) -> list[Lost]:
    """Return the videos that the video model cannot read, by their headers."""
    needed = f"by its header, {counts.fewest} are needed"
    bad = [video for video in videos if not counts.largest(video.frames)]
    return [Lost("video", "", video.name, video.problem or f"{video.frames} frames {needed}") for video in bad]


def _listing(lost: Sequence[Lost], list_at: str) -> list[Markdown]:
    """Return the first of each kind with their reasons, and how many more there are."""
    shown = []
    for kind, plural in NAMES.items():
        own = [item for item in lost if item.kind == kind]
        shown += [Markdown(f"{code(item.unit)}: {text(item.reason)}") for item in own[:SHOWN]]
        if (more := len(own) - SHOWN) > 0:
            shown.append(Markdown(f"… and {more:,} more {plural}, all in {code(list_at)}"))
    return shown


def _unreadable(texts: Texts) -> list[str]:
    """Return what the video model cannot read: its text encoder has no token for the characters."""
    found = []
    if texts.unreadable:
        named = ", ".join(code(name) for name in texts.unreadable[:_NAMED])
        more = f" and {len(texts.unreadable) - _NAMED} more" if len(texts.unreadable) > _NAMED else ""
        found.append(
            f"**Warning:** {len(texts.unreadable)} of {counted(texts.count, 'text')} will be left out: the video model "
            f"cannot read more than `params_attention_capture.max_unreadable` of their characters: {named}{more}. Give "
            "them in a language that it was trained on."
        )
    if texts.partly:
        found.append(f"{texts.partly} of {counted(texts.count, 'text')} have characters that it cannot read.")
    return found


def _shared_questions(source: Source) -> list[str]:
    """Return one warning per question that most videos share: it should be declared as an instruction."""
    if len(source.videos) < 20:
        return []
    asked = ({row.question for row in video.rows if not row.is_instruction} for video in source.videos)
    counts = Counter(chain.from_iterable(asked))
    return [
        f"**Warning:** {count} of {len(source.videos)} videos share the question {code(question)}; if it is an "
        "instruction, declare it in `params_dataset_import.template_instructions`."
        for question, count in counts.most_common(3)
        if question and count > len(source.videos) / 2
    ]


def ensemble(selections: Mapping[str, HeadSelection], lacking: Mapping[str, int]) -> str:
    """Return which head selections the priors are also made of, and how many of the imported samples each lacks."""
    if not selections:
        return ""
    models = {digest: one.provenance["attention_capture"].models["vdm"].name for digest, one in selections.items()}
    lines = [
        Markdown(f"{code(digest)}: {text(models[digest])}, {counted(len(one.lines), 'sample')}")
        for digest, one in selections.items()
    ]
    warnings = [
        f"**Warning:** {counted(count, 'sample')} will be left out: not in {code(digest)}, which "
        "`params_token_selection.ensemble_with` names. Extract the same source with that video model, too."
        for digest, count in lacking.items()
    ]
    return document("## Ensemble", "Maps are averaged with those of:", bullets(lines), *warnings)


def prior_sets(found: Sequence[PriorSet]) -> str:
    """Return what the given prior sets hold, and what they hold together."""
    lines = [f"Prior set `sha256:{one.digest}`: {_held([one])}." for one in found]
    together = f"Merged: {_held(found)}; a sample of several sets is taken once." if len(found) > 1 else ""
    return document(*lines, together)


def _held(sets: Sequence[PriorSet]) -> str:
    if len(sets) == 1:
        return f"{len(sets[0].lines)} samples of {sets[0].lines.videos} videos"
    places = {position(line) for one in sets for line in one.lines}
    return f"{len(places)} samples of {len({video for video, _ in places})} videos"


def benchmarks(sources: Sequence[Source], lost: Sequence[Lost], list_at: str) -> str:
    """Return the benchmarks: videos, items and those whose answer is held out, and what of them cannot be used."""
    rows = []
    for source in sources:
        items = [bool(row.answer) for video in source.videos for row in video.rows]
        kinds = Counter(item.kind for item in lost if item.protocol == source.protocol)
        there = (len(source.videos), get_benchmark(source.protocol).share(sum(items)), len(items) - sum(items))
        rows.append((source.protocol, *there, *(kinds[kind] for kind in NAMES)))
    head = ("protocol", "videos", "answered", "held out", *(name.split()[0] for name in NAMES.values()))
    return document("## Benchmarks", table(head, rows), bullets(_listing(lost, list_at)))


def positions(trained: PositionRule, asked: PositionRule) -> str:
    """Return a warning where a model would be evaluated under another rule of positions than it is trained under."""
    if trained == asked:
        return ""
    return (
        f"**Warning:** trained under the position rule {code(trained)}, evaluated under {code(asked)}: text behind a "
        "long clip (Qwen2.5-VL) or any (Qwen3-VL) lies elsewhere than in training. Set "
        "`params_vlm_attention.viewing.positions` and `params_benchmark_eval.viewing.positions` to one rule."
    )


def fine_tuning(counts: Counts, found: Disk) -> str:
    """Return what the fine-tuning trains, and what it takes of local disk and of the store."""
    where = "beside" if counts.adapters else "of"
    sizes = {
        "scratch (local disk) of a node, at most": found.scratch,
        "- a resume state on its way to the store": found.state,
        "- the best weights": found.best,
        "- the tuned model in bf16": found.model,
        "- videos": found.videos,
        "states in the store while it trains, at most": found.stored,
    }
    return document(
        "## Fine-tuning",
        f"{counts.trained:,} parameters are trained, {where} the model's {counts.all:,}.",
        table(("what it takes", "bytes"), [(name, readable_bytes(size)) for name, size in sizes.items() if size]),
        "Of n nodes each holds an n-th of a state.",
    )


def cluster(found: RunSize) -> str:
    """Return how large the run's record on a cluster becomes, and what that forbids."""
    limit = readable_bytes(ARGO)
    kept = f"Argo ends a run whose record is larger than {limit} compressed" if found.packed > ARGO else ""
    warning = f"{kept}. Take {REMEDY}." if kept else found.warning
    said = f"The record that Argo keeps of the run: {found} (of at most {limit})."
    return document("## On a cluster", said, f"**Warning:** {warning}" if warning else "")


def pods(tasks: Sequence[Task], limits: Limits | None, misfits: Sequence[Misfit]) -> str:
    """Return what each task takes in its pods, beside what these may take, and what of it does not fit."""
    if not tasks:
        return ""
    allowed = "No limits are known: this is no run on a cluster."
    if limits is not None:
        has = "" if limits.device is None else f", a GPU has {readable_bytes(limits.device)}"
        allowed = f"A try of a task may take {readable_hours(limits.timeout / 3600)}{has}."
    return document(
        "## Pods",
        table(
            ("task", "pods", "A100 time", "main memory", "GPU memory", "pictured"),
            [_unlimited(task) if limits is None else _limited(Load(task, limits)) for task in tasks],
        ),
        f"Of one pod, memory at its peak: tensors alone; pictured: of a pod that draws pictures. {allowed}",
        bullets([Markdown(f"**Warning:** {text(fault)}") for found in misfits for fault in found.faults]),
        *(text(f"What fits: {'; '.join(found.ways)}.") for found in misfits),
    )


def _unlimited(task: Task) -> tuple[object, ...]:
    peak = ("–",) * 3 if task.peak is None else map(readable_bytes, astuple(task.peak))
    return (task.name, f"{task.pods} × 1 GPU", _time(task, task.pod_hours(task.pods, 1)), *peak)


def _limited(load: Load) -> tuple[object, ...]:
    task, pod = load.task, load.pod
    here = f"{task.pods} × {counted(pod.gpus, 'GPU') if pod.gpus else 'CPU'}"
    if task.peak is None:
        return (task.name, here, _time(task, load.hours), "–", "–", "–")
    main = f"{readable_bytes(load.main)} of {readable_bytes(pod.memory)}"
    device = map(readable_bytes, (task.peak.device, task.peak.pictured)) if pod.gpus else ("–", "–")
    return (task.name, here, _time(task, load.hours), main, *device)


def _time(task: Task, hours: float) -> str:
    return f"{'≤ ' if task.at_most else ''}{readable_hours(hours)}"


def models(found: dict[str, ModelId]) -> str:
    """Return the models by role."""
    lines = [Markdown(f"{role}: {text(model.name)} {code(model.digest[:16])}") for role, model in sorted(found.items())]
    return document("## Models", bullets(lines))
