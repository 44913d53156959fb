"""Vision-language models, one module per family."""

from __future__ import annotations

from pathlib import Path

from components.models.family import Checkpoint, Family


def families() -> list[Family]:
    """The families of vision-language models."""
    return [QWEN, INTERNVL]


def _make_qwen(folder: Path, variant: str) -> Path:
    from components.models.vlm.tiny import make_tiny_qwen2_5_vl

    return make_tiny_qwen2_5_vl(folder)


def _make_internvl(folder: Path, variant: str) -> Path:
    from components.models.vlm.tiny import make_tiny_internvl3

    return make_tiny_internvl3(folder)


QWEN = Family(
    name="Qwen2.5-VL",
    make_tiny=_make_qwen,
    tiny={"tiny-qwen2.5-vl": "3b"},
    checkpoints={
        "qwen2.5-vl-3b": Checkpoint("Qwen/Qwen2.5-VL-3B-Instruct", "66285546d2b821cf421d4f5eb2576359d3770cd3"),
        "qwen2.5-vl-7b": Checkpoint("Qwen/Qwen2.5-VL-7B-Instruct", "cc594898137f460bfe9f0759e9844b3ce807cfb5"),
    },
)
INTERNVL = Family(
    name="InternVL3",
    make_tiny=_make_internvl,
    tiny={"tiny-internvl3": "2b"},
    checkpoints={
        "internvl3-2b": Checkpoint("OpenGVLab/InternVL3-2B-hf", "cb57a075cb75a2e6d1b668b128d48bb00ae321d2"),
        "internvl3-8b": Checkpoint("OpenGVLab/InternVL3-8B-hf", "259a3b64a14623c0ec91a045cb43f7c5af5fa6af"),
    },
)
