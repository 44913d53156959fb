"""The step's page in the KFP UI: what the video model makes of a few samples again, and where its heads look meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

from components.core.artifacts import AttentionLine
from components.core.records import Json
from components.pages.figures import NOTHING, raw, stored_picture
from components.pages.section import Section, quoted
from components.pages.template import DRAWING, preview
from components.runtime.context import Context
from components.runtime.parameters import P
from components.store.entries import Entry

_MOST = 2
_CAPTION = (
    "Attention is read while the video model reconstructs the clip from its inverted noise; the latent error is relative "
    "to the clean latents. Heads by their score in this sample, three best and three worst: the attention between all "
    "places and frames, pooled, and below it between the frames of single places. Each map has its own scale."
)


def picture_reads(key: str) -> Json:
    """Return what a sample's pictures show: its maps, by key."""
    return {"drawing": DRAWING, "maps": key}


def page(context: Context[P], lines: Sequence[AttentionLine], drawn: Sequence[Entry]) -> str:
    """Return the first samples' remembered pictures."""
    by_id = {line.sample.id: line for line in lines}
    sections = [_section(context, by_id[entry.unit], entry) for entry in drawn[:_MOST]]
    lead = "The video model's attention, head by head" if sections else "No pictured sample in this shard"
    head = Section("top", "Attention capture", lead, raw(f'<p class="caption">{_CAPTION}</p>'))
    return preview("2 · attention capture", head, sections)


def _section(context: Context[P], line: AttentionLine, entry: Entry) -> Section:
    pictures = (
        stored_picture(context.store.read(entry.ref(role, context.task)), f"{role} of sample {line.sample.id}", NOTHING)
        for role in ("reconstruction", "heads")
    )
    lead = f"latent error of the reconstruction {entry.numbers['latent_error']:.2f}"
    body = quoted(line.sample) + NOTHING.join(pictures)
    return Section(f"sample-{line.sample.id}", f"sample {line.sample.id}", lead, body)
