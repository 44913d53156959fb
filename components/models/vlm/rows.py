"""Text-to-vision attention rows as a side output of fused attention: A_VLM [B, R, S], mean over heads and layers.

A_r = mean over heads of softmax(q_r Kᵀ / √d) for the requested rows r only, never the N × N map. Importing this module
registers the attention function `sdpa_rows`: stock SDPA gives the output, the rows travel as attention weights, and
transformers' own hooks collect them layer by layer (`output_attentions=True`). The request is an argument of the
forward call, so a checkpoint's recomputation sees the same one. Logits are computed from q, k upcast to fp32, as bf16
logits are off by about 1 %.

Legend: B samples, H heads, K key-value heads, G = H / K, D head size, N tokens, R rows, S visual cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from components.core.errors import DataError
from components.models.vlm.example import Batch

ROWS_ATTENTION = "sdpa_rows"
_BASE = "sdpa"


@dataclass(frozen=True)
class RowRequest:
    """Which rows and columns of the attention are wanted.

    Args:
        rows: [B, R] sequence indices; any valid index where `row_mask` is False.
        row_mask: [B, R] False: the row is 0.
        cols: [B, S] sequence indices of the columns; None: all.
        heads_chunk: key-value heads at a time; None: all at once (faster, more memory).
        col_mask: [B, S] False: the column is 0.
    """

    rows: Int[Tensor, "B R"]
    row_mask: Bool[Tensor, "B R"]
    cols: Int[Tensor, "B S"] | None = None
    heads_chunk: int | None = None
    col_mask: Bool[Tensor, "B S"] | None = None


def request_rows(batch: Batch, rows: Sequence[Int[Tensor, " _"]], heads_chunk: int | None = None) -> RowRequest:
    """Return the request for a batch: each sample's rows (indices in its unpadded sequence) towards its visual cells.

    Raises:
        DataError: a row does not stand behind the video, so the causal mask leaves it no cell to attend to; or beyond
            the sequence; or there is no cell at all.
    """
    if not batch["video_columns"].shape[1]:
        remedy = "give a conversation about a video"
        raise DataError("no visual cell to attend to", source="attention rows", remedy=remedy)
    most = max(len(one) for one in rows)
    starts = batch["start"].tolist()
    ids_BR = torch.stack(
        [nn.functional.pad(one.cpu() + start, (0, most - len(one))) for one, start in zip(rows, starts, strict=True)]
    )
    mask_BR = torch.stack([torch.arange(most) < len(one) for one in rows])
    last_B1 = (batch["video_columns"] * batch["video_mask"]).amax(-1, keepdim=True).cpu()
    end_B1 = (batch["start"] + batch["attention_mask"].sum(-1)).cpu()[:, None]
    if bool((mask_BR & ((ids_BR <= last_B1) | (ids_BR >= end_B1))).any()):
        problem = f"rows {[one.tolist() for one in rows]}: not all between the video's last token and the end"
        raise DataError(
            problem, source="attention rows", remedy="map words of the same conversation, with the video first"
        )
    return RowRequest(ids_BR, mask_BR, batch["video_columns"], heads_chunk, batch["video_mask"])


def attention_rows(
    query_BHND: Float[Tensor, "B H N D"],
    key_BKND: Float[Tensor, "B K n D"],
    scaling: float,
    mask: Shaped[Tensor, "b 1 N n"] | None,
    request: RowRequest,
) -> Float[Tensor, "B R S"]:
    """Return one layer's rows, averaged over heads: softmax over all keys first, then the requested columns.

    Args:
        query_BHND: after rotary embedding.
        key_BKND: the same; each key-value head serves H / K query heads.
        scaling: of the logits.
        mask: boolean (True: may attend) or additive; None: causal.
        request: rows and columns.

    Raises:
        ValueError: keys and queries differ in number (a cache), or the mask differs by head.
    """
    batch, heads, length, size = query_BHND.shape
    groups = key_BKND.shape[1]
    if key_BKND.shape[2] != length or (mask is not None and mask.shape[1] != 1):
        raise ValueError("attention rows need a whole sequence without cache and one mask for all heads")
    rows_BR = request.rows.to(query_BHND.device)
    picked = query_BHND.gather(2, rows_BR[:, None, :, None].expand(-1, heads, -1, size))
    query_BKGRD = picked.reshape(batch, groups, heads // groups, -1, size)
    bias_BRN = _bias(mask, rows_BR, length)
    step = request.heads_chunk or groups
    total_BRN = torch.zeros((), device=query_BHND.device)
    with torch.autocast(device_type=query_BHND.device.type, enabled=False):
        for start in range(0, groups, step):
            part = slice(start, start + step)
            logits = (
                torch.einsum("bkgrd,bknd->bkgrn", query_BKGRD[:, part].float(), key_BKND[:, part].float()) * scaling
            )
            total_BRN = total_BRN + (logits + bias_BRN[:, None, None]).softmax(-1).sum((1, 2))
    rows_BRN = total_BRN / heads * request.row_mask.to(query_BHND.device)[..., None]
    if request.cols is None:
        return rows_BRN
    cols_BS = request.cols.to(query_BHND.device)
    rows_BRS = rows_BRN.gather(2, cols_BS[:, None].expand(batch, rows_BR.shape[1], -1))
    return rows_BRS if request.col_mask is None else rows_BRS * request.col_mask.to(query_BHND.device)[:, None]


def _bias(mask: Tensor | None, rows_BR: Int[Tensor, "B R"], length: int) -> Float[Tensor, "B R N"]:
    if mask is None:
        allowed_BRN = torch.arange(length, device=rows_BR.device) <= rows_BR[..., None]
    else:
        mask_BNN = mask[:, 0, :, :length].expand(len(rows_BR), -1, -1)
        allowed_BRN = mask_BNN.gather(1, rows_BR[..., None].expand(-1, -1, length))
    if allowed_BRN.dtype != torch.bool:
        return allowed_BRN.float()
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(allowed_BRN.shape, device=rows_BR.device).masked_fill(~allowed_BRN, lowest)


def _sdpa_rows(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    row_request: RowRequest | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend; one call carries the request to the vision tower as well, whose attention is not causal: no rows."""
    kwargs.pop("output_attentions", None)  # SDPA would warn that it has no weights to give
    out, _ = ALL_ATTENTION_FUNCTIONS[_BASE](module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if row_request is None or not getattr(module, "is_causal", True):
        return out, None
    return out, attention_rows(query, key, scaling or query.shape[-1] ** -0.5, attention_mask, row_request)


# Without its mask function transformers would build none for a left-padded batch, and say nothing.
AttentionInterface.register(ROWS_ATTENTION, _sdpa_rows)
AttentionMaskInterface.register(ROWS_ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS[_BASE])
