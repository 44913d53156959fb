"""Section 1 of the report: the outcome in one sentence, and how the run differs from the paper's."""

from __future__ import annotations

import json
from collections.abc import Sequence

from markupsafe import Markup

from components.core.records import ModelId, StepRecord
from components.models.registry import TINY
from components.pages.charts import Dot, dot_plot
from components.pages.figures import NOTHING, code, probability, raw, signed
from components.pages.page import Section, fact_list
from components.report.benchmarks import Comparison, interval
from components.report.material import Material, shipped

_ROLES = {"vdm": "video model", "vlm": "vision-language model"}


def sentence(material: Material, comparisons: Sequence[Comparison]) -> str:
    """Return the run's outcome in one sentence."""
    parts = []
    for one in comparisons:
        e = one.overall
        outcome = f"{signed(e.value)} points {interval(e)}, {probability(one.p)}, {e.n} items"
        parts.append(f"{one.title}: tuned − untouched: {outcome}")
    found = "; ".join(parts) or "No benchmark was evaluated with both models"
    if tiny := sorted({model.name for model in material.models.values() if model.name in TINY}):
        items = sum(one.overall.n for one in comparisons)
        return f"Plumbing only: random weights ({', '.join(tiny)}), {items} items. {found}."
    return found + "."


def verdict(material: Material, comparisons: Sequence[Comparison]) -> Section:
    """Return the sentence, all benchmarks' differences, models, the data's digest, and what differs from the paper."""
    dots = []
    for one in comparisons:
        e = one.overall
        note = f"{signed(e.value)} {interval(e)}, n = {e.n}"
        dots.append(Dot(one.title, [(e.value, e.low, e.high, "c1")], note, True))
    title = "tuned − untouched, points, 95 % interval over videos"
    forest = dot_plot(title, dots, reference=0.0, label=140) if dots else NOTHING
    named = raw("{} {}").format
    facts = [
        (_ROLES.get(role, role), named(one.name, code(one.digest[:12])))
        for role, one in sorted(material.models.items())
    ]
    priors = code(f"sha256:{material.priors.digest[:16]}…")
    facts.append(("prior set", raw("{} samples {}").format(len(material.priors.lines), priors)))
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
                parts = code(f"{task}{name}"), json.dumps(given[name]), json.dumps(value)
                found.append(raw("{} = {} (paper: {})").format(*parts))
    return found
