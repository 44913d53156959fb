"""The step's page in the KFP UI: a clip's frames, the prior of its strongest words, and the VLM's own map of them."""

from __future__ import annotations

from collections.abc import Sequence

from components.core.artifacts import VlmLine
from components.core.records import Json, smallest_by_hash
from components.core.units import number
from components.pages.figures import raw
from components.pages.page import DRAWING, Section, preview, text_caption
from components.runtime.context import Context, remembered_pictures
from components.runtime.parameters import P
from components.store.entries import WorkFolder

_MOST = 4
_ABOUT = (
    "Density relative to uniform, unsmoothed; outlined where the VLM saw nothing. The VLM's row is the mean over the "
    "words above it."
)


def page(context: Context[P], lines: Sequence[VlmLine], shown: set[str], model: str) -> str:
    """Return at most four of the pictured samples that have a map, with coverage and distance."""
    mapped = {line.sample.id: line for line in lines if line.vlm_map is not None and line.sample.id in shown}
    chosen = [mapped[name] for name in smallest_by_hash(list(mapped), _MOST)]

    def paint(line: VlmLine, folder: WorkFolder) -> Json:
        from components.pages.samples import Stored, sample_strip

        folder.put("strip", "html", sample_strip(Stored(context.store), line, [("the VLM's own map", line)]).encode())
        return {}

    def reads(line: VlmLine) -> Json:
        shown = {"prior": line.prior, "map": line.vlm_map, "mask": line.mask}
        digests = {name: ref.sha256 for name, ref in shown.items() if ref is not None}
        return {"drawing": DRAWING, "sample": line.sample.id, **digests}

    entries = remembered_pictures(context, chosen, name=lambda line: line.sample.id, reads=reads, paint=paint)
    figures = []
    for line, entry in zip(chosen, entries, strict=True):
        assert line.distance is not None
        about = f"coverage {line.coverage:.0%} of the selected words · distance to the prior {number(line.distance)}"
        strip = raw(context.store.read(entry.ref("strip", context.task)).decode())
        figures.append(Section(line.sample.id, f"sample {line.sample.id}", about, text_caption(line.sample) + strip))
    empty = "No pictured sample of this shard has a map of the VLM"
    lead = f"Where {model} looks for the words that carry motion" if figures else empty
    return preview("5 · VLM attention", lead, _ABOUT, figures)
