"""One module for training, MotionSFT(VLM, aligner), whose forward gives L = L_AR + λ · L_align, so that one engine can wrap it.

L_align: the words' rows of all layers and heads, averaged, on the prior's grid, through the aligner, against the prior.
Also the parameter groups of the paper's recipe, low-rank updates, and the folder that plain `from_pretrained` opens.

Legend: B samples (1), T words, R rows of the sequence, S visual tokens, F H W the prior's grid.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from components.core.records import Grid
from components.media.map_algebra import map_distance
from components.models.vlm.batch import collate
from components.models.vlm.model import Vlm
from components.models.vlm.rows import request_rows
from components.sft.aligner import make_aligner
from components.sft.data import Item, Target
from components.sft.loss import response_loss
from components.sft.settings import SftSettings
from components.vlm_attention.maps import on_grid

_KEPT = {".json", ".jinja", ".txt", ".model"}  # what a checkpoint's folder holds beside its weights
_SHARD = "2GB"  # a stored file passes through memory


class MotionSFT(nn.Module):
    """The VLM with its aligner; `weight` is λ as it multiplies L_align. With λ = 0 there is no aligner and no row is captured."""

    def __init__(self, vlm: Vlm, settings: SftSettings, weight: float) -> None:
        super().__init__()
        self.vlm, self.settings, self.weight = vlm, settings, weight
        self.model: nn.Module = vlm.model
        self.aligner = make_aligner(settings.aligner).to(vlm.device) if weight else None

    def forward(self, item: Item) -> dict[str, Tensor]:
        """Losses of one sample: `loss` = `ar` + λ · `align`, with `align` 0 where the sample has no target.

        Raises:
            DataError: no response tokens, or nothing that both models saw.
        """
        batch = collate([item.example])
        target = item.target
        request = None if target is None else request_rows(batch, [target.words.rows_R])
        out = self.vlm.forward(batch, request)
        ar = response_loss(out.logits_BLV, out.targets_BL)
        if target is None or out.rows_BRS is None:
            # every process must have a gradient for the aligner, also where its sample has no word to align
            spare = [parameter.sum() for parameter in self.aligner.parameters()] if self.aligner is not None else []
            none = 0 * torch.stack(spare).sum() if spare else torch.zeros_like(ar)
            return {"loss": ar + none, "ar": ar, "align": none}
        align = self.align(out.rows_BRS[0], target, item.example.grid)
        return {"loss": ar + self.weight * align, "ar": ar, "align": align}

    def align(self, rows_RS: Tensor, target: Target, seen: Grid) -> Tensor:
        """L_align of one sample, times its gate: the mean is over samples, not over gates, so that one that closes lowers the loss."""
        with torch.autocast(rows_RS.device.type, enabled=False):  # bf16 products would blur the maps by half a percent
            values_TS = target.words.map_TR.to(rows_RS) @ rows_RS
            map_TFHW, valid_FHW = on_grid(values_TS, seen, target.grid, self.settings.grid)
        if self.aligner is not None:
            map_TFHW = self.aligner(map_TFHW, valid_FHW)
        prior_TFHW = target.prior_TFHW.to(map_TFHW.device)
        return target.weight * map_distance(
            map_TFHW, prior_TFHW, valid_FHW, self.settings.row_norm, self.settings.distance
        )


def parameter_groups(module: MotionSFT, settings: SftSettings) -> list[dict[str, Any]]:
    """AdamW's groups: by learning rate, and apart those without weight decay (norms, biases and other vectors)."""
    rates = {"vision": settings.lr_vision, "llm": settings.lr_llm, "aligner": settings.aligner_lr}
    parameters = module.vlm.parameter_groups()
    if module.aligner is not None:
        parameters["aligner"] = list(module.aligner.parameters())
    groups: list[dict[str, Any]] = []
    for role, found in parameters.items():
        for decays in (True, False):
            chosen = [parameter for parameter in found if (parameter.dim() > 1) == decays]
            if chosen:
                decay = settings.weight_decay if decays else 0.0
                groups.append(
                    {"params": chosen, "lr": rates[role], "base_lr": rates[role], "role": role, "weight_decay": decay}
                )
    return groups


def add_lora(vlm: Vlm, rank: int) -> None:
    """Train low-rank updates of the LLM's attention only; everything else is frozen."""
    # the vision tower's projections have other names or lie under `visual` / `vision_tower`, which the pattern leaves
    # out
    targets = r"^(?!.*(visual|vision_tower)).*\.(q_proj|k_proj|v_proj|o_proj)$"
    vlm.model = get_peft_model(vlm.model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))


def save_vlm(
    module: MotionSFT, state: dict[str, Tensor] | None, source: Path, folder: Path, dtype: torch.dtype
) -> None:
    """Write a folder that `AutoModelForImageTextToText.from_pretrained` opens: weights, and tokenizer and processor files of `source`.

    Args:
        module: the trained module.
        state: its gathered weights where the module holds only a part of them; None: the module has them all.
        source: the folder that training started from.
        folder: where to write.
        dtype: of the weights on disk.
    """
    model = module.vlm.model
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    folder.mkdir(parents=True)
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix in _KEPT and not file.name.endswith(".index.json"):
            shutil.copyfile(file, folder / file.name)
    if state is None:
        model.to(dtype).save_pretrained(folder, max_shard_size=_SHARD)
        return
    weights = {
        name.removeprefix("model."): value.to(dtype) for name, value in state.items() if name.startswith("model.")
    }
    model.config.dtype = dtype
    model.save_pretrained(folder, state_dict=weights, max_shard_size=_SHARD)
