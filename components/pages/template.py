"""The frame of every page: sections in the report's style, in one HTML file; and the short previews that the KFP UI shows of a step.

Needs no torch: a finished shard puts its preview together from remembered figures in no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import jinja2

from components.pages.section import Section

DRAWING = "1"  # enters the key of a remembered figure: bump it when the style that figures rely on changes
_SHOWN_BYTES = 1_000_000  # of an HTML artifact that the KFP UI shows


def render(found: Sequence[Section], note: str = "", name: str = "report") -> str:
    """One HTML file without scripts, fonts or addresses of other files; the first section is the page's head."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = resources.files("components.pages").joinpath("page.html.j2").read_text()
    return environment.from_string(template).render(verdict=found[0], sections=found[1:], note=note, name=name)


def preview(name: str, head: Section, found: Sequence[Section], limit: int = _SHOWN_BYTES) -> str:
    """A step's page: its head and as many sections as fit into `limit` bytes, with a note where some do not."""
    for count in range(len(found), -1, -1):
        note = (
            "" if count == len(found) else f"{len(found) - count} of {len(found)} pictures do not fit into this viewer."
        )
        page = render([head, *found[:count]], note, name)
        if len(page.encode()) <= limit:
            break
    return page
