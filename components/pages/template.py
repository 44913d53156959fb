"""The frame of every page: sections in one look, in one HTML file; and the preview of a step in the KFP UI.

Needs no torch: a finished shard puts its preview together from remembered figures in no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import jinja2

from components.pages.section import Section, caption

DRAWING = "2"  # enters the key of a remembered figure: bump it when the style that figures rely on changes
_SHOWN_BYTES = 1_000_000  # of an HTML artifact that the KFP UI shows


def render(found: Sequence[Section], note: str = "", name: str = "report") -> str:
    """Return one HTML file without scripts, fonts or other files' addresses; the first section is the page's head."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = resources.files("components.pages").joinpath("page.html.j2").read_text()
    return environment.from_string(template).render(verdict=found[0], sections=found[1:], note=note, name=name)


def preview(name: str, lead: str, about: str, found: Sequence[Section], limit: int = _SHOWN_BYTES) -> str:
    """Return a step's page: its headline, what it is about, and as many sections as fit into `limit` bytes."""
    head = Section("top", name, lead, caption(about))
    for count in range(len(found), -1, -1):
        note = (
            "" if count == len(found) else f"{len(found) - count} of {len(found)} pictures do not fit into this viewer."
        )
        page = render([head, *found[:count]], note, name)
        if len(page.encode()) <= limit:
            break
    return page
