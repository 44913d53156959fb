"""The step's page in the KFP UI: how a few samples are reconstructed, and where the heads look meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

from components.core.artifacts import AttentionLine
from components.core.records import smallest_by_hash
from components.pages.figures import NOTHING, stored_picture
from components.pages.page import Section, preview, text_caption
from components.runtime.context import Context
from components.runtime.parameters import P
from components.store.entries import Entry

_MOST = 2
_ABOUT = (
    "Attention is read while the video model reconstructs the clip from its inverted noise; the latent error is "
    "relative to the clean latents. Heads by their score in this sample, three best and three worst: the attention "
    "between all places and frames, pooled, and below it between the frames of single places. Each map has its own "
    "scale."
)


def page(context: Context[P], lines: Sequence[AttentionLine], drawn: Sequence[Entry]) -> str:
    """Return the first samples' remembered pictures."""
    by_id, entries, sections = {line.sample.id: line for line in lines}, {entry.unit: entry for entry in drawn}, []
    for name in smallest_by_hash(list(entries), _MOST):
        entry, body = entries[name], text_caption(by_id[name].sample)
        for role in ("reconstruction", "heads"):
            png = context.store.read(entry.ref(role, context.task))
            body += stored_picture(png, f"{role} of sample {name}", NOTHING)
        error = f"latent error of the reconstruction {entry.numbers['latent_error']:.2f}"
        sections.append(Section(f"sample-{name}", f"sample {name}", error, body))
    lead = "The video model's attention, head by head" if sections else "No pictured sample in this shard"
    return preview("2 · attention capture", lead, _ABOUT, sections)
