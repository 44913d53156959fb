"""The plan as Markdown, for the KFP UI and the terminal: what a run will compute and cost, and what it cannot use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from components.core.artifacts import PriorSet
from components.core.records import ModelId
from components.core.units import counted, readable_bytes, readable_hours
from components.dataset_import.sources import Source
from components.media.choices import PositionRule
from components.media.sampling import FrameCounts
from components.pages.markdown import Markdown, bullets, code, document, table, text
from components.plan.cost import Estimate, PlannedVideo, StepEstimate
from components.plan.run_size import ARGO, REMEDY, RunSize
from components.plan.tuning import Counts, Disk

_NAMED = 5  # texts that a warning names


@dataclass(frozen=True)
class Texts:
    """Texts of a source: all, those with characters that the video model cannot read, those with too many of them."""

    count: int
    partly: int
    unreadable: list[str]


def extraction(
    source: Source, found: Estimate, videos: Sequence[PlannedVideo], counts: FrameCounts, texts: Texts
) -> str:
    """Return what the steps up to token_selection will do with the source."""
    samples = sum(len(video.rows) for video in source.videos)
    peak = readable_bytes(found.peak_bytes)
    return document(
        f"{counted(len(source.videos), 'video')} with {counted(samples, 'sample')}, layout {code(source.layout)}.",
        table(("step", "remembered", "to compute", "A100 time", "bytes"), map(_step, found.steps)),
        f"Peak of what capture adds on the device: {peak}. A100 time at 184 TFLOP/s in bf16.",
        "## Unusable",
        bullets(_unusable(source, videos, counts)) or "Nothing, by the headers.",
        *_unreadable(texts),
        *_shared_questions(source),
    )


def _step(one: StepEstimate) -> tuple[object, ...]:
    known = one.remembered is not None
    stored = "the videos" if one.stored_bytes is None else readable_bytes(one.stored_bytes)
    return (
        one.step,
        one.remembered if known else "–",
        one.to_compute if known else f"≤ {one.to_compute:,}",
        "–" if one.hours is None else readable_hours(one.hours),
        f"{stored} (scratch)" if one.step == "ddim_inversion" else stored,
    )


def _unusable(source: Source, videos: Sequence[PlannedVideo], counts: FrameCounts) -> list[Markdown]:
    absent = [(video.path, "not in the source") for video in source.videos if video.file is None]
    rejected = [(row.unit, row.reason) for row in source.rejected]
    needed = f"by its header, {counts.fewest} are needed"
    unfit = [video for video in videos if not counts.largest(video.frames)]
    short = [(video.name, video.problem or f"{video.frames} frames {needed}") for video in unfit]
    return [Markdown(f"{code(name)}: {text(reason)}") for name, reason in (*absent, *rejected, *short)]


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


def prior_set(found: PriorSet) -> str:
    """Return what a given prior set holds."""
    videos = len({line.video.id for line in found.lines})
    return f"Prior set `sha256:{found.digest}`: {len(found.lines)} samples of {videos} videos."


def benchmarks(rows: Sequence[tuple[str, int, int, int]]) -> str:
    """Return the benchmarks: name, videos, items, and items whose answer is held out."""
    return document("## Benchmarks", table(("protocol", "videos", "items", "held out"), rows))


def positions(trained: PositionRule, asked: PositionRule) -> str:
    """Return a warning where a model would be evaluated under another rule of positions than it is trained under."""
    if trained == asked:
        return ""
    return (
        f"**Warning:** trained under the position rule {code(trained)}, evaluated under {code(asked)}: text behind a "
        "long clip lies elsewhere than in training (Qwen2.5-VL). Set `params_vlm_attention.viewing.positions` and "
        "`params_benchmark_eval.viewing.positions` to one rule."
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


def models(found: dict[str, ModelId]) -> str:
    """Return the models by role."""
    lines = [Markdown(f"{role}: {text(model.name)} {code(model.digest[:16])}") for role, model in sorted(found.items())]
    return document("## Models", bullets(lines))
