"""A VLM that is tuned: low-rank updates of its language model, and the folder that plain `from_pretrained` opens."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from components.models.vlm.model import Vlm

_KEPT = {".json", ".jinja", ".txt", ".model"}  # what a checkpoint's folder holds beside its weights
_SHARD = "2GB"  # a stored file passes through memory


def add_lora(vlm: Vlm, rank: int) -> None:
    """Train low-rank updates of the language model's attention only; everything else is frozen."""
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=vlm.family.lora_targets)
    vlm.model = get_peft_model(vlm.model, config)


def save_vlm(vlm: Vlm, state: dict[str, Tensor] | None, source: Path, folder: Path, dtype: torch.dtype) -> None:
    """Write the weights, and the tokenizer and processor files of `source`; low-rank updates are merged.

    Args:
        vlm: the tuned model.
        state: its gathered weights where the process holds only a part of them; None: it holds them all.
        source: the folder that the tuning started from.
        folder: where to write.
        dtype: of the weights on disk.
    """
    model = vlm.model.merge_and_unload() if hasattr(vlm.model, "merge_and_unload") else vlm.model
    folder.mkdir(parents=True)
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix in _KEPT and not file.name.endswith(".index.json"):
            shutil.copyfile(file, folder / file.name)
    if state is None:
        model.to(dtype).save_pretrained(folder, max_shard_size=_SHARD)
        return
    model.config.dtype = dtype
    weights = {name: value.to(dtype) for name, value in state.items()}
    model.save_pretrained(folder, state_dict=weights, max_shard_size=_SHARD)
