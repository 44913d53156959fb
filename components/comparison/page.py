"""The comparison page: every variant against the baseline, the paper's rows beside, priors over steps and ratios."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from markupsafe import Markup

from components.benchmarks.interface import get_benchmark
from components.comparison.compare import Comparison, Model, Row, Table, Value
from components.comparison.maps import Pictured, maps
from components.comparison.paper import MODEL, AblationTable, ablation_table
from components.core.records import Failure, Json, StepRecord
from components.core.units import counted, parameters, probability, signed
from components.models.registry import TINY
from components.pages.charts import Dot, dot_ends, dot_plot
from components.pages.estimates import change_cell, interval, share_cell
from components.pages.figures import NOTHING, code, raw
from components.pages.markdown import bullets, document, table, text
from components.pages.page import Section, absent, caption, fact_list, html_table, shortened
from components.pages.paper import Doubts
from components.pages.provenance import left_out, step_details
from components.pages.samples import Stored
from components.runtime.variants import UNTOUCHED

_LABEL = 26  # most characters of a model's name in a chart
_ALPHA = 0.05
_WIDTH = 460  # pixels of a chart


@dataclass(frozen=True)
class Material(Stored):
    """What the page shows.

    Attributes:
        comparison: all models on all benchmarks.
        changes: what each variant changes, by its name.
        samples: ids of the pictured samples.
        sets: the prior sets.
        models: the names of the models that took part, by role.
        left_out: units that were left out, each with the variants that lack it.
        digests: the manifests by what they are.
        provenance: how the steps of the first variant ran.
    """

    comparison: Comparison
    changes: Mapping[str, Json]
    samples: Sequence[str] = ()
    sets: Sequence[Pictured] = ()
    models: Mapping[str, Sequence[str]] = field(default_factory=dict)
    left_out: Mapping[Failure, Sequence[str]] = field(default_factory=dict)
    digests: Sequence[tuple[str, str]] = ()
    provenance: Mapping[str, StepRecord] = field(default_factory=dict)

    @cached_property
    def paper(self) -> AblationTable | None:
        """The paper's table that these variants repeat."""
        return ablation_table([model.name for model in self.comparison.models])


def build(material: Material, shown: int) -> list[Section]:
    """Return the sections in their order, with `shown` pictured samples."""
    return [
        verdict(material),
        variants(material),
        results(material),
        types(material),
        maps(material, material.samples[:shown], material.sets),
        _left_out(material),
        provenance(material),
    ]


# Sentences ------------------------------------------------------------------------------------------------------------


def headline(material: Material) -> str:
    """Return the outcome of the whole comparison in one sentence."""
    found = material.comparison
    against = "the untouched model" if found.baseline == UNTOUCHED else f"“{found.baseline}”"
    outcomes = "; ".join(f"{one.benchmark.title}: {_counted(one, found)}" for one in found.tables)
    corrected = f"p < {_ALPHA:g}, corrected for {counted(found.family, 'comparison')}"
    sentence = f"{counted(len(found.compared), 'model')} against {against} ({corrected}). {outcomes}."
    if tiny := sorted({name for names in material.models.values() for name in names} & {*TINY}):
        return f"Plumbing only: random weights ({', '.join(tiny)}). {sentence}"
    return sentence


def _counted(one: Table, found: Comparison) -> str:
    """Return how many models are better and how many worse than the baseline."""
    values = [one.primary[model.name] for model in found.compared]
    sure = [value.change.value for value in values if value.change and value.p is not None and value.p < _ALPHA]
    better = sum(change > 0 for change in sure)
    return f"{better} better, {len(sure) - better} worse, {len(values) - len(sure)} undecided"


def sentences(comparison: Comparison) -> list[tuple[str, str]]:
    """Return each compared model's name and outcome: on every benchmark difference, interval, p, items and seeds."""
    return [(model.name, _outcome(model, comparison)) for model in comparison.compared]


