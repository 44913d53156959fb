"""Vision-language models, one module per family."""

from __future__ import annotations

from components.models.family import find_families
from components.models.vlm.interface import VlmFamily


def families() -> list[VlmFamily]:
    """Return the families of vision-language models."""
    return find_families(__name__, VlmFamily, {"example", "interface", "model", "pixels", "reader", "rows", "twins"})
