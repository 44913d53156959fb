"""The comparison page: every variant against the baseline, the paper's rows beside, priors over steps and ratios."""

from __future__ import annotations

import json

from markupsafe import Markup

from components.comparison.differences import types
from components.comparison.maps import maps
from components.comparison.material import Material
from components.comparison.results import results
from components.comparison.verdict import verdict
from components.core.records import Json
from components.core.units import parameters
from components.pages.figures import NOTHING, code, raw
from components.pages.page import Section, html_table
from components.pages.provenance import left_out, step_details


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
