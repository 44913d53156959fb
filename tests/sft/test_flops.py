"""FLOPs of a training step against torch's counter, all tiny families: equal, but for terms that are written here."""

import re

import pytest
from torch.utils.flop_counter import FlopCounterMode

from components.models.vlm.example import collate
from components.sft.flops import TrainingFlops
from components.sft.loss import response_loss
from tests.models.vlm.cases import NAMES, example, load

MERGER = r"merger|multi_modal_projector"
LLM = r"language_model|lm_head"


@pytest.fixture(params=NAMES)
def fresh(request):
    """A model whose attention is made of products, which the counter sees (on a CPU it passes fused attention over)."""
    vlm = load(request.param, rows=False)
    vlm.model.set_attn_implementation("eager")
    vlm.model.train()
    return vlm


def head_size(text):
    """Of an attention head, which need not be its share of the width."""
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def counted(vlm, one):
    """FLOPs of a forward and a backward pass, without the positions' product with the rotary frequencies."""
    batch, text = collate([one]), vlm.model.config.get_text_config()
    with FlopCounterMode(display=False) as counter:
        out = vlm.forward(batch)
        response_loss(out.logits_BLV, out.targets_BL).backward()
    return counter.get_total_flops() - 2 * one.position_ids.numel() * head_size(text) // 2


def freeze(vlm, *patterns):
    for name, parameter in vlm.model.named_parameters():
        parameter.requires_grad_(not any(re.search(pattern, name) for pattern in patterns))


@pytest.mark.parametrize("frozen", ["", "tower", "tower merger", "merger llm", "llm", "tower llm"])
def test_trained_and_frozen_parts(fresh, frozen):
    parts = {"tower": fresh.family.tower, "merger": MERGER, "llm": LLM}
    freeze(fresh, *(parts[part] for part in frozen.split()))
    one = example(fresh, n=5, height=64, width=96)  # with Qwen's 2 × 3 cells a window is cut off
    assert TrainingFlops(fresh).of(one) == counted(fresh, one)


def test_low_rank_updates(fresh):
    rank = 4
    fresh.add_lora(rank, 2.0 * rank, 0.0, ["q_proj", "k_proj", "v_proj", "o_proj"])
    one, text = example(fresh), fresh.model.config.get_text_config()
    width, queries, keys = (
        text.hidden_size,
        *(head_size(text) * count for count in (text.num_attention_heads, text.num_key_value_heads)),
    )
    # to the first layer's input no gradient flows: neither through q, k and v nor through their updates
    spared = 2 * len(one.input_ids) * (width * (queries + 2 * keys) + 3 * width * rank)
    assert TrainingFlops(fresh).of(one) == counted(fresh, one) + spared
