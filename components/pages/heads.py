"""The figure of a head selection: stacked z-scores with the cut line, what saturates, and the table of all heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil

import numpy as np
from markupsafe import Markup, escape

from components.core.records import HeadRow, head_name
from components.core.units import aligned, signed
from components.pages.charts import Stack, stacked_bars
from components.pages.figures import raw
from components.pages.page import caption, html_table

HEAD_TABLE = ("head", "DFC ± s.e.", "TCS", "DSR", "score", "chosen in")
_BARS = 240
_MEASURES = (("z(DFC) ± s.e.", "c1"), ("z(TCS)", "c2"), ("z(DSR)", "c3"))


def head_figure(heads: Sequence[HeadRow], saturation: Mapping[str, float]) -> Markup:
    """Return sorted stacked z-scores with the cut line, what saturates, and the table (supplement Figs. 2 and 4).

    Of more heads than the chart has room for it shows each n-th.
    """
    rows = ranked(heads)
    spread = float(np.std([row.dfc for row in rows])) or 1.0
    cut = round(sum(row.chosen for row in rows) / max(row.samples for row in rows))  # heads that a sample keeps
    cells = head_table(rows, [f"{row.chosen} of {row.samples}" for row in rows])
    stacks = [_stack(row, cell, spread, index < cut) for index, (row, cell) in enumerate(zip(rows, cells, strict=True))]
    every_nth = ceil(len(stacks) / _BARS)
    title = "Heads by score" if every_nth == 1 else f"Heads by score, one in {every_nth}"
    kept = f"kept: {cut} of {len(rows)}"
    chart = stacked_bars(title, stacks[::every_nth], _MEASURES, ceil(cut / every_nth), kept)
    table = html_table(HEAD_TABLE, cells, cut)
    every = raw(f"<details><summary>Table of all {len(rows)} heads</summary>{table}</details>")
    return chart + _saturation(saturation) + every


def ranked(heads: Iterable[HeadRow]) -> list[HeadRow]:
    """Return the best heads first."""
    return sorted(heads, key=lambda row: (-row.score, row.layer or 0, row.head))


def head_table(rows: Sequence[HeadRow], chosen: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the cells under `HEAD_TABLE`; DFC and its error have equally many decimals in all rows."""
    found = aligned([value for row in rows for value in (row.dfc, row.dfc_stderr)], 4)
    return [
        (head_name(row.id), f"{dfc} ± {error}", f"{row.tcs:.2f}", f"{row.dsr:.3f}", signed(row.score, 2), often)
        for row, dfc, error, often in zip(rows, found[::2], found[1::2], chosen, strict=True)
    ]


def _stack(row: HeadRow, cells: Sequence[str], spread: float, selected: bool) -> Stack:
    head, dfc, tcs, dsr, score, chosen = cells
    note = f"head {head}: DFC {dfc}, TCS {tcs}, DSR {dsr}, score {score}, chosen in {chosen} samples"
    parts = [(z, colour) for z, (_, colour) in zip(row.z, _MEASURES, strict=True)]
    return Stack(head, parts, row.dfc_stderr / spread, selected, note)


def _saturation(saturation: Mapping[str, float]) -> Markup:
    shares = {name if name == "both" else name.upper(): share for name, share in saturation.items()}
    text = ", ".join(f"{name} {share:.0%}" for name, share in sorted(shares.items()))
    if not any(share >= 0.9 for share in shares.values()):
        return caption(f"Chosen heads at the maximum of a measure: {text or 'not recorded'}.")
    return raw(
        '<p class="warning"><b>Selection may be positional.</b> Chosen heads at the maximum of a measure: '
        f"{escape(text)}. Such heads attend to the same place in every frame whatever the content.</p>"
    )
