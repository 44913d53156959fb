"""Accuracies and paired differences as pages print them, in percent and points."""

from __future__ import annotations

from markupsafe import Markup, escape

from components.core.units import signed
from components.pages.figures import raw
from components.quality.statistics import Estimate


def interval(e: Estimate) -> str:
    """Return `[−1.0, +2.0]`, or why there is none."""
    return "(1 video: no interval)" if e.low is None or e.high is None else f"[{signed(e.low)}, {signed(e.high)}]"


def share_cell(e: Estimate) -> Markup:
    """Return an accuracy with its interval beside."""
    return _cell(f"{e.value:.1f}", "" if e.low is None or e.high is None else f"[{e.low:.1f}, {e.high:.1f}]")


def change_cell(e: Estimate) -> Markup:
    """Return a difference with its interval beside."""
    return _cell(signed(e.value), interval(e))


def _cell(text: str, between: str) -> Markup:
    return raw("{} <small>{}</small>").format(text, between) if between else escape(text)
