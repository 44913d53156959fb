"""The step's page in the KFP UI: how the heads score, which are kept, and whether the selection may be positional."""

from __future__ import annotations

from components.core.artifacts import HeadSelection
from components.core.units import counted
from components.pages.heads import head_figure
from components.pages.section import Section
from components.pages.template import preview

_ABOUT = (
    "How much of a head's attention stays on one place through time (DFC), for how many frames on end (TCS) and in "
    "which share of frame pairs (DSR); standardized, mean over the samples. Heads left of the line are kept."
)


def page(selection: HeadSelection) -> str:
    """Return the figure of the selection."""
    lead = f"{len(selection.heads)} heads scored on {counted(len(selection.lines), 'sample')}"
    return preview(
        "3 · head selection", lead, _ABOUT, [Section("heads", "Motion-sensitive heads", "", head_figure(selection))]
    )