def _outcome(model: Model, comparison: Comparison) -> str:
    found = []
    for one in comparison.tables:
        value = one.primary[model.name]
        assert value.change is not None
        assert value.p is not None
        size = f"{counted(one.items, 'item')} of {counted(one.videos, 'video')}"
        change = f"{signed(value.change.value)} points {interval(value.change)}"
        found.append(f"{one.benchmark.title} {change}, {probability(value.p)}, {size}")
    seeds = f" ({counted(len(model.seeds), 'seed')})" if model.seeds else ""
    return f"{'; '.join(found)}{seeds}"


# Sections -------------------------------------------------------------------------------------------------------------


def verdict(material: Material) -> Section:
    """Return the headline, a chart of each benchmark's differences over all items, and a sentence per model."""
    found = material.comparison
    charts = [_chart(one, one.rows[0], found, one.benchmark.title) for one in found.tables]
    against = "the untouched model" if found.baseline == UNTOUCHED else code(found.baseline)
    note = raw(
        "Accuracy minus that of {}, points, over all items; 95 % interval over videos, single seeds as small dots."
    )
    facts = [(_short(name), outcome) for name, outcome in sentences(found)]
    facts += [(role, ", ".join(names)) for role, names in material.models.items()]
    body = raw("{}{}{}").format(_grid(charts), caption(note.format(against)), fact_list(facts))
    return Section("verdict", "Verdict", headline(material), body)


def variants(material: Material) -> Section:
    """Return what each variant changes, and its seeds."""
    seeds = {model.name: model.seeds for model in material.comparison.models}
    rows = [
        (code(name), _changes(changes), ", ".join(map(str, seeds.get(name, ()))))
        for name, changes in material.changes.items()
    ]
    lead = "Each variant is the run's own parameters with these changes; each is trained once with every seed."
    return Section("variants", "What each variant changes", lead, html_table(("variant", "changes", "seeds"), rows))


def _changes(changes: Json) -> Markup:
    found = [raw("{} = {}").format(code(name), value) for name, value in parameters(changes)]
    return raw(", ").join(found) or raw("nothing")


def results(material: Material) -> Section:
    """Return all models on all benchmarks' metrics: accuracy, difference, p, and the paper's own numbers."""
    found, doubts, paper = material.comparison, Doubts(), material.paper
    columns = [(one, row) for one in found.tables for row in one.rows if row.is_total]
    head = ["", *(f"{one.benchmark.title} {row.name}" for one, row in columns)]
    rows = []
    for model in found.models:
        about = [
            *(["baseline"] if model.against is None else []),
            *([counted(len(model.seeds), "seed")] if model.seeds else []),
        ]
        name = raw("{}<br><small>{}</small>").format(model.name, ", ".join(about))
        cells = [
            _cell(row, model.name) + _printed(paper, found.baseline, one, row, model.name, doubts)
            for one, row in columns
        ]
        rows.append((name, *cells))
    first = " and ".join(f"{one.rows[0].name} of {one.benchmark.title}" for one in found.tables)
    family = counted(found.family, "comparison")
    notes = [
        raw(
            "Each cell: accuracy in percent with its interval and ± its standard deviation over seeds; below it the "
            "difference to the baseline in points with its interval and p, bold where p < {}. p of {} is "
            "Holm-corrected for these {}; p of a benchmark's other metrics and types for all of them and all models."
        ).format(_ALPHA, first, family)
    ]
    if paper is not None:
        notes.append(
            raw('<span class="paper">In grey: the paper, {}, {}, and its difference.</span>').format(paper.title, MODEL)
        )
    body = raw('<div class="scroll cells">{}</div>').format(html_table(head, rows))
    body += caption(raw("<br>").join([*notes, *doubts.lines]))
    if paper is not None:
        body += _whole(paper, found.baseline)
    lead = (
        "Models in rows, the benchmarks' own metrics in columns. Intervals are 95 %, over videos, for the seeds that "
        "were trained; how much seeds differ is the number behind ±."
    )
    return Section("results", "Variants and benchmarks", lead, body)


def _cell(row: Row, model: str) -> Markup:
    value = row.values[model]
    spread = "" if value.spread is None else raw(" <small>± {}</small>").format(f"{value.spread:.1f}")
    lines = [share_cell(value.mean) + spread]
    if value.change is not None and value.p is not None:
        bold = raw("<b>{}</b>" if value.p < _ALPHA else "{}")
        lines += [bold.format(change_cell(value.change)), raw("<small>{}</small>").format(probability(value.p))]
    return raw("<br>").join(lines)


