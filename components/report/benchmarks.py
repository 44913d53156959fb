"""Section 9 of the report: both models on the same items, paired.

Differences carry a 95 % interval from a bootstrap over videos (questions of one video are not independent) and an exact
McNemar p; the paper's row stands beside them in grey, with the cells that its own tables put in doubt marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from components.core.artifacts import EvalResult, ItemResult
from components.core.records import sha256
from components.pages.charts import Dot, dot_plot
from components.pages.figures import NOTHING, probability, raw, signed
from components.pages.section import Section, film, question_card, shortened
from components.quality.measures import Estimate
from components.quality.statistics import (
    Interval,
    bootstrap,
    holm,
    mcnemar,
    minimal_detectable_difference,
    paired_bootstrap,
)
from components.report.material import Material, paper

Pair = tuple[ItemResult, ItemResult]


@dataclass(frozen=True)
class Row:
    """One line of a benchmark: both accuracies (percent) with intervals, their paired difference in points, p and parse failures."""

    name: str
    untouched: Estimate
    tuned: Estimate
    difference: Estimate
    p: float | None
    unparsed: tuple[int, int]


@dataclass(frozen=True)
class Comparison:
    """A benchmark answered by both models; `rows` are Overall, Average and the task types."""

    protocol: str
    title: str
    pairs: list[Pair]
    alone: int
    rows: list[Row]

    @property
    def overall(self) -> Estimate:
        """Difference over all items, in points."""
        return self.rows[0].difference

    @property
    def p(self) -> float:
        """Exact McNemar p over all items."""
        found = self.rows[0].p
        assert found is not None
        return found


def compare(untouched: EvalResult, tuned: EvalResult) -> Comparison | None:
    """Pair the items by sample; None where the two share no item."""
    after = {line.sample.id: line for line in tuned.lines}
    pairs = [(line, after[line.sample.id]) for line in untouched.lines if line.sample.id in after]
    if not pairs:
        return None
    alone = len(untouched.lines) + len(tuned.lines) - 2 * len(pairs)
    return Comparison(
        tuned.protocol, paper()["benchmarks"].get(tuned.protocol, tuned.protocol), pairs, alone, _rows(pairs)
    )


def _rows(pairs: Sequence[Pair]) -> list[Row]:
    """Overall, and where there are several task types their Average and each of them, with Holm-corrected p."""
    videos, types = [one.video.id for one, _ in pairs], [one.sample.question_type or "untyped" for one, _ in pairs]
    before, after = ([pair[side].correct for pair in pairs] for side in (0, 1))
    found = [
        bootstrap(before, videos, types),
        bootstrap(after, videos, types),
        paired_bootstrap(before, after, videos, types),
    ]
    names = sorted(set(types)) if len(set(types)) > 1 else []
    members = {name: [i for i, kind in enumerate(types) if kind == name] for name in names}
    adjusted = holm([mcnemar([before[i] for i in own], [after[i] for i in own]).p for own in members.values()])
    tests = dict(zip(names, adjusted, strict=True))

    def row(name: str, own: Sequence[int], intervals: Sequence[Interval], p: float | None) -> Row:
        many = len({videos[i] for i in own})
        before, after, change = (_percent(item, len(own), many) for item in intervals)
        unparsed = [sum(pairs[i][side].parsed == "" for i in own) for side in (0, 1)]
        return Row(name, before, after, change, p, (unparsed[0], unparsed[1]))

    every = range(len(pairs))
    rows = [row("Overall", every, [item.overall for item in found], mcnemar(before, after).p)]
    rows += [row("Average", every, [item.average for item in found], None)] if names else []
    return rows + [row(name, members[name], [item.by_type[name] for item in found], tests[name]) for name in names]


def _percent(item: Interval, n: int, videos: int) -> Estimate:
    if videos < 2:  # a bootstrap over one video has no width
        return Estimate(100 * item.value, None, None, n, videos)
    return Estimate(100 * item.value, 100 * item.low, 100 * item.high, n, videos)


def benchmarks(material: Material, comparisons: Sequence[Comparison], shown: int) -> Section:
    """Section 9."""
    name, title = "benchmarks", "Benchmarks"
    if not comparisons:
        return Section(name, title, "No benchmark was evaluated with both models.")
    lead = (
        "Both models answered the same questions, greedily; an unreadable reply counts as wrong. Intervals are 95 %, from a bootstrap over "
        "videos; p is exact McNemar, Holm-corrected over the task types."
    )
    return Section(name, title, lead, NOTHING.join(_benchmark(material, one, shown) for one in comparisons))


def _benchmark(material: Material, one: Comparison, shown: int) -> Markup:
    model = material.models["vlm"].name if "vlm" in material.models else ""
    paper_row = next((row for row in paper()["rows"] if (row["protocol"], row["model"]) == (one.protocol, model)), None)
    dots = [
        Dot(
            f"{row.name}",
            [(row.untouched.value, None, None, "grey"), (row.tuned.value, *_around(row), "c1")],
            f"{signed(row.difference.value)} {interval(row.difference)}, n = {row.difference.n}",
            row.name in ("Overall", "Average"),
        )
        for row in one.rows
    ]
    legend = [("untouched", "grey"), ("tuned, with the interval of the paired difference", "c1")]
    chart = dot_plot("Accuracy in percent, difference in points", dots, legend=legend, join=True)
    alone = raw(
        f'<p class="warning">{one.alone} items were answered by one model only and are left out of every number.</p>'
    )
    power = raw(f'<p class="caption">{escape(detectable(one))}</p>')
    body = chart + _table(one, paper_row) + power + (alone if one.alone else NOTHING)
    return raw(f"<h3>{escape(one.title)}</h3>") + body + _examples(material, one, shown)


def detectable(one: Comparison) -> str:
    """What this many questions can show: the difference that the paired test finds four times in five, with the design effect of videos."""
    n, e = len(one.pairs), one.overall
    discordant = sum(before.correct != after.correct for before, after in one.pairs) / n
    independent = (
        discordant - (e.value / 100) ** 2
    ) / n  # variance of the difference if every question had its own video
    if e.low is None or e.high is None or independent <= 0:
        return f"{n} questions are too few to say which difference they could show."
    clustered = ((e.high - e.low) / 100 / (2 * NormalDist().inv_cdf(0.975))) ** 2
    effect = max(1.0, clustered / independent)
    points = 100 * minimal_detectable_difference(n, discordant, design_effect=effect)
    seen = f"{n} questions, {discordant:.0%} judged differently, design effect {effect:.2f}"
    return f"{seen}: a difference of {points:.1f} points is found with 80 % power."


def interval(e: Estimate) -> str:
    """`[−1.0, +2.0]`, or why there is none."""
    return "(1 video: no interval)" if e.low is None or e.high is None else f"[{signed(e.low)}, {signed(e.high)}]"


def _around(row: Row) -> tuple[float | None, float | None]:
    """The difference's interval, drawn where the tuned model's dot is: it holds the untouched dot where it holds 0."""
    e = row.difference
    return (
        (None, None) if e.low is None or e.high is None else (row.untouched.value + e.low, row.untouched.value + e.high)
    )


def _cell(e: Estimate) -> str:
    return (
        f"{e.value:.1f}"
        if e.low is None or e.high is None
        else f"{e.value:.1f} <small>[{e.low:.1f}, {e.high:.1f}]</small>"
    )


def _table(one: Comparison, paper_row: dict[str, Any] | None) -> Markup:
    heads = ["", "n", "untouched", "tuned", "difference", "p", "unparsed", "paper"]
    notes: list[str] = []
    body = ""
    for row in one.rows:
        p = "" if row.p is None else probability(row.p).removeprefix("p = ").removeprefix("p ")
        cells = [
            escape(row.name),
            str(row.difference.n),
            _cell(row.untouched),
            _cell(row.tuned),
            f"{signed(row.difference.value)} <small>{interval(row.difference)}</small>",
            escape(p),
            f"{row.unparsed[0]} → {row.unparsed[1]}",
            _paper_cell(one.protocol, row.name, paper_row, notes),
        ]
        strong = " class=strong" if row.name in ("Overall", "Average") else ""
        body += (
            f"<tr{strong}>"
            + "".join(f"<td{' class=paper' if i == 7 else ''}>{cell}</td>" for i, cell in enumerate(cells))
            + "</tr>"
        )
    said = (
        "The paper has no row for this model and benchmark."
        if paper_row is None
        else f"Paper: {paper_row['label']}, untouched → tuned."
    )
    marks = "".join(f"<br>{'*' * (i + 1)} {escape(note)}." for i, note in enumerate(notes))
    head = "".join(f"<th>{text}</th>" for text in heads)
    return raw(
        f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div><p class="caption">{escape(said)}{marks}</p>'
    )


def _paper_cell(protocol: str, name: str, row: dict[str, Any] | None, notes: list[str]) -> str:
    """The paper's pair of numbers, with stars where its own tables cast doubt on it."""
    if row is None:
        return ""
    full = {long: short for short, long in paper()["types"].get(protocol, {}).items()}
    key = name if name in row["tuned"] else full.get(name, "")
    if key not in row["tuned"]:
        return ""
    stars = ""
    for flag, note in row["flags"].items():
        if flag in ("row", f"untouched.{key}", f"tuned.{key}"):
            if note not in notes:
                notes.append(note)
            stars += "*" * (notes.index(note) + 1)
    return f"{row['untouched'][key]:.1f} → {row['tuned'][key]:.1f}{stars}"


