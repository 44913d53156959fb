"""Video diffusion models, one module per family."""

from __future__ import annotations

from pathlib import Path

from components.models.family import Checkpoint, Family


def families() -> list[Family]:
    """The families of video models."""
    return [COGVIDEOX]


def _make_tiny(folder: Path, variant: str) -> Path:
    from components.models.video.cogvideox_tiny import make_tiny_cogvideox

    return make_tiny_cogvideox(folder, "5b" if variant == "5b" else "1.5")


COGVIDEOX = Family(
    name="CogVideoX",
    make_tiny=_make_tiny,
    tiny={"tiny-cogvideox": "5b", "tiny-cogvideox1.5": "1.5"},
    checkpoints={
        "cogvideox-5b": Checkpoint("zai-org/CogVideoX-5b", "8d6ea3f817438460b25595a120f109b88d5fdfad"),
        "cogvideox1.5-5b": Checkpoint("zai-org/CogVideoX1.5-5B", "fdc5267c90b5c06492985b966e43aae984e189e0"),
    },
)
