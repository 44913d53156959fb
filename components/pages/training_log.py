"""A training log as charts: losses, gradient norms and learning rates over the steps, and the run in one line."""

from __future__ import annotations

import json
from collections.abc import Sequence

from markupsafe import Markup

from components.core.records import Json
from components.core.units import number, power
from components.pages.charts import Line, line_chart
from components.pages.figures import NOTHING, raw
from components.pages.page import absent


def read_log(data: bytes) -> list[Json]:
    """Return the rows of a training log."""
    return [json.loads(line) for line in data.decode().splitlines() if line.strip()]


def training_curves(rows: Sequence[Json]) -> Markup:
    """Return one chart per quantity that the log holds, and a line that names the others."""

    def line(key: str, name: str, colour: str, dots: bool = False) -> Line:
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        return Line(name, [x for x, _ in points], [y for _, y in points], colour, dots)

    roles = sorted({name for row in rows for name in row if name.startswith("lr_")})
    losses = {
        "response loss": [line("ar", "L_AR", "c1"), line("val_ar", "held out", "c2", dots=True)],
        "alignment loss": [line("align", "L_align", "c3"), line("val_align", "held out", "c2", dots=True)],
    }
    logarithmic = {
        "gradient norms": [line("grad_ar", "∇L_AR", "c1", dots=True), line("grad_align", "∇L_align", "c3", dots=True)],
        "learning rates": [line(role, role[3:], f"c{index}") for index, role in enumerate(roles[:4], 1)],
    }
    drawn = {}
    for title, lines in (losses | logarithmic).items():
        keep, show = [one for one in lines if one.x], power if title == "learning rates" else None
        drawn[title] = line_chart(title.capitalize(), keep, x_name="step", log=title in logarithmic, show=show)
    missing = ", ".join(title for title, chart in drawn.items() if not chart)
    rest = absent(f"Not in this run's log: {missing}.") if missing else NOTHING
    return raw(f'<div class="charts">{NOTHING.join(drawn.values())}</div>') + rest


def training_line(rows: Sequence[Json]) -> str:
    """Return steps, samples, λ and the share of aligned rows before the response, as far as the log holds them."""
    about: Json = {key: value for row in reversed(rows) for key, value in row.items()}
    parts = [f"{max((row['step'] for row in rows), default=0)} steps"]
    if "samples" in about:
        parts.append(f"{about['samples']} samples, {about.get('held_out', 0)} held out by video")
    if "align_weight" in about:
        parts.append(f"λ = {number(about['align_weight'])}")
    if "lambda_variance" in about:
        parts.append(f"λ·Var(normalized prior) = {number(about['lambda_variance'])}, where 1 to 10 works")
    total, before = (int(sum(row.get(key, 0) for row in rows)) for key in ("rows", "rows_before_response"))
    if total:
        parts.append(f"{before / total:.0%} of {total} aligned rows precede the response")
    return ". ".join(parts) + "."
