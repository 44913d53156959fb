"""The step's page in the KFP UI: how the heads score, which are kept, and whether the selection may be positional."""

from __future__ import annotations

from components.core.artifacts import HeadSelection
from components.pages.figures import raw
from components.pages.heads import head_figure
from components.pages.section import Section
from components.pages.template import preview

_CAPTION = (
    "Each head by its standardized diagonal focus (DFC), temporal consistency (TCS) and diagonal strength (DSR), mean "
    "over the samples; heads left of the line are kept."
)


def page(selection: HeadSelection) -> str:
    """Return the figure of the selection."""
    lead = f"{len(selection.heads)} heads scored on {len(selection.lines)} samples"
    head = Section("top", "Head selection", lead, raw(f'<p class="caption">{_CAPTION}</p>'))
    return preview("3 · head selection", head, [Section("heads", "Heads by score", "", head_figure(selection))])
