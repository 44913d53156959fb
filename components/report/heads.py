"""Section 4 of the report: how the heads score, and the vision-to-vision maps of the best and the worst."""

from __future__ import annotations

from collections.abc import Sequence

from components.core.artifacts import PriorLine
from components.core.units import counted
from components.pages.heads import head_figure
from components.pages.section import Section, absent, folded
from components.report.material import PriorMaterial
from components.report.reconstruction import pictures

_SAMPLES = 3


def heads(material: PriorMaterial, shown: Sequence[PriorLine]) -> Section:
    """Return stacked z-scores of all heads, sorted, with the cut line; and the maps of three samples."""
    title = "Motion-sensitive heads"
    if not material.priors.heads:
        return Section("heads", title, "The prior set has no head table.")
    lead = (
        "MHS scores each head by how much of its vision-to-vision attention follows a place through time (mean over "
        f"{counted(len(material.priors.lines), 'sample')}); a sample keeps as many as stand left of the line, the "
        "table lists how often each head was kept."
    )
    blocks = pictures(material, shown, "heads")[:_SAMPLES]
    maps = folded(blocks, 1, "more samples")
    if not blocks:
        maps = absent("No vision-to-vision thumbnails: the prior set carries none.")
    return Section("heads", title, lead, head_figure(material.priors) + maps)
