"""The report: the verdict, all sections in their order, and the page cut down until it fits a size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from components.core.records import Json, ModelId, StepRecord
from components.core.units import bare_probability, parameter, probability, signed
from components.models.registry import TINY
from components.pages.charts import Dot, dot_plot
from components.pages.estimates import interval
from components.pages.figures import NOTHING, code, raw
from components.pages.leakage import leakage_line
from components.pages.markdown import document, table, text
from components.pages.page import Section, fact_list
from components.pages.provenance import left_out
from components.quality.measures import Quality
from components.report.benchmarks import Comparison, benchmarks, compare
from components.report.clips import heads, idea, motion_words, reconstruction
from components.report.material import Material, shipped
from components.report.provenance import leakage, provenance
from components.report.quality import pointing_game, prior_quality, quality_table
from components.report.vlm import token_map, training

_LONG = 2  # benchmarks whose whole outcomes fit into one sentence
_ROLES = {"vdm": "video model", "vlm": "vision-language model"}


@dataclass(frozen=True)
class Findings:
    """What is computed once and drawn in every cut of the page; `pictured` are the ids of the whole page's samples."""

    quality: Quality
    comparisons: list[Comparison]
    bench: list[Json]
    pictured: list[str] = field(default_factory=list)


def comparisons(material: Material) -> list[Comparison]:
    """Compare both models on each benchmark that both answered."""
    both = [name for name in sorted(material.tuned) if name in material.untouched]
    return [one for name in both if (one := compare(material.untouched[name], material.tuned[name])) is not None]


def sentence(material: Material, comparisons: Sequence[Comparison]) -> str:
    """Return the run's outcome in one sentence; of many benchmarks the intervals stand in the chart below it."""
    found = "; ".join(map(_outcome, comparisons))
    if len(comparisons) > _LONG:
        each = (f"{one.benchmark.title} {signed(one.overall.value)} ({probability(one.p)})" for one in comparisons)
        found = f"Tuned − untouched, in points: {', '.join(each)}"
    found = found or "No benchmark was evaluated with both models"
    if tiny := sorted({model.name for model in material.models.values() if model.name in TINY}):
        items = sum(one.overall.n for one in comparisons)
        return f"Plumbing only: random weights ({', '.join(tiny)}), {items} items. {found}."
    return found + "."


def _outcome(one: Comparison) -> str:
    e, (before, after) = one.overall, (one.rows[0].untouched.value, one.rows[0].tuned.value)
    models = f"{before:.1f} % right untouched, {after:.1f} % tuned"
    return f"{one.benchmark.title}: {models}: {signed(e.value)} points {interval(e)}, {probability(one.p)}, {e.n} items"


def verdict(material: Material, comparisons: Sequence[Comparison]) -> Section:
    """Return the sentence, all benchmarks' differences, models, the data's digest, and what differs from the paper."""
    dots = []
    for one in comparisons:
        e = one.overall
        note = f"{signed(e.value)} {interval(e)}, n = {e.n}"
        dots.append(Dot(one.benchmark.title, [(e.value, e.low, e.high, "c1")], note, True))
    titles = [one.benchmark.title for one in comparisons]
    title = "tuned − untouched, points, 95 % interval over videos"
    forest = dot_plot(title, dots, reference=0.0, label=max(140, 14 + 8 * max(map(len, titles)))) if dots else NOTHING
    named = raw("{} {}").format
    facts = [
        (_ROLES.get(role, role), named(one.name, code(one.digest[:12])))
        for role, one in sorted(material.models.items())
    ]
    priors = code(f"sha256:{material.digests['prior set'][:16]}…")
    facts.append(("prior set", raw("{} samples {}").format(len(material.priors.lines), priors)))
    facts.append(("leakage", raw("{}").format(leakage_line(material.model.leakage))))
    differs = NOTHING.join(raw("<li>{}</li>").format(item) for item in deviations(material.provenance, material.models))
    preset = raw("<ul>{}</ul>").format(differs) if differs else raw("none: the paper's setting")
    body = forest + fact_list([*facts, ("differs from the paper in", preset)])
    return Section("verdict", "Verdict", sentence(material, comparisons), body)


def deviations(provenance: dict[str, StepRecord], models: dict[str, ModelId]) -> list[Markup]:
    """Return where the recorded parameters differ from the paper's; only what was recorded is judged."""
    preset, found = shipped("paper_preset.json"), []
    for role in ("vdm", "vlm"):
        if role in models and (name := models[role].name) not in preset[role]:
            found.append(raw("{}: {} (paper: {})").format(role, code(name), " or ".join(preset[role])))
    scalars = {name: value for _, record in sorted(provenance.items()) for name, value in record.scalars.items()}
    judged = [("", scalars, preset["scalars"])]
    judged += [
        (f"{task}.", provenance[task].params, values) for task, values in preset["params"].items() if task in provenance
    ]
    for task, given, values in judged:
        for name, value in values.items():
            if name in given and given[name] != value:
                parts = code(f"{task}{name}"), parameter(given[name]), parameter(value)
                found.append(raw("{} = {} (paper: {})").format(*parts))
    return found


def build(material: Material, findings: Findings, shown: int) -> list[Section]:
    """Return the sections in their order, with `shown` pictured samples."""
    lines = material.order[:shown]
    return [
        verdict(material, findings.comparisons),
        idea(material, lines),
        reconstruction(material, lines),
        heads(material, lines),
        motion_words(material, lines),
        prior_quality(material, findings.quality, findings.bench, findings.pictured),
        token_map(material, [line.sample.id for line in lines]),
        training(material),
        benchmarks(material, findings.comparisons, max(1, shown // 2)),
        leakage(material),
        left_out(material.left_out),
        provenance(material),
    ]


def summary(material: Material, findings: Findings, path: str) -> str:
    """Return the verdict, every benchmark and the prior's quality as tables, and the whole page's path, in Markdown."""
    blocks = ["# Report", text(sentence(material, findings.comparisons))]
    for one in findings.comparisons:
        rows = []
        for row in one.rows:
            accuracies, change = (f"{row.untouched.value:.1f}", f"{row.tuned.value:.1f}"), row.difference
            difference, unparsed = f"{signed(change.value)} {interval(change)}", " → ".join(map(str, row.unparsed))
            p = bare_probability(row.p)
            rows.append((row.name, change.n, *accuracies, difference, p, unparsed))
        head = ("", "n", "untouched", "tuned", "difference", "p", "unparsed")
        blocks += [f"## {text(one.benchmark.title)}", table(head, rows)]
    if findings.quality.rows:
        blocks += [quality_table(findings.quality), pointing_game(findings.quality, findings.pictured)]
    return document(*blocks, f"The whole report: `{path}` in the store.")
