"""What the loop needs of the machine: the accelerator, the learning rates' course, a gradient norm as a number."""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
from torch.distributed.fsdp import MixedPrecisionPolicy

from components.sft.settings import SftSettings


def rate(step: int, total: int, warmup: float) -> float:
    """Return the rates' factor at update `step` (1 … total): linear over ⌈warmup · total⌉ updates, then a cosine."""
    warm = math.ceil(warmup * total)
    if step <= warm:
        return step / warm
    return 0.5 * (1 + math.cos(math.pi * (step - 1 - warm) / max(1, total - warm)))


def make_accelerator(settings: SftSettings, blocks: list[str]) -> Accelerator:
    """Return bf16 on GPUs, fp32 on a CPU; on several GPUs full tuning is sharded by `blocks` (FSDP2), LoRA is not."""
    cuda = torch.cuda.is_available()
    plugin = None
    if cuda and settings.tuning == "full" and PartialState().num_processes > 1:
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=blocks,
            state_dict_type="SHARDED_STATE_DICT",
            # fp32 master weights: AdamW in bf16 loses updates of 2e-6
            mixed_precision_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32),
        )
    return Accelerator(cpu=not cuda, mixed_precision="bf16" if cuda else "no", fsdp_plugin=plugin)


def number(norm: Any) -> float:
    """Return a gradient norm as a number; a sharded one is gathered."""
    whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return float(whole)
