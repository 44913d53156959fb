"""Rows of the VLM's attention: their cost over plain SDPA, and their saving against `output_attentions`.

The model is a Qwen2.5-VL of the real class with random weights that sees 16 frames; 40 words' rows are asked for. On a
CPU it has 4 layers with 8 query and 2 key-value heads of 64 (float32), on a GPU 8 layers of the 3B's language model
(bfloat16). A step is forward, both losses of the fine-tuning (plain SDPA: L_AR alone) and backward. The eager side
reads the same rows out of full maps, in the language model only: its vision tower stays on SDPA. All three sides are
checked to give the same logits, and the two with rows the same rows, before anything is measured.

Legend: B samples, H heads, N tokens, R rows, S visual cells.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

from bench.measure import memory_ratio, time_ratio
from bench.table import Row
from components.media.map_algebra import map_distance
from components.models.vlm.example import Batch, collate
from components.models.vlm.interface import Conversation
from components.models.vlm.model import Vlm, VlmOutput, load_vlm
from components.models.vlm.qwen2_5_vl import make_tiny
from components.models.vlm.rows import request_rows
from components.sft.loss import response_loss

SIDES = ("rows", "sdpa", "eager")
NUM_FRAMES, NUM_ROWS = 16, 40
QUESTION = "describe the motion of the red ball in the video and what happens to the white circle"
RESPONSE = (
    "the red ball moves left to right and bounces down while the yellow circle stands still then the white camera "
    "pans away from the ball and the person rotates towards the green letter which grows and shrinks slowly in order"
)


class Setup(NamedTuple):
    """A device's language model, the pixels of a frame, and the tolerance of logits and (relative) of rows."""

    device: str
    dtype: torch.dtype
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    sections: list[int]
    height: int
    width: int
    tolerance: float


_CPU = Setup("cpu", torch.float32, 512, 2048, 4, 8, [8, 12, 12], 12 * 28, 16 * 28, 1e-3)
_CUDA = Setup("cuda", torch.bfloat16, 2048, 11008, 8, 16, [16, 24, 24], 24 * 28, 28 * 28, 0.1)
SETUP = _CUDA if torch.cuda.is_available() else _CPU


@dataclass(frozen=True, eq=False)
class Setting:
    """A model, one conversation, and the rows that are wanted with the prior they are held against."""

    vlm: Vlm
    batch: Batch
    rows_R: Int[Tensor, " R"]
    shape: tuple[int, int, int]
    prior_RFHW: Float[Tensor, "R F H W"]


class Answer(NamedTuple):
    """Of one forward pass."""

    output: VlmOutput
    rows_BRS: Float[Tensor, "B R S"] | None


def rows(pairs: int = 5) -> Iterator[Row]:
    """Measure the VLM's rows of the table."""
    check_agreement()
    length = setting("rows").batch["input_ids"].shape[1]
    end = f"forward + backward, N={length}"
    yield time_ratio(f"VLM rows / plain SDPA, time, {end}", 1.25, work("rows", "any"), work("sdpa", "any"), pairs)
    yield memory_ratio(f"VLM rows / plain SDPA, peak memory, {end}", 1.25, "language:rows:any", "language:sdpa:any")
    yield memory_ratio(
        f"VLM rows / eager output_attentions, peak memory, {end}", 0.5, "language:rows:any", "language:eager:any"
    )


def work(side: str, size: str) -> Callable[[], object]:
    """Return a training step without its update; gradient buffers stay allocated. There is one size only."""
    made = setting(side)

    def step() -> None:
        made.vlm.model.zero_grad(set_to_none=False)
        _loss(made, answer(made, side)).backward()  # type: ignore[no-untyped-call]

    return step


def _loss(made: Setting, found: Answer) -> Float[Tensor, ""]:
    loss = response_loss(found.output.logits_BLV, found.output.targets_BL)
    if found.rows_BRS is not None:
        loss = loss + map_distance(found.rows_BRS[0].reshape(-1, *made.shape), made.prior_RFHW)
    return loss


