"""Section 2 of the report: a clip's frames, mask, prior of three words, and the VLM's maps before and after tuning."""

from __future__ import annotations

from collections.abc import Sequence

from components.core.artifacts import PriorLine, VlmLine
from components.pages.section import Section, folded, quoted
from components.pages.strips import sample_strip
from components.report.material import PriorMaterial

_CLIPS = 4


def idea(material: PriorMaterial, shown: Sequence[PriorLine]) -> Section:
    """Return the strip of one clip, clips with both maps first; further clips are folded away."""
    title = "The idea in one strip"
    if not shown:
        return Section("idea", title, "No pictured samples: the report was made with pictures = 0.")
    by_maps = sorted(shown, key=lambda line: line.sample.id not in material.after)[:_CLIPS]
    strips = [quoted(line.sample) + sample_strip(material, line, _vlm_lines(material, line)) for line in by_maps]
    lead = "What the video model attends to for a word while it reconstructs the clip"
    if material.before:
        lead += ", and where the vision-language model looks for the same words before and after tuning"
    lead += ". Cells at their true size, unsmoothed; one colour scale per row"
    if material.before:
        lead += "; outlined where the VLM saw nothing"
    return Section("idea", title, f"{lead}.", folded(strips, 1, "more clips"))


def _vlm_lines(material: PriorMaterial, line: PriorLine) -> list[tuple[str, VlmLine]]:
    named = (("VLM before", material.before), ("VLM after", material.after))
    return [(name, found) for name, lines in named if (found := lines.get(line.sample.id)) is not None]
