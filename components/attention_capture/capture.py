"""Reading CogVideoX's attention while it runs: A_mm = softmax(QKᵀ/√d) of one stream, per head (method step 2).

`capture_attention` puts a processor into every attention layer and takes it out again. The processor computes the
layer's own output (with `memory`, exact attention to the union of the stream's own and the reference stream's keys and
values), and hands q, k and the log-sum-exp to `CapturedMaps`. A stock pipeline call works as it is:

    spec = CaptureSpec(text_indices=(0, 1, 2), grid=(13, 30, 45))
    with capture_attention(pipeline.transformer, spec) as maps:
        pipeline("a red ball rolls", num_inference_steps=5)
    maps.t2v, maps.diag, maps.reduce()

Legend: b batch, L = text + video sequence, h heads, d head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

from components.attention_capture.maps import CapturedMaps, CaptureSpec, HeadReductions
from components.attention_capture.softmax import attention_with_lse, merge
from components.core.errors import ParameterError

__all__ = ["CaptureSpec", "CapturedMaps", "HeadReductions", "capture_attention", "cross_stream_memory"]


@contextmanager
def capture_attention(transformer: CogVideoXTransformer3DModel, spec: CaptureSpec) -> Iterator[CapturedMaps]:
    """Capture every forward pass of `transformer` inside the block; its processors are restored after it, also after an exception.

    Raises:
        ParameterError: a batch, grid or text that does not fit `spec`, at the forward pass.
    """
    maps = CapturedMaps(spec)
    with _processor(transformer, UnionAttention(spec.memory, maps)):
        yield maps


@contextmanager
def cross_stream_memory(transformer: CogVideoXTransformer3DModel) -> Iterator[None]:
    """Inside the block the batch's first half also attends to the second half's keys and values; nothing is captured."""
    with _processor(transformer, UnionAttention(memory=True, maps=None)):
        yield


@contextmanager
def _processor(transformer: CogVideoXTransformer3DModel, processor: UnionAttention) -> Iterator[None]:
    before = dict(transformer.attn_processors)
    transformer.set_attn_processor(processor)
    try:
        yield
    finally:
        transformer.set_attn_processor(before)


class UnionAttention:
    """CogVideoX's joint attention, with the reference stream's keys in the softmax and the maps read on the way.

    With `memory` a batch is [main…, reference…]: main row i attends to its own keys and to those of reference row i, at
    the same rotary positions; reference rows attend to themselves.
    """

    def __init__(self, memory: bool, maps: CapturedMaps | None) -> None:
        self.memory, self.maps = memory, maps

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The layer's output for video and text tokens, each [b, tokens, width]."""
        if attention_mask is not None:
            raise ParameterError(
                "an attention mask", source="attention_kwargs", remedy="capture without a mask: CogVideoX uses none"
            )
        text = encoder_hidden_states.shape[1]
        joint = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        q, k, v = _heads(attn, joint, text, image_rotary_emb)
        main = self._main_rows(len(joint))
        output, lse = attention_with_lse(q, k, v)
        reference_lse = None
        if self.memory:
            remembered, reference_lse = attention_with_lse(q[:main], k[main:], v[main:])
            share = torch.sigmoid(lse[:main] - reference_lse)
            output = torch.cat([merge(output[:main], remembered, share), output[main:]])
        if self.maps is not None:
            row = self._captured_row(self.maps.spec.stream, main)
            reference = None if reference_lse is None else (k[main + row], reference_lse[row])
            self.maps.add(q[row], k[row], lse[row], reference)
        states: Tensor = attn.to_out[1](attn.to_out[0](output.transpose(1, 2).flatten(2)))
        return states[:, text:], states[:, :text]

    def _main_rows(self, batch: int) -> int:
        if self.memory and batch % 2:
            raise ParameterError(
                f"a batch of {batch} has no second half", source="CaptureSpec.memory", remedy="run [main…, reference…]"
            )
        return batch // 2 if self.memory else batch

    @staticmethod
    def _captured_row(stream: int | None, main: int) -> int:
        row = main - 1 if stream is None else stream
        if not 0 <= row < main:
            raise ParameterError(
                f"stream {row} of {main} main rows",
                source="CaptureSpec.stream",
                remedy="choose a main row of the batch",
            )
        return row


def _heads(
    attn: Attention, joint: Tensor, text: int, rotary: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [b, h, L, d] after the head norms; video tokens of q and k are rotated, text tokens are not."""
    q, k, v = (
        layer(joint).unflatten(2, (attn.heads, -1)).transpose(1, 2) for layer in (attn.to_q, attn.to_k, attn.to_v)
    )
    q = q if attn.norm_q is None else attn.norm_q(q)
    k = k if attn.norm_k is None else attn.norm_k(k)
    if rotary is not None:
        q, k = (torch.cat([x[:, :, :text], apply_rotary_emb(x[:, :, text:], rotary)], dim=2) for x in (q, k))
    return q, k, v