def answer(made: Setting, side: str) -> Answer:
    """Return logits, and the rows where this side has them."""
    if side == "eager":
        return _eager(made)
    request = request_rows(made.batch, [made.rows_R]) if side == "rows" else None
    output = made.vlm.forward(made.batch, request)
    return Answer(output, output.rows_BRS)


def _eager(made: Setting) -> Answer:
    """Do it as transformers does: every layer returns its whole map, and the rows are read out of them."""
    kept: list[tuple[Tensor, ...]] = []
    model = made.vlm.model
    hooks = [
        model.register_forward_pre_hook(
            lambda module, args, kwargs: (args, {**kwargs, "output_attentions": True}), with_kwargs=True
        ),
        model.register_forward_hook(lambda module, args, output: kept.append(output.attentions)),
    ]
    try:
        output = made.vlm.forward(made.batch)
    finally:
        for hook in hooks:
            hook.remove()
    cols_S = made.batch["video_columns"][0]
    layers_BRS = [map_BHNN[:, :, made.rows_R][..., cols_S].mean(1) for map_BHNN in kept[0]]
    return Answer(output, torch.stack(layers_BRS).mean(0))


def check_agreement() -> None:
    """Compare what the sides compute.

    Raises:
        RuntimeError: they differ; then no ratio means anything.
    """
    with torch.no_grad():
        found = {side: answer(setting(side), side) for side in SIDES}
    for side in ("rows", "eager"):
        if not torch.allclose(found[side].output.logits_BLV, found["sdpa"].output.logits_BLV, atol=SETUP.tolerance):
            raise RuntimeError(f"logits of {side} and SDPA differ")
    ours, theirs = found["rows"].rows_BRS, found["eager"].rows_BRS
    assert ours is not None
    assert theirs is not None
    if not torch.allclose(ours.float(), theirs.float(), rtol=SETUP.tolerance, atol=1e-4 * SETUP.tolerance):
        raise RuntimeError("the rows differ from those of the full maps")


@cache
def setting(side: str) -> Setting:
    """Return the model with one attention, and the same conversation and rows for all of them."""
    with tempfile.TemporaryDirectory() as folder:
        vlm = load_vlm(write_model(Path(folder), SETUP), SETUP.dtype, SETUP.device, rows=side == "rows")
    if side == "eager":
        vlm.model.set_attn_implementation({"text_config": "eager"})
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (NUM_FRAMES, SETUP.height, SETUP.width, 3), dtype=np.uint8)
    example = vlm.prepare(
        Conversation([], QUESTION, RESPONSE), frames, [k / 2 for k in range(NUM_FRAMES)], NUM_FRAMES / 2
    )
    behind = torch.arange(int(example.video_columns[-1]) + 1, len(example.input_ids))
    rows_R = behind[torch.linspace(0, len(behind) - 1, NUM_ROWS).long()]
    prior = torch.rand(NUM_ROWS, *example.grid.shape, generator=torch.Generator().manual_seed(0)).to(SETUP.device)
    return Setting(vlm, collate([example]), rows_R, example.grid.shape, prior)


def write_model(folder: Path, setup: Setup) -> Path:
    """Write the tiny twin's files with a larger language model; its small vision tower makes the ratios stricter."""
    make_tiny(folder)
    config = AutoConfig.from_pretrained(folder)
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = setup.hidden, setup.feed_forward, setup.layers
    text.num_attention_heads, text.num_key_value_heads = setup.heads, 2
    text.layer_types = ["full_attention"] * text.num_hidden_layers
    text.initializer_range = 0.02
    text.rope_parameters = {**text.rope_parameters, "mrope_section": setup.sections}
    config.vision_config.out_hidden_size = text.hidden_size
    with torch.random.fork_rng(), torch.device(setup.device):
        torch.manual_seed(0)
        Qwen2_5_VLForConditionalGeneration(config).to(setup.dtype).save_pretrained(folder)
    return folder
