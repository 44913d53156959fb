"""Section 6 of the report: whether the prior finds what moves.

With masks AUC_obj, pointing game and track with intervals against their references; without masks the confidence.

`bench` are the rows of `make bench-prior-full`; those of the run's own video model are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from markupsafe import Markup, escape

from components.core.artifacts import PriorLine
from components.core.records import Json
from components.core.units import number, probability
from components.pages.charts import Dot, dot_plot, histogram
from components.pages.figures import NOTHING, code, raw
from components.pages.markdown import document, table
from components.pages.page import Section, absent, caption, html_table, quoted
from components.pages.samples import Strip
from components.quality.measures import Quality
from components.quality.statistics import Estimate
from components.report.material import Material
from components.report.survey import Survey

LEVEL = "AUC_obj: "  # begins the names of the bench's rows that the chart shows


def prior_quality(material: Material, quality: Quality, bench: Sequence[Json], pictured: Sequence[str]) -> Section:
    """Return the prior's measures, the bench's rows of this video model, and the best and the worst sample."""
    name, title = "quality", "Quality of the prior"
    confidence = material.survey.confidence
    chart = histogram(f"Confidence of {len(confidence)} priors", confidence)
    bars = raw(f'<div class="charts">{chart}</div>')
    extremes = _extremes(material, _ends(material.survey, quality))
    if not quality.rows:
        missing = "No ground-truth masks with a mover and static objects"
        lead = f"{missing}, so the confidence √(concentration · dynamics) instead."
        return Section(name, title, lead, bars + _head_choice(material) + _bench(material, bench) + extremes)
    first = quality.rows["prior"]
    lead = (
        f"Does the prior hold more attention on the object that moves than on those that stay? {first.n} samples of "
        f"{first.clusters} videos with masks, 95 % intervals over videos; dashed lines are chance."
    )
    hit = "A hit: the strongest cell of all frames lies on the mover, which covers more than a tenth of it."
    pointing = caption(raw("<b>{}</b> {}").format(pointing_game(quality, pictured), hit))
    body = _charts(quality) + pointing + _permutation(quality) + _bench(material, bench) + extremes + bars
    return Section(name, title, lead, body)


def pointing_game(quality: Quality, pictured: Sequence[str]) -> str:
    """Count the pictured samples whose prior has its strongest cell on the mover; half of a tie is no hit."""
    found = [quality.peaks[sample] for sample in pictured if sample in quality.peaks]
    if not found:
        return "Pointing game: no pictured sample has a mask with a mover."
    hits, chance = sum(hit > 0.5 for hit, _ in found), float(np.mean([chance for _, chance in found]))
    return f"Pointing game: hit by {hits} of {len(found)} pictured samples (chance {_short(chance)} each)."


def quality_table(quality: Quality) -> str:
    """Return AUC_obj, pointing game and track as a section of the summary."""
    others = (quality.pointing, quality.track)
    rows = (
        (name, _interval(e, 2), *(_interval(found[name], 2) if name in found else "" for found in others), e.n)
        for name, e in quality.rows.items()
    )
    return document(
        "## Prior against ground truth, 95 % intervals over videos",
        table(("", "AUC_obj", "pointing", "track", "n"), rows),
        f"Chance is .50 for `AUC_obj`, {_short(quality.chance)} for pointing, 0 for track.",
    )


def _short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def _interval(e: Estimate, digits: int = 3) -> str:
    value, low, high = (f"{v:.{digits}f}".replace("-", "−") for v in (e.value, e.low or 0.0, e.high or 0.0))
    return value if e.low is None or e.high is None else f"{value} [{low}, {high}]"


def _estimate(e: Estimate) -> str:
    if e.low is not None:
        return f"{_interval(e)}, n = {e.n}"
    return f"{e.value:.3f} ({'1 video' if e.clusters == 1 else 'all equal'}, n = {e.n})"


def _charts(quality: Quality) -> Markup:
    """Return one dot plot per measure, with its chance."""
    hit = f"Pointing game: frames whose strongest cell lies on the mover (chance {_short(quality.chance)})"
    plots = [
        ("AUC_obj: mover against static objects", quality.rows, 0.5),
        (hit, quality.pointing, quality.chance),
        ("Track: path of the map's centre of mass against the mover's, correlation", quality.track, 0.0),
    ]
    charts = []
    for title, rows, chance in plots:
        dots = [
            _dot(name, e, "c1" if name.startswith("prior") else "grey", name == "prior") for name, e in rows.items()
        ]
        charts.append(dot_plot(title, dots, reference=chance) if rows else NOTHING)
    return NOTHING.join(charts)


def _dot(name: str, e: Estimate, colour: str, strong: bool = False) -> Dot:
    return Dot(name, [(e.value, e.low, e.high, colour)], _estimate(e), strong)


def _permutation(quality: Quality) -> Markup:
    if (test := quality.permutation) is None:
        return absent("No debiased value and no permutation test: they need two videos on one grid.")
    return caption(
        f"Permutation test over {test.clusters} videos ({test.n} samples, {test.draws} draws): observed "
        f"{test.observed:.3f}, other clips' masks {test.null_mean:.3f} ± {test.null_std:.3f}, {probability(test.p)}. "
        "The null is above .5 where a map knows positions that all clips share; debiased, the other videos' mean map "
        "is taken out."
    )


def _head_choice(material: Material) -> Markup:
    """Return what could make the head selection meaningless: heads always chosen, and heads at a maximum."""
    rows, samples = material.priors.heads, len(material.priors.lines)
    if not rows:
        return absent("No head table: how often each head was chosen is not known.")
    always, never = (sum(row.chosen == many * row.samples for row in rows) for many in (1, 0))
    full = {name: material.priors.saturation.get(name, 0.0) for name in ("tcs", "dsr")}
    return caption(
        f"Head selection over {samples} samples: of {len(rows)} heads {always} are chosen in every sample, {never} in "
        f"none, {len(rows) - always - never} in some. Of the chosen ones {full['tcs']:.0%} have the largest possible "
        f"TCS and {full['dsr']:.0%} the largest DSR: where nearly all do and the choice is always the same, it may be "
        "positional."
    )


def _bench(material: Material, bench: Sequence[Json]) -> Markup:
    """Return the bench's rows of this video model: AUC_obj as dots, all rows as a table behind a line."""
    model = material.models.get("vdm")
    rows = [row for row in bench if model is not None and row.get("model") == model.digest]
    if not rows:
        name = f"{model.name} ({model.digest[:12]})" if model else "an unnamed video model"
        missing = raw("Random twin, MHS and MTTI ablations: {} has no table for {}.")
        return absent(missing.format(code("make bench-prior"), name))
    shown = [row for row in rows if row["name"].startswith(LEVEL)]
    dots = [_dot(row["name"].removeprefix(LEVEL), _of_row(row), "c4") for row in shown]
    title = "AUC_obj of this video model on unseen synthetic clips (make bench-prior)"
    chart = dot_plot(title, dots, reference=0.5, label=320) if dots else NOTHING
    cells = ((row["name"], _interval(_of_row(row)), _bound(row), row.get("detail", "")) for row in rows)
    listed = html_table(("row", "value", "bound", "measured"), cells)
    return chart + raw(f"<details><summary>All {len(rows)} rows of the bench</summary>{listed}</details>")


