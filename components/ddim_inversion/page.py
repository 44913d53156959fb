"""The step's page in the KFP UI: what the VAE keeps of a few videos, and whether their inversion is healthy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from components.core.units import number
from components.pages.figures import raw
from components.pages.page import Section, preview
from components.runtime.context import Context
from components.runtime.parameters import P
from components.store.entries import Entry

_ABOUT = (
    "Root mean square of the latents at each noise level, against √(a²·r₀² + b²), which independent noise of unit "
    "variance gives (r₀: that of the clean latents; a and b: the level's factors of the video and of noise): a healthy "
    "inversion ends near 1. Residual: by which share one reconstruction step from a level misses the level below."
)


def page(context: Context[P, Any], drawn: Sequence[Entry]) -> str:
    """Return the remembered figures, each with its numbers."""
    figures = []
    for entry in drawn:
        name, figure = entry.unit[:16], context.store.read(entry.ref("figure", context.task)).decode()
        found = {key: number(entry.numbers[key]) for key in ("psnr", "rms", "expected")}
        lead = (
            f"PSNR of the VAE {found['psnr']} dB · root mean square of the inverted noise {found['rms']}, expected "
            f"{found['expected']} · largest residual of a step {number(max(entry.numbers['residuals']))}"
        )
        figures.append(Section(f"video-{name}", f"video {name}", lead, raw(figure)))
    steps = context.shared.num_steps
    lead = f"From video to noise in {steps} steps" if figures else "No pictured video in this shard"
    return preview("1 · DDIM inversion", lead, _ABOUT, figures)