def _printed(paper: AblationTable | None, baseline: str, one: Table, row: Row, model: str, doubts: Doubts) -> Markup:
    """Return the paper's number of a model, with stars where it is in doubt, and its difference to the baseline's."""
    protocol = one.benchmark.name
    if paper is None or model not in paper.rows or row.key not in paper.rows[model].numbers.get(protocol, {}):
        return NOTHING
    printed = paper.rows[model]
    stars = doubts.stars(printed.flags, "row", protocol)
    change = ""
    if baseline in paper.rows and baseline != model:
        change = f" {signed(paper.differences(baseline)[model][protocol][row.key])}"
    return raw('<br><span class="paper">{}{}{}</span>').format(
        f"{printed.numbers[protocol][row.key]:.1f}", change, stars
    )


def _whole(paper: AblationTable, baseline: str) -> Markup:
    """Return the paper's table in its own order and words, behind a line that opens it."""
    doubts = Doubts()
    start = baseline if baseline in paper.rows else next(iter(paper.rows))
    changes = paper.differences(start)
    head = ["printed as", "variant"]
    head += [
        f"{get_benchmark(name).title} {metric}"
        for name, printed in paper.rows[start].numbers.items()
        for metric in printed
    ]
    rows = []
    for name, row in paper.rows.items():
        cells = [
            f"{value:.2f} ({signed(changes[name][protocol][metric], 2)}){doubts.stars(row.flags, protocol)}"
            for protocol, printed in row.numbers.items()
            for metric, value in printed.items()
        ]
        rows.append((f"{row.label}{doubts.stars(row.flags, 'row')}", code(name), *cells))
    shown = raw('<div class="scroll">{}</div>').format(html_table(head, rows))
    about = raw("Percent, in brackets the difference to {}.").format(code(start))
    summary = raw("<summary>the paper's whole table, {} rows</summary>").format(len(rows))
    return raw("<details>{}{}{}</details>").format(summary, shown, caption(raw("<br>").join([about, *doubts.lines])))


def types(material: Material) -> Section:
    """Return each benchmark's metrics and task types: differences as dots, every number behind a line."""
    found = material.comparison
    lead = (
        "Differences to the baseline in points, all charts of a benchmark on one scale: the mean over seeds with its "
        "95 % interval over videos, single seeds as small dots."
    )
    return Section("types", "Task types", lead, NOTHING.join(_benchmark(one, found) for one in found.tables))


def _benchmark(one: Table, found: Comparison) -> Markup:
    title = f"{one.benchmark.title} · {one.benchmark.share(one.items)} of {counted(one.videos, 'video')}"
    ends = dot_ends([dot for row in one.rows for dot in _dots(row, found)])
    charts = [_chart(one, row, found, row.name, (min(ends), max(ends)) if ends else None) for row in one.rows]
    numbers = [(row.name, model.name, *_numbers(row.values[model.name])) for row in one.rows for model in found.models]
    head = ("", "variant", "accuracy", "single seeds", "difference", "p")
    shown = raw('<div class="scroll">{}</div>').format(html_table(head, numbers))
    unread = ", ".join(f"{name} {share:.1%}" for name, share in one.unparsed.items())
    return raw("<h3>{}</h3>{}{}<details><summary>every number, {} rows</summary>{}</details>").format(
        title, _grid(charts), caption(f"Unreadable replies, counted as wrong: {unread}."), len(numbers), shown
    )


def _numbers(value: Value) -> tuple[object, ...]:
    seeds = ", ".join(f"{one:.1f}" for one in value.seeds)
    if value.change is None or value.p is None:
        return share_cell(value.mean), seeds, "baseline", ""
    return share_cell(value.mean), seeds, change_cell(value.change), _bare(value.p)


def _bare(p: float) -> str:
    return probability(p).removeprefix("p = ").removeprefix("p ")


