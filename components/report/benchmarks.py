"""Section 9 of the report: both models on the same items, paired, by each benchmark's own metrics and task types.

Intervals and p take into account that questions of one video are not independent; the paper's row stands beside them in
grey, with the cells that its own tables put in doubt marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup, escape

from components.benchmark_eval.controls import TITLES
from components.benchmarks.interface import Benchmark, PaperRow, Shown, get_benchmark
from components.core.artifacts import EvalResult, ItemResult
from components.core.records import sha256
from components.core.units import bare_probability, signed
from components.media.sampling import spread
from components.pages.charts import Dot, dot_plot
from components.pages.estimates import change_cell, interval, share_cell
from components.pages.figures import NOTHING, code, raw
from components.pages.page import Section, absent, caption, film, html_table, question_card, shortened
from components.pages.paper import Doubts, paper_pair, paper_row, paper_table
from components.quality.statistics import Estimate, Means, accuracy, difference, holm, minimal_detectable_difference
from components.report.material import Material
from components.report.replies import reply_tables

Pair = tuple[ItemResult, ItemResult]


@dataclass(frozen=True)
class Row:
    """One line of a benchmark: both accuracies (percent), their paired difference (points), p and parse failures.

    `key` is the metric's name or the task type's abbreviation, `name` what the page prints.
    """

    key: str
    name: str
    untouched: Estimate
    tuned: Estimate
    difference: Estimate
    p: float
    unparsed: tuple[int, ...]
    is_total: bool


@dataclass(frozen=True)
class Comparison:
    """A benchmark answered by both models; `rows` are its metrics, the first one over all items, and its task types."""

    benchmark: Benchmark
    pairs: list[Pair]
    alone: int
    rows: list[Row]

    @property
    def overall(self) -> Estimate:
        """Return the difference over all items, in points."""
        return self.rows[0].difference

    @property
    def p(self) -> float:
        """Return p over all items."""
        return self.rows[0].p


def compare(untouched: EvalResult, tuned: EvalResult) -> Comparison | None:
    """Pair the items by sample; None where the two share no item."""
    after = {line.sample.id: line for line in tuned.lines}
    pairs = [(line, after[line.sample.id]) for line in untouched.lines if line.sample.id in after]
    if not pairs:
        return None
    benchmark = get_benchmark(tuned.protocol)
    alone = len(untouched.lines) + len(tuned.lines) - 2 * len(pairs)
    return Comparison(benchmark, pairs, alone, _rows(benchmark, pairs))


def _rows(benchmark: Benchmark, pairs: Sequence[Pair]) -> list[Row]:
    """Return the metrics, and where there are several task types each that is not a metric, with Holm-corrected p."""
    videos = [one.video.file.sha256 for one, _ in pairs]
    types = [benchmark.task_type(one.sample.question_type, f"item {one.sample.uid}") for one, _ in pairs]
    before, after = ([pair[side].correct for pair in pairs] for side in (0, 1))

    def own(given: Sequence[bool] | Sequence[str], places: Sequence[int]) -> list[Any]:
        return [given[i] for i in places]

    def shares(right: Sequence[bool], at: Sequence[int]) -> Means:
        return accuracy(own(right, at), own(videos, at), own(types, at))

    def changes(at: Sequence[int]) -> Means:
        return difference(own(before, at), own(after, at), own(videos, at), own(types, at))

    measured = [
        benchmark.measure(means, types)
        for means in (lambda at: shares(before, at), lambda at: shares(after, at), changes)
    ]

    def row(shown: Shown) -> Row:
        unparsed = tuple(sum(not pairs[i][side].parsed for i in shown.places) for side in (0, 1))
        found = ((totals if shown.is_total else kinds)[shown.key].percent for totals, kinds in measured)
        untouched, tuned, change = found
        assert change.p is not None
        return Row(shown.key, shown.name, untouched, tuned, change, change.p, unparsed, shown.is_total)

    rows = [row(shown) for shown in benchmark.shown(types)]
    by_type = [one for one in rows if not one.is_total]
    adjusted = iter(holm([one.p for one in by_type]))
    return [one if one.is_total else replace(one, p=next(adjusted)) for one in rows]


def benchmarks(material: Material, comparisons: Sequence[Comparison], shown: int) -> Section:
    """Return section 9."""
    if not comparisons:
        return Section("benchmarks", "Benchmarks", "No benchmark was evaluated with both models.")
    lead = (
        "Both models answered the same questions, greedily; an unreadable reply counts as wrong. Intervals are 95 % "
        "each and allow for questions that share a video. p is of exchanging both models' answers to whole videos, "
        "Holm-corrected over the task types."
    )
    body = NOTHING.join(_benchmark(material, one, shown) for one in comparisons)
    return Section("benchmarks", "Benchmarks", lead, body)


def _benchmark(material: Material, one: Comparison, shown: int) -> Markup:
    model = material.models["vlm"].name if "vlm" in material.models else ""
    legend = [("untouched", "grey"), ("tuned, with the interval of the paired difference", "c1")]
    dots = [_dot(row) for row in one.rows]
    chart = dot_plot("Accuracy in percent, difference in points", dots, legend=legend, join=True)
    asked = material.provenance.get("baseline_eval")
    control = TITLES.get(asked.params.get("control", "none")) if asked else None
    title = " · ".join(filter(None, [one.benchmark.title, control, one.benchmark.share(len(one.pairs))]))
    table = _table(one, paper_row(one.benchmark, model))
    body = raw("<h3>{}</h3>").format(title) + chart + table + caption(detectable(one))
    if one.alone:
        alone = f"{one.alone} items were answered by one model only and are left out of every number."
        body += raw(f'<p class="warning">{alone}</p>')
    named = [
        (f"this run, {name}", {row.key: getattr(row, name).value for row in one.rows})
        for name in ("untouched", "tuned")
    ]
    before, after = zip(*one.pairs, strict=True)
    folded = reply_tables(before, after) + paper_table(one.benchmark, named)
    return body + folded + _examples(material, one, shown) + _digests(material, one)


def _digests(material: Material, one: Comparison) -> Markup:
    """Return the names of both results, for other tools."""
    digests = ((name, material.digests[f"{one.benchmark.name}, {name}"]) for name in ("untouched", "tuned"))
    found = raw(", ").join(raw("{} {}").format(name, code(f"sha256:{digest}")) for name, digest in digests)
    command = code("motion-enhancer export sha256:… DIR --format lmms-eval")
    return caption(raw("Every reply: {}. {} writes them for other tools.").format(found, command))


def _dot(row: Row) -> Dot:
    """Return both accuracies, the tuned one in the difference's interval: it holds the other one where it holds 0."""
    e, start = row.difference, row.untouched.value
    around = (None, None) if e.low is None or e.high is None else (start + e.low, start + e.high)
    label = f"{signed(e.value)} {interval(e)}, n = {e.n}"
    return Dot(row.name, [(start, None, None, "grey"), (row.tuned.value, *around, "c1")], label, row.is_total)


