"""Vision-language models, one module per family."""

from __future__ import annotations

from components.core.errors import ParameterError
from components.core.records import Json
from components.models.family import find_families
from components.models.vlm.interface import VlmFamily


def families() -> list[VlmFamily]:
    """Return the families of vision-language models."""
    shared = {"example", "interface", "lengths", "model", "pixels", "reader", "rows", "twins"}
    return find_families(__name__, VlmFamily, shared)


def family_of(config: Json | None, source: str) -> VlmFamily:
    """Return the family that reads a checkpoint, by what its `config.json` holds, None where it has none.

    Raises:
        ParameterError: no family reads it.
    """
    if config is None:
        remedy = "give a folder that transformers' from_pretrained opens"
        raise ParameterError(f"no config.json in {source}", source="vlm", remedy=remedy)
    known = {model_type: family for family in families() for model_type in family.model_types}
    if (model_type := str(config.get("model_type"))) not in known:
        remedy = f"use one of {', '.join(known)}, in the form of transformers (InternVL3's repository ends in -hf)"
        raise ParameterError(f"model_type {model_type!r}", source=source, remedy=remedy)
    return known[model_type]