# wins and losses ------------------------------------------------------------------------------------------------------


def _examples(material: Material, one: Comparison, shown: int) -> Markup:
    """As many losses as wins, those with the smallest sha256(sample id)."""
    wins = [pair for pair in one.pairs if pair[1].correct and not pair[0].correct]
    losses = [pair for pair in one.pairs if pair[0].correct and not pair[1].correct]
    count = min(len(wins), len(losses), shown)
    head = f"<h4>{len(wins)} won, {len(losses)} lost of {len(one.pairs)} items</h4>"
    if not count:
        return raw(
            f'{head}<p class="absent">No examples: as many losses as wins are shown, and here one side has none.</p>'
        )
    cards = ""
    for i in range(count):
        for kind, pairs in (("won", wins), ("lost", losses)):
            cards += _card(material, kind, sorted(pairs, key=lambda pair: sha256(pair[0].sample.id.encode()))[i])
    return raw(f'{head}<div class="two">{cards}</div>')


def _card(material: Material, kind: str, pair: Pair) -> str:
    before, after = pair
    sample, video = after.sample, after.video
    chosen = [
        after.frames[i]
        for i in np.unique(np.linspace(0, len(after.frames) - 1, min(4, len(after.frames))).round().astype(int))
    ]
    replies = "".join(
        f"<p><b>{name}</b> <q>{escape(shortened(line.reply))}</q> → {escape(line.parsed) or 'unparsed'} {'✓' if line.correct else '✗'}</p>"
        for name, line in (("untouched", before), ("tuned", after))
    )
    return question_card(kind, sample, film(material.frames(video, chosen), chosen, 130), raw(replies))
