"""Attention whose softmax is over a union of key sets, and its log-sum-exp, without an L × L map.

A softmax over own and reference keys is the two softmaxes merged by their log-sum-exps l_o, l_r: with w = σ(l_o − l_r)
the output is w·out_o + (1 − w)·out_r, exactly. The log-sum-exp comes from the device's fused kernel where a check
against plain torch passes once per device, number format and head width; elsewhere rows are computed in blocks.

Legend: b batch, h heads, Q queries, K keys, d head width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

log = logging.getLogger(__name__)

BLOCK_ELEMENTS = 1 << 24
"""Logits that exist at once where rows are computed in blocks (64 MiB in float32)."""

_Kernel = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def attention_with_lse(
    q: Float[Tensor, "b h Q d"], k: Float[Tensor, "b h K d"], v: Float[Tensor, "b h K d"]
) -> tuple[Float[Tensor, "b h Q d"], Float[Tensor, "b h Q"]]:
    """Softmax attention at scale 1/√d in the inputs' format, and log Σ_K exp(q·k/√d) in float32."""
    return _kernel(q.device, q.dtype, q.shape[-1])(q.contiguous(), k.contiguous(), v.contiguous())


def blockwise_attention(
    q: Float[Tensor, "b h Q d"], k: Float[Tensor, "b h K d"], v: Float[Tensor, "b h K d"]
) -> tuple[Float[Tensor, "b h Q d"], Float[Tensor, "b h Q"]]:
    """Compute the same in plain torch and float32, some query rows at a time."""
    rows = max(1, BLOCK_ELEMENTS // (k.shape[0] * k.shape[1] * k.shape[2]))
    keys, values = k.float().mT * q.shape[-1] ** -0.5, v.float()
    outputs, lses = [], []
    for block in torch.split(q, rows, dim=2):
        logits = block.float() @ keys
        lse = logits.logsumexp(-1)
        outputs.append((logits.sub_(lse[..., None]).exp_() @ values).to(q.dtype))
        lses.append(lse)
    return torch.cat(outputs, dim=2), torch.cat(lses, dim=2)


def merge(
    own: Float[Tensor, "b h Q d"], other: Float[Tensor, "b h Q d"], own_share: Float[Tensor, "b h Q"]
) -> Float[Tensor, "b h Q d"]:
    """Return the output over the union of two key sets, from those over each and the first set's share."""
    return torch.lerp(other.float(), own.float(), own_share[..., None]).to(own.dtype)


def _cpu(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False)[:2]
    return output, lse.float()


def _cuda_flash(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False)[:2]
    return output, lse.float()


def _cuda_efficient(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    output, lse = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True)[:2]
    return output, lse[..., : q.shape[2]].float()  # the kernel pads rows


@cache
def _kernel(device: torch.device, dtype: torch.dtype, width: int) -> _Kernel:
    """Return the fused kernel if it answers as plain torch does, else plain torch."""
    if device.type == "cpu":
        kernel = _cpu
    elif device.type == "cuda":
        kernel = _cuda_efficient if dtype == torch.float32 else _cuda_flash
    else:
        return blockwise_attention
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, length, width, generator=generator).to(device, dtype) for length in (37, 70, 70))
    try:
        answer = kernel(q, k, v)
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        log.warning(
            "fused attention is not usable on %s for %s, width %d (%s): rows are computed in blocks",
            device,
            dtype,
            width,
            error,
        )
        return blockwise_attention
    tolerance = 1e-4 if dtype in (torch.float32, torch.float64) else 3e-2
    wrong = max(
        float((a.float() - b.float()).abs().max()) for a, b in zip(answer, blockwise_attention(q, k, v), strict=True)
    )
    if not wrong < tolerance:
        log.warning("fused attention on %s for %s is off by %.1e: rows are computed in blocks", device, dtype, wrong)
        return blockwise_attention
    return kernel
