"""The outcome of a comparison in sentences, all models together and each one, and as a chart of each benchmark."""

from __future__ import annotations

from components.comparison.compare import ALPHA, Comparison, Model, Table
from components.comparison.differences import chart, grid, short_name
from components.comparison.material import Material
from components.core.units import counted, probability, signed
from components.models.registry import TINY
from components.pages.estimates import interval
from components.pages.figures import code, raw
from components.pages.page import Section, caption, fact_list
from components.runtime.variants import UNTOUCHED


def verdict(material: Material) -> Section:
    """Return the headline, a chart of each benchmark's differences over all items, and a sentence per model."""
    found = material.comparison
    charts = [chart(one, one.rows[0], found, one.benchmark.title) for one in found.tables]
    against = "the untouched model" if found.baseline == UNTOUCHED else code(found.baseline)
    note = raw(
        "Accuracy minus that of {}, points, over all items; 95 % interval over videos, single seeds as small dots."
    )
    facts = [(short_name(name), outcome) for name, outcome in sentences(found)]
    facts += [(role, ", ".join(names)) for role, names in material.models.items()]
    body = raw("{}{}{}").format(grid(charts), caption(note.format(against)), fact_list(facts))
    return Section("verdict", "Verdict", headline(material), body)


def headline(material: Material) -> str:
    """Return the outcome of the whole comparison in one sentence."""
    found = material.comparison
    against = "the untouched model" if found.baseline == UNTOUCHED else f"“{found.baseline}”"
    outcomes = "; ".join(f"{one.benchmark.title}: {_counted(one, found)}" for one in found.tables)
    corrected = f"p < {ALPHA:g}, corrected for {counted(found.family, 'comparison')}"
    sentence = f"{counted(len(found.compared), 'model')} against {against} ({corrected}). {outcomes}."
    if tiny := sorted({name for names in material.models.values() for name in names} & {*TINY}):
        return f"Plumbing only: random weights ({', '.join(tiny)}). {sentence}"
    return sentence


def _counted(one: Table, found: Comparison) -> str:
    """Return how many models are better and how many worse than the baseline."""
    values = [one.primary[model.name] for model in found.compared]
    sure = [value.change.value for value in values if value.change and value.p is not None and value.p < ALPHA]
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
