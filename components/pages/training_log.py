"""A training log as charts: losses, gradient norms and learning rates over the steps, and the run in one line."""

from __future__ import annotations

import json
from collections.abc import Sequence

from markupsafe import Markup

from components.core.records import Json
from components.pages.charts import Line, line_chart
from components.pages.figures import NOTHING, number, raw
from components.pages.section import absent


def read_log(data: bytes) -> list[Json]:
    """Return the rows of a training log."""
    return [json.loads(line) for line in data.decode().splitlines() if line.strip()]


def training_curves(rows: Sequence[Json]) -> Markup:
    """Return one chart per quantity that the log holds, and a line that names the others."""
    roles = sorted({name for row in rows for name in row if name.startswith("lr_")})
    colours = ("c1", "c2", "c3", "c4")
    drawn = {
        "response loss": _chart(
            "Response loss", [_line("L_AR", rows, "ar", "c1"), _line("held out", rows, "val_ar", "c2", dots=True)]
        ),
        "alignment loss": _chart(
            "Alignment loss",
            [_line("L_align", rows, "align", "c3"), _line("held out", rows, "val_align", "c2", dots=True)],
        ),
        "gradient norms": _chart(
            "Gradient norms",
            [_line("∇L_AR", rows, "grad_ar", "c1", dots=True), _line("∇L_align", rows, "grad_align", "c3", dots=True)],
            log=True,
        ),
        "learning rates": _chart(
            "Learning rates",
            [_line(role[3:], rows, role, colour) for role, colour in zip(roles, colours, strict=False)],
            log=True,
        ),
    }
    missing = ", ".join(title for title, chart in drawn.items() if not chart)
    line = absent(f"Not in this run's log: {missing}.") if missing else NOTHING
    return raw(f'<div class="charts">{NOTHING.join(drawn.values())}</div>') + line


def _chart(title: str, lines: Sequence[Line], *, log: bool = False) -> Markup:
    show = _power if title == "Learning rates" else None
    return line_chart(title, [line for line in lines if line.x], x_name="step", log=log, show=show)


def _power(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e−").replace("e-", "e−")


def _line(name: str, rows: Sequence[Json], key: str, colour: str, *, dots: bool = False) -> Line:
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    return Line(name, [x for x, _ in points], [y for _, y in points], colour, dots)


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