def _chart(one: Table, row: Row, found: Comparison, title: str, span: tuple[float, float] | None = None) -> Markup:
    dots = _dots(row, found)
    if not dots:
        return absent(f"{one.benchmark.title}: nothing to compare with.")
    label = 22 + round(max(len(dot.name) * (8.0 if dot.strong else 7.2) for dot in dots))
    return dot_plot(title, dots, reference=0.0, label=label, note=58, width=_WIDTH, span=span)


def _dots(row: Row, found: Comparison) -> list[Dot]:
    """Return the differences of all compared models, and of each of their seeds."""
    dots = []
    for model in found.compared:
        value, base = row.values[model.name], row.values[str(model.against)].mean.value
        assert value.change is not None
        mark = (value.change.value, value.change.low, value.change.high, "c1" if model.seeds else "grey")
        seeds = [one - base for one in value.seeds] if len(value.seeds) > 1 else []
        dots.append(Dot(_short(model.name), [mark], signed(value.change.value), (value.p or 1) < _ALPHA, seeds))
    return dots


def _short(name: str) -> str:
    return shortened(name, _LABEL)


def _grid(charts: Sequence[Markup]) -> Markup:
    return raw('<div class="charts">{}</div>').format(NOTHING.join(charts))


def _left_out(material: Material) -> Section:
    every = {*material.changes}
    whose = {unit: "all" if {*names} >= every else ", ".join(names) for unit, names in material.left_out.items()}
    return left_out([*material.left_out], whose)


def provenance(material: Material) -> Section:
    """Return what the page was made from, the parameters that make it again, and how the first variant's steps ran."""
    found = material.comparison
    seeds = sorted({seed for model in found.models for seed in model.seeds})
    given = [{"name": name, **changes} for name, changes in material.changes.items()]
    again = json.dumps({"variants": given, "seeds": seeds, "baseline": found.baseline}, indent=1, ensure_ascii=False)
    body = raw(
        "<h3>Parameters of the comparison</h3><pre>{}</pre>"
        "<details><summary>{} manifests by digest</summary>{}</details><h3>Steps of the first variant</h3>{}"
    ).format(
        again,
        len(material.digests),
        html_table((), ((name, code(f"sha256:{digest}")) for name, digest in material.digests)),
        NOTHING.join(step_details(task, record) for task, record in sorted(material.provenance.items())),
    )
    return Section("provenance", "Provenance", "Equal inputs give equal bytes: what this page was made from.", body)


# Markdown -------------------------------------------------------------------------------------------------------------


def summary(material: Material, path: str) -> str:
    """Return the verdict, every benchmark's metrics as tables, and the whole page's path, in Markdown."""
    found, paper = material.comparison, material.paper
    blocks = ["# Comparison", text(headline(material))]
    blocks.append(bullets(f"{name}: {outcome}" for name, outcome in sentences(found)))
    for one in found.tables:
        for row in (row for row in one.rows if row.is_total):
            rows = [_summed(row.values[model.name], model, one, row, paper) for model in found.models]
            head = ("", "seeds", "accuracy", "difference", "interval", "p", *(["paper"] if paper else []))
            blocks += [f"## {text(f'{one.benchmark.title} {row.name}')}", table(head, rows)]
    changed = [
        (name, ", ".join(f"{key} = {value}" for key, value in parameters(own)) or "nothing")
        for name, own in material.changes.items()
    ]
    blocks += ["## Variants", table(("variant", "changes"), changed)]
    return document(*blocks, f"The whole page: `{path}` in the store.")


def _summed(value: Value, model: Model, one: Table, row: Row, paper: AblationTable | None) -> tuple[object, ...]:
    cells = [model.name, len(model.seeds) or "–", f"{value.mean.value:.1f}"]
    if value.change is None or value.p is None:
        cells += ["–", "baseline", "–"]
    else:
        cells += [signed(value.change.value), interval(value.change), _bare(value.p)]
    if paper is not None:
        printed = paper.rows[model.name].numbers.get(one.benchmark.name, {}) if model.name in paper.rows else {}
        cells.append(f"{printed[row.key]:.1f}" if row.key in printed else "")
    return tuple(cells)
