"""Section 6 of the report: does the prior find what moves? With masks AUC_obj against its references, without them the confidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from components.core.artifacts import PriorLine
from components.report.charts import Dot, dot_plot, histogram
from components.report.figures import NOTHING, Cell, StripRow, photo, probability, raw, strip
from components.report.material import Material, nearest_frame
from components.report.pictures import COLUMNS, map_row
from components.report.quality import Estimate, Quality
from components.report.section import Section, quoted


def prior_quality(material: Material, quality: Quality, bench: dict[str, Any] | None) -> Section:
    """AUC_obj with intervals against its references where masks are known, else the confidence histogram."""
    name, title = "quality", "Quality of the prior"
    confidence = [line.confidence.value for line in material.priors.lines]
    bars = histogram(f"Confidence of {len(confidence)} priors", confidence)
    if not quality.rows:
        lead = "No ground-truth masks with a mover and static objects, so the confidence √(concentration · dynamics) instead."
        ranked = sorted(material.priors.lines, key=lambda line: line.confidence.value)
        extremes = [("highest confidence", ranked[-1], ranked[-1].confidence.value), ("lowest", ranked[0], ranked[0].confidence.value)]
        return Section(name, title, lead, raw(f'<div class="charts">{bars}</div>') + _extremes(material, extremes))
    first = quality.rows["prior"]
    dots = [
        Dot(row, [(e.value, e.low, e.high, "c1" if row[:5] == "prior" else "grey")], _estimate(e), row == "prior")
        for row, e in quality.rows.items()
    ]
    dots += _bench_dots(material, bench)
    chart = dot_plot("AUC_obj: mover against static objects", dots, reference=0.5)
    by_id = {line.sample.id: line for line in material.priors.lines}
    ranked_ids = sorted(quality.by_sample, key=lambda key: (quality.by_sample[key], key))
    ends = [("best AUC_obj", ranked_ids[-1]), ("worst AUC_obj", ranked_ids[0])]
    extremes = [(text, by_id[key], quality.by_sample[key]) for text, key in ends]
    lead = raw(
        f"Does the prior hold more attention on the object that moves than on those that stay? {first.n} samples of {first.clusters} "
        "videos with masks, 95 % intervals over videos; .5 is chance."
    )
    body = chart + _permutation(quality) + _bench_line(material, bench) + _extremes(material, extremes)
    return Section(name, title, lead, body + raw(f'<div class="charts">{bars}</div>'))


def _estimate(e: Estimate) -> str:
    if e.low is None or e.high is None:
        return f"{e.value:.3f} (1 video, n = {e.n})"
    return f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}], n = {e.n}"


def _permutation(quality: Quality) -> Markup:
    if (test := quality.permutation) is None:
        return raw('<p class="absent">No debiased value and no permutation test: they need two videos on one grid.</p>')
    return raw(
        f'<p class="caption">Permutation test over {test.clusters} videos ({test.n} samples, {test.draws} draws): observed '
        f"{test.observed:.3f}, other clips' masks {test.null_mean:.3f} ± {test.null_std:.3f}, {escape(probability(test.p))}. "
        "The null is above .5 where a map knows positions that all clips share; debiased, the other videos' mean map is taken out.</p>"
    )


def _bench_dots(material: Material, bench: dict[str, Any] | None) -> list[Dot]:
    if bench is None or "vdm" not in material.models or bench["model_digest"] != material.models["vdm"].digest:
        return []
    rows = bench["rows"]
    return [Dot(f"bench: {r['name']}", [(r["value"], r["low"], r["high"], "c4")], _estimate(Estimate(**_only(r)))) for r in rows]


def _only(row: dict[str, Any]) -> dict[str, Any]:
    return {"value": row["value"], "low": row["low"], "high": row["high"], "n": row["n"], "clusters": row.get("clusters", row["n"])}


def _bench_line(material: Material, bench: dict[str, Any] | None) -> Markup:
    if _bench_dots(material, bench):
        return NOTHING
    model = material.models.get("vdm")
    name = f"{escape(model.name)} ({escape(model.digest[:12])})" if model else "an unnamed video model"
    return raw(f'<p class="absent">Random twin, MHS and MTTI ablations: <code>make bench-prior</code> has no table for {name}.</p>')


def _extremes(material: Material, chosen: Sequence[tuple[str, PriorLine, float]]) -> Markup:
    blocks = []
    for text, line, value in chosen:
        map_FHW = material.prior(line).mean(0)
        cells = np.unique(np.linspace(0, len(map_FHW) - 1, min(COLUMNS, len(map_FHW))).round().astype(int)).tolist()
        indices = [nearest_frame(line.video, *line.grid.times[f]) for f in cells]
        frames = [Cell(photo(frame, 120), smooth=True, label="frame") for frame in material.frames(line.video, indices)]
        rows = [StripRow("frames", frames), map_row("prior", "its words", map_FHW, line, cells)]
        drawn = strip(rows, [f"{line.video.times[i]:.2f} s" for i in indices], line.video.width, line.video.height)
        blocks.append(f'<div><h3>{escape(text)}: {value:.3f}</h3>{quoted(line, 70)}<div class="small">{drawn}</div></div>')
    return raw("".join(blocks))
