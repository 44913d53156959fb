"""The step's page in the KFP UI: what the VAE keeps of a few videos, and whether their inversion is healthy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from components.core.records import Json
from components.pages.figures import number, raw
from components.pages.section import Section
from components.pages.template import preview
from components.runtime.context import Context
from components.runtime.parameters import P
from components.store.entries import Entry

_ABOUT = (
    "Root mean square of the latents at each noise level, against √(ᾱ·r₀² + 1 − ᾱ), which independent noise of unit "
    "variance gives (r₀: that of the clean latents): a healthy inversion ends near 1. Residual: by which share one "
    "reconstruction step from a level misses the level below."
)


def page(context: Context[P, Any], drawn: Sequence[Entry]) -> str:
    """Return the remembered figures, each with its numbers."""
    figures = []
    for entry in drawn:
        name, figure = entry.unit[:16], context.store.read(entry.ref("figure", context.task)).decode()
        figures.append(Section(f"video-{name}", f"video {name}", _caption(entry.numbers), raw(figure)))
    steps = context.shared.num_steps
    lead = f"From video to noise in {steps} steps" if figures else "No pictured video in this shard"
    return preview("1 · DDIM inversion", lead, _ABOUT, figures)


def _caption(numbers: Json) -> str:
    return (
        f"PSNR of the VAE {number(numbers['psnr'])} dB · root mean square of the inverted noise "
        f"{number(numbers['rms'])}, expected {number(numbers['expected'])} · largest residual of a step "
        f"{number(max(numbers['residuals']))}"
    )
