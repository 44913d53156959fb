"""One module for training, MotionSFT(VLM, aligner), whose forward gives L = L_AR + λ · L_align: one engine can wrap it.

L_align: the words' rows of all layers and heads, averaged, on the prior's grid, through the aligner, against the prior.
Also how AdamW updates its parameters: groups with their learning rates, and the rates' course.

Legend: R rows of the sequence, S visual tokens, T words, F H W the prior's grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from components.core.records import Grid
from components.media.grids import on_grid
from components.media.map_algebra import map_distance
from components.models.vlm.example import collate
from components.models.vlm.model import Vlm
from components.models.vlm.rows import request_rows
from components.sft.aligner import make_aligner
from components.sft.data import Item, Target
from components.sft.loss import response_loss
from components.sft.settings import SftSettings


class MotionSFT(nn.Module):
    """The VLM with its aligner; `weight` is λ as it multiplies L_align. With λ = 0 there is no aligner and no row."""

    def __init__(self, vlm: Vlm, settings: SftSettings, weight: float) -> None:
        super().__init__()
        self.vlm, self.settings, self.weight = vlm, settings, weight
        self.model: nn.Module = vlm.model
        self.aligner = make_aligner(settings.aligner) if weight else None
        self.shapes = {name: parameter.shape for name, parameter in self.named_parameters()}

    def whole(self) -> list[nn.Parameter]:
        """Return the small parameters that every process holds whole: the aligner's and the low-rank updates."""
        parts = [] if self.aligner is None else list(self.aligner.parameters())
        return parts + [one for name, one in self.model.named_parameters() if is_adapter(name)]

    def forward(self, item: Item) -> dict[str, Tensor]:
        """Return the losses of one sample: `loss` = `ar` + λ · `align`, with `align` 0 where the sample has no target.

        Raises:
            DataError: no response tokens, or nothing that both models saw.
        """
        batch, target = collate([item.example]), item.target
        request = None if target is None else request_rows(batch, [target.rows_R])
        out = self.vlm.forward(batch, request)
        ar = response_loss(out.logits_BLV, out.targets_BL)
        if target is not None and out.rows_BRS is not None:
            align = self._align(out.rows_BRS[0], target, item.example.video_grid)
        else:
            align = torch.zeros_like(ar)
        return {"loss": ar + self.weight * align, "ar": ar, "align": align}

    def _align(self, rows_RS: Tensor, target: Target, seen: Grid) -> Tensor:
        """Return L_align times its gate; the mean is over samples, not gates, so a gate that closes lowers the loss."""
        values_TS = target.map_TR.to(rows_RS) @ rows_RS  # fp32, as the rows are: bf16 would blur by half a percent
        map_TFHW, valid_FHW = on_grid(values_TS, seen, target.grid, self.settings.grid)
        if self.aligner is not None:
            map_TFHW = self.aligner(map_TFHW, valid_FHW)
        prior_TFHW = target.prior_TFHW.to(map_TFHW.device)
        norm, distance = self.settings.row_norm, self.settings.distance
        return target.weight * map_distance(map_TFHW, prior_TFHW, valid_FHW, norm, distance)


def is_adapter(name: str) -> bool:
    """Return whether a parameter is a low-rank update's, by its name."""
    return ".lora_" in name


def freeze(vlm: Vlm, train: Sequence[str]) -> None:
    """Leave gradients and optimizer to the parts in `train` alone (`vision`, `merger`, `llm`)."""
    for name, parameter in vlm.model.named_parameters():
        parameter.requires_grad_(vlm.part(name) in train)


def parameter_groups(module: MotionSFT, settings: SftSettings) -> list[dict[str, Any]]:
    """Return AdamW's groups: by learning rate, and apart those without weight decay (norms, biases, other vectors).

    A sharded parameter is flat here, so what decays goes by the shapes before (`module.shapes`).
    """
    rates = {"vision": settings.lr_vision, "merger": settings.lr_llm, "llm": settings.lr_llm}
    rates |= {"lora": settings.lora_lr, "aligner": settings.aligner_lr}
    found: dict[tuple[str, bool], list[nn.Parameter]] = {
        (role, decays): [] for role in rates for decays in (True, False)
    }
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            name = unwrapped(name)
            part = module.vlm.part(name)
            role = "aligner" if name.startswith("aligner.") else "lora" if is_adapter(name) else str(part)
            found[role, len(module.shapes[name]) > 1].append(parameter)
    groups = []
    for (role, decays), chosen in found.items():
        if chosen:
            rate, decay = rates[role], settings.weight_decay if decays else 0.0
            groups.append({"params": chosen, "lr": rate, "base_lr": rate, "role": role, "weight_decay": decay})
    return groups


def unwrapped(name: str) -> str:
    """Return a parameter's name without the parts that FSDP puts in."""
    return name.replace("_fsdp_wrapped_module.", "")


def rate(step: int, total: int, warmup: float) -> float:
    """Return the rates' factor at update `step` (1 … total): linear over ⌈warmup · total⌉ updates, then a cosine."""
    warm = math.ceil(warmup * total)
    if step <= warm:
        return step / warm
    return 0.5 * (1 + math.cos(math.pi * (step - 1 - warm) / max(1, total - warm)))