def _of_row(row: Json) -> Estimate:
    n: int = row.get("n", 0)
    return Estimate(row["value"], row.get("low"), row.get("high"), n, row.get("clusters", n))


def _bound(row: Json) -> str:
    if row["bound"] is None:
        return ""
    return f"{row['test']} {number(row['bound'])}: {'holds' if row['holds'] else 'does not hold'}"


def _ends(survey: Survey, quality: Quality) -> Iterator[tuple[str, PriorLine, float]]:
    """Yield the best and the worst sample by AUC_obj, without masks by confidence: what it is, its line and value."""
    if quality.rows:
        values, lines = quality.by_sample, {line.sample.id: line for line in survey.masked.lines}
        ranked = sorted(values, key=lambda key: (values[key], key))
        for text, key in (("best AUC_obj", ranked[-1]), ("worst AUC_obj", ranked[0])):
            yield text, lines[key], values[key]
        return
    for text, line in zip(("highest confidence", "lowest"), survey.ends, strict=True):
        yield text, line, line.confidence.value


def _extremes(material: Material, chosen: Iterable[tuple[str, PriorLine, float]]) -> Markup:
    """Return frames and prior of the best and of the worst sample."""
    blocks = []
    for text, line, value in chosen:
        clip, map_FHW = Strip(material, line), material.prior(line).mean(0)
        drawn = clip.draw([clip.frames(120), clip.maps("prior", "its words", map_FHW)])
        blocks.append(
            f'<div><h3>{escape(text)}: {value:.3f}</h3>{quoted(line.sample, 70)}<div class="small">{drawn}</div></div>'
        )
    return raw("".join(blocks))
