"""The step's page in the KFP UI: a clip's frames, the prior of its strongest words, and the VLM's own map of them."""

from __future__ import annotations

from collections.abc import Sequence

from components.core.artifacts import VlmLine
from components.core.records import Json
from components.pages.figures import number, raw
from components.pages.section import Section, text_caption
from components.pages.template import DRAWING, preview
from components.runtime.context import Context
from components.runtime.parameters import P
from components.runtime.pictures import remembered_pictures, smallest_by_hash
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
    entries = remembered_pictures(
        context,
        chosen,
        name=lambda line: line.sample.id,
        reads=_reads,
        paint=lambda line, folder: _paint(context, line, folder),
    )
    strips = [raw(context.store.read(entry.ref("strip", context.task)).decode()) for entry in entries]
    figures = [
        Section(line.sample.id, f"sample {line.sample.id}", _caption(line), text_caption(line.sample) + drawn)
        for line, drawn in zip(chosen, strips, strict=True)
    ]
    lead = (
        f"Where {model} looks for the words that carry motion"
        if figures
        else "No pictured sample of this shard has a map of the VLM"
    )
    return preview("5 · VLM attention", lead, _ABOUT, figures)


def _caption(line: VlmLine) -> str:
    distance = "" if line.distance is None else f" · distance to the prior {number(line.distance)}"
    return f"coverage {line.coverage:.0%} of the selected words{distance}"


def _reads(line: VlmLine) -> Json:
    assert line.vlm_map is not None
    mask = {} if line.mask is None else {"mask": line.mask.sha256}
    return {
        "drawing": DRAWING,
        "sample": line.sample.id,
        "prior": line.prior.sha256,
        "map": line.vlm_map.sha256,
        **mask,
    }


def _paint(context: Context[P], line: VlmLine, folder: WorkFolder) -> Json:
    from components.pages.stored import Stored
    from components.pages.strips import sample_strip

    picture = sample_strip(Stored(context.store), line, [("the VLM's own map", line)])
    folder.put("strip", "html", picture.encode())
    return {}
