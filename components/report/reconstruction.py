"""Section 3 of the report: original, inverted noise and reconstruction of the pictured clips."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from components.core.artifacts import PriorLine
from components.pages.figures import stored_picture
from components.pages.section import Section, folded, quoted
from components.report.material import PriorMaterial


def reconstruction(material: PriorMaterial, shown: Sequence[PriorLine]) -> Section:
    """Return the pictures of two clips; further clips are folded away."""
    name, title = "reconstruction", "Reconstruction"
    blocks = pictures(material, shown, name)
    if not blocks:
        return Section(name, title, "The prior set carries no reconstruction pictures of these samples.")
    lead = (
        "Original, inverted noise and what the video model makes of it again, with the latent error: attention is read "
        "on this path."
    )
    return Section(name, title, lead, folded(blocks, 2, "more clips"))


def pictures(material: PriorMaterial, shown: Sequence[PriorLine], role: str) -> list[Markup]:
    """Return the stored pictures of one role, for the samples that have one."""
    return [
        stored_picture(
            material.store.read(line.pictures[role]), f"{role} of sample {line.sample.id}", quoted(line.sample)
        )
        for line in shown
        if role in line.pictures
    ]