def detectable(one: Comparison) -> str:
    """Return what this many questions can show: the difference that the paired test finds four times in five.

    The design effect is the variance of the difference over videos, relative to questions that each have their own.
    """
    n, e = len(one.pairs), one.overall
    discordant = sum(before.correct != after.correct for before, after in one.pairs) / n
    independent = (discordant - (e.value / 100) ** 2) / n
    if e.error is None or independent <= 0:
        return f"{n} questions are too few to say which difference they could show."
    effect = max(1.0, (e.error / 100) ** 2 / independent)
    points = 100 * minimal_detectable_difference(n, discordant, design_effect=effect)
    seen = f"{n} questions, {discordant:.0%} judged differently, design effect {effect:.2f}"
    return f"{seen}: a difference of {points:.1f} points is found with 80 % power."


def _table(one: Comparison, paper: PaperRow | None) -> Markup:
    doubts = Doubts()
    rows = [
        (
            row.name,
            row.difference.n,
            share_cell(row.untouched),
            share_cell(row.tuned),
            change_cell(row.difference),
            bare_probability(row.p),
            f"{row.unparsed[0]} → {row.unparsed[1]}",
            NOTHING if paper is None else paper_pair(paper, row.key, doubts),
        )
        for row in one.rows
    ]
    head = ("", "n", "untouched", "tuned", "difference", "p", "unparsed", "paper")
    said = "The paper has no row for this model and benchmark."
    if paper is not None:
        sides = "untouched → tuned" if paper.tuned else "untouched"
        said = f"Paper: {paper.label}, {sides}."
    scrolled = raw('<div class="scroll">{}</div>').format(html_table(head, rows, sum(row.is_total for row in one.rows)))
    return scrolled + caption(raw("<br>").join([said, *doubts.lines]))


def _examples(material: Material, one: Comparison, shown: int) -> Markup:
    """Return as many losses as wins, those with the smallest sha256(sample id)."""
    ranked = sorted(one.pairs, key=lambda pair: sha256(pair[0].sample.id.encode()))
    wins, losses = ([pair for pair in ranked if pair[1].correct - pair[0].correct == change] for change in (1, -1))
    head = f"<h4>{len(wins)} won, {len(losses)} lost of {len(one.pairs)} items</h4>"
    if not (wins and losses and shown):
        return raw(head) + absent("No examples: as many losses as wins are shown, and here one side has none.")
    examples = list(zip(wins, losses, strict=False))[:shown]
    cards = "".join(_card(material, "won", won) + _card(material, "lost", lost) for won, lost in examples)
    return raw(f'{head}<div class="two">{cards}</div>')


def _card(material: Material, kind: str, pair: Pair) -> str:
    before, after = pair
    chosen = [after.frames[i] for i in spread(len(after.frames), min(4, len(after.frames)))]
    replies = "".join(
        f"<p><b>{name}</b> <q>{escape(shortened(line.reply))}</q> → {escape(line.parsed) or 'unparsed'} "
        f"{'✓' if line.correct else '✗'}</p>"
        for name, line in (("untouched", before), ("tuned", after))
    )
    frames = film(material.frames(after.video, chosen), chosen, 130) if chosen else absent("It was shown no video.")
    return question_card(kind, after.sample, frames, raw(replies))
