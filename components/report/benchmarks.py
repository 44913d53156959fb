"""Section 9 of the report: both models on the same items, paired.

Differences carry a 95 % interval from a bootstrap over videos (questions of one video are not independent) and an exact
McNemar p; the paper's row stands beside them in grey, with the cells that its own tables put in doubt marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from components.benchmark_eval.controls import TITLES
from components.benchmarks.interface import Benchmark, PaperRow, get_benchmark
from components.core.artifacts import EvalResult, ItemResult
from components.core.records import sha256
from components.core.units import probability, signed
from components.media.sampling import spread
from components.pages.charts import Dot, dot_plot
from components.pages.figures import NOTHING, raw
from components.pages.page import Section, absent, caption, film, html_table, question_card, shortened
from components.quality.statistics import Z_95, Estimate, holm, mcnemar, minimal_detectable_difference
from components.report.material import Material

Pair = tuple[ItemResult, ItemResult]


@dataclass(frozen=True)
class Row:
    """One line of a benchmark: both accuracies (percent), their paired difference (points), p and parse failures."""

    name: str
    untouched: Estimate
    tuned: Estimate
    difference: Estimate
    p: float | None
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
        """Return the exact McNemar p over all items."""
        found = self.rows[0].p
        assert found is not None
        return found


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
    """Return the metrics, and where there are several task types each of them, with Holm-corrected p."""
    videos, types = [one.video.id for one, _ in pairs], [one.sample.question_type or "untyped" for one, _ in pairs]
    before, after = ([pair[side].correct for pair in pairs] for side in (0, 1))
    change = [b - a for a, b in zip(before, after, strict=True)]
    measured = [benchmark.measure(values, videos, types) for values in (before, after, change)]
    several = len(set(types)) > 1

    def test(own: Sequence[int]) -> float:
        return mcnemar([before[i] for i in own], [after[i] for i in own])

    def row(name: str, own: Sequence[int], p: float | None, is_total: bool) -> Row:
        unparsed = tuple(sum(not pairs[i][side].parsed for i in own) for side in (0, 1))
        untouched, tuned, difference = ((totals if is_total else kinds)[name].percent for totals, kinds in measured)
        return Row(name, untouched, tuned, difference, p, unparsed, is_total)

    rows = []
    for metric in benchmark.metrics:
        mean_of_types = metric.kind == "macro"
        if metric.name in measured[0][0] and (several or not mean_of_types):
            own = benchmark.members(metric, types)
            rows.append(row(metric.name, own, None if mean_of_types else test(own), is_total=True))
    if several:
        members = {name: [i for i, kind in enumerate(types) if kind == name] for name in measured[0][1]}
        adjusted = holm([test(own) for own in members.values()])
        rows += [row(name, members[name], p, is_total=False) for name, p in zip(members, adjusted, strict=True)]
    return rows


def benchmarks(material: Material, comparisons: Sequence[Comparison], shown: int) -> Section:
    """Return section 9."""
    if not comparisons:
        return Section("benchmarks", "Benchmarks", "No benchmark was evaluated with both models.")
    lead = (
        "Both models answered the same questions, greedily; an unreadable reply counts as wrong. Intervals are 95 %, "
        "from a bootstrap over videos; p is exact McNemar, Holm-corrected over the task types."
    )
    body = NOTHING.join(_benchmark(material, one, shown) for one in comparisons)
    return Section("benchmarks", "Benchmarks", lead, body)


def _benchmark(material: Material, one: Comparison, shown: int) -> Markup:
    model = material.models["vlm"].name if "vlm" in material.models else ""
    paper = next((row for row in one.benchmark.paper if row.label.lower() == model), None)
    legend = [("untouched", "grey"), ("tuned, with the interval of the paired difference", "c1")]
    dots = [_dot(row) for row in one.rows]
    chart = dot_plot("Accuracy in percent, difference in points", dots, legend=legend, join=True)
    asked = material.provenance.get("baseline_eval")
    control = TITLES.get(asked.params.get("control", "none")) if asked else None
    body = (
        raw("<h3>{}</h3>").format(" · ".join(filter(None, [one.benchmark.title, control])))
        + chart
        + _table(one, paper)
        + caption(detectable(one))
    )
    if one.alone:
        alone = f"{one.alone} items were answered by one model only and are left out of every number."
        body += raw(f'<p class="warning">{alone}</p>')
    return body + _examples(material, one, shown)


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
    if e.low is None or e.high is None or independent <= 0:
        return f"{n} questions are too few to say which difference they could show."
    clustered = ((e.high - e.low) / 100 / (2 * Z_95)) ** 2
    effect = max(1.0, clustered / independent)
    points = 100 * minimal_detectable_difference(n, discordant, design_effect=effect)
    seen = f"{n} questions, {discordant:.0%} judged differently, design effect {effect:.2f}"
    return f"{seen}: a difference of {points:.1f} points is found with 80 % power."


def interval(e: Estimate) -> str:
    """Return `[−1.0, +2.0]`, or why there is none."""
    return "(1 video: no interval)" if e.low is None or e.high is None else f"[{signed(e.low)}, {signed(e.high)}]"


def _cell(text: str, between: str) -> Markup:
    return raw("{} <small>{}</small>").format(text, between) if between else escape(text)


def _accuracy(e: Estimate) -> Markup:
    return _cell(f"{e.value:.1f}", "" if e.low is None or e.high is None else f"[{e.low:.1f}, {e.high:.1f}]")


def _table(one: Comparison, paper: PaperRow | None) -> Markup:
    notes: list[str] = []
    rows = [
        (
            row.name,
            row.difference.n,
            _accuracy(row.untouched),
            _accuracy(row.tuned),
            _cell(signed(row.difference.value), interval(row.difference)),
            "" if row.p is None else probability(row.p).removeprefix("p = ").removeprefix("p "),
            f"{row.unparsed[0]} → {row.unparsed[1]}",
            "" if paper is None else _paper_cell(one.benchmark, row.name, paper, notes),
        )
        for row in one.rows
    ]
    head = ("", "n", "untouched", "tuned", "difference", "p", "unparsed", "paper")
    said = "The paper has no row for this model and benchmark."
    if paper is not None:
        said = f"Paper: {paper.label}, untouched → tuned."
    marks = [f"{'*' * i} {note}." for i, note in enumerate(notes, start=1)]
    scrolled = raw('<div class="scroll">{}</div>').format(html_table(head, rows, sum(row.is_total for row in one.rows)))
    return scrolled + caption(raw("<br>").join([said, *marks]))


def _paper_cell(benchmark: Benchmark, name: str, row: PaperRow, notes: list[str]) -> Markup:
    """Return the paper's pair of numbers, with stars where its own tables cast doubt on it."""
    key = name if name in row.tuned else benchmark.types.get(name, "")
    if key not in row.tuned:
        return NOTHING
    doubts = [note for flag, note in row.flags.items() if flag in ("row", f"untouched.{key}", f"tuned.{key}")]
    notes += [note for note in dict.fromkeys(doubts) if note not in notes]
    stars = "".join("*" * (notes.index(note) + 1) for note in doubts)
    return raw('<span class="paper">{}</span>').format(f"{row.untouched[key]:.1f} → {row.tuned[key]:.1f}{stars}")


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
