"""The figure of a head selection: stacked z-scores with the cut line, what saturates, and the table of all heads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

from components.core.artifacts import HeadSelection, PriorSet
from components.core.records import HeadRow
from components.pages.charts import Stack, stacked_bars
from components.pages.figures import number, raw, signed
from components.pages.section import caption, html_table


def head_figure(selection: HeadSelection | PriorSet) -> Markup:
    """Return sorted stacked z-scores with the cut line, what saturates, and the table (supplement Figs. 2 and 4)."""
    rows = sorted(selection.heads, key=lambda row: (-row.score, row.head))
    spread = float(np.std([row.dfc for row in rows])) or 1.0
    cut = round(float(np.mean([len(line.heads) for line in selection.lines])))
    stacks = [
        Stack(
            str(row.head),
            [(row.z[0], "c1"), (row.z[1], "c2"), (row.z[2], "c3")],
            row.dfc_stderr / spread,
            index < cut,
            f"head {row.head}: DFC {row.dfc:.4g} ± {row.dfc_stderr:.2g}, TCS {row.tcs:.3g}, DSR {row.dsr:.3g}, "
            f"score {row.score:+.2f}, chosen in {row.chosen} of {row.samples} samples",
        )
        for index, row in enumerate(rows)
    ]
    legend = [("z(DFC) ± s.e.", "c1"), ("z(TCS)", "c2"), ("z(DSR)", "c3")]
    chart = stacked_bars("Heads by score", stacks, legend, cut, f"kept: {cut} of {len(rows)}")
    return chart + _saturation(selection) + _head_table(rows, cut)


def _saturation(selection: HeadSelection | PriorSet) -> Markup:
    shares = {name if name == "both" else name.upper(): share for name, share in selection.saturation.items()}
    text = ", ".join(f"{name} {share:.0%}" for name, share in sorted(shares.items()))
    if not any(share >= 0.9 for share in shares.values()):
        return caption(f"Chosen heads at the maximum of a measure: {text or 'not recorded'}.")
    return raw(
        '<p class="warning"><b>Selection may be positional.</b> Chosen heads at the maximum of a measure: '
        f"{escape(text)}. Such heads attend to the same place in every frame whatever the content.</p>"
    )


def _head_table(rows: Sequence[HeadRow], kept: int) -> Markup:
    cells = (
        (
            row.head,
            f"{number(row.dfc)} ± {number(row.dfc_stderr, 2)}",
            number(row.tcs),
            number(row.dsr),
            signed(row.score, 2),
            f"{row.chosen} of {row.samples}",
        )
        for row in rows
    )
    table = html_table(("head", "DFC ± s.e.", "TCS", "DSR", "score", "chosen in"), cells, kept)
    return raw(f"<details><summary>Table of all {len(rows)} heads</summary>{table}</details>")
