"""Reading a video model's attention while it runs: A_mm = softmax(QKᵀ/√d) of one stream, per head (method step 2).

`capture_attention` takes the attention of every layer over and gives it back; how q, k and v come out of a layer is the
model family's. `UnionAttention` computes the layer's own output (with `memory`, exact attention to the union of the
stream's own and the reference stream's keys and values), and hands q, k and the log-sum-exp to `CapturedMaps`. A stock
pipeline call works as it is:

    spec = CaptureSpec(text_indices=(0, 1, 2), grid=(13, 30, 45))
    with capture_attention(pipeline.transformer, spec) as maps:
        pipeline("a red ball rolls", num_inference_steps=5)
    maps.t2v, maps.diag, maps.reduce()

Legend: b batch, L = text + video sequence, h heads, d head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from components.attention_capture.maps import CapturedMaps, CaptureSpec, HeadReductions
from components.attention_capture.softmax import attention_with_lse, merge
from components.core.errors import ParameterError
from components.models.video import family_of_transformer

__all__ = ["CaptureSpec", "CapturedMaps", "HeadReductions", "capture_attention", "cross_stream_memory"]


@contextmanager
def capture_attention(transformer: nn.Module, spec: CaptureSpec) -> Iterator[CapturedMaps]:
    """Capture every forward pass of `transformer` in the block; afterwards, also after an exception, it is as before.

    Raises:
        ParameterError: a transformer of no known family, or, at the forward pass, a batch, grid or text that does not
            fit `spec`.
    """
    maps = CapturedMaps(spec)
    with family_of_transformer(transformer).attention(transformer, UnionAttention(spec.memory, maps)):
        yield maps


def cross_stream_memory(transformer: nn.Module) -> AbstractContextManager[None]:
    """Let the batch's first half also attend to the second half's keys and values; nothing is captured."""
    return family_of_transformer(transformer).attention(transformer, UnionAttention(memory=True, maps=None))


class UnionAttention:
    """Joint attention with the reference stream's keys in the softmax, and the maps read on the way.

    With `memory` a batch is [main…, reference…]: main row i attends to its own keys and to those of reference row i, at
    the same rotary positions; reference rows attend to themselves.
    """

    def __init__(self, memory: bool, maps: CapturedMaps | None) -> None:
        self.memory, self.maps = memory, maps

    def __call__(
        self, q: Float[Tensor, "b h L d"], k: Float[Tensor, "b h L d"], v: Float[Tensor, "b h L d"]
    ) -> Float[Tensor, "b h L d"]:
        """Return the output of one layer; q and k are after norms and rotary embedding, text tokens first."""
        main = self._main_rows(len(q))
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
        return output

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
