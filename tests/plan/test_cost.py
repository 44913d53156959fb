"""Cost formulas against what a FLOP counter measures on the real transformer class."""

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from torch.utils.flop_counter import FlopCounterMode

from components.models.video.interface import Sizes
from components.plan.cost import ClipCost


def test_published_size_gives_the_known_flops():
    clip = ClipCost(Sizes(42, 48, 3072, 226, 16, 2, 1, 8, 4, (49, 480, 720)), 49, 480, 720)
    assert clip.tokens == 17550
    # measured on meta tensors: 332.2 TF a forward; the closed form leaves norms, embeddings and the head out
    assert clip.inversion(1, 0) == pytest.approx(332.2e12, rel=0.02)
    assert clip.trajectory_bytes(5, 2) == 6 * 16 * 13 * 60 * 90 * 2


def test_formula_against_a_flop_counter():
    layers, heads, dim = 3, 8, 64
    with torch.device("meta"):
        sizes = {"num_attention_heads": heads, "attention_head_dim": dim, "num_layers": layers, "sample_frames": 17}
        text_sizes = {"text_embed_dim": 32, "time_embed_dim": 64, "max_text_seq_length": 16}
        net = CogVideoXTransformer3DModel(
            **sizes, **text_sizes, sample_width=32, sample_height=32, use_rotary_positional_embeddings=True
        )
        latents, text, time = torch.empty(1, 5, 16, 32, 32), torch.empty(1, 16, 32), torch.empty(1, dtype=torch.long)
        rope = (torch.empty(5 * 256, dim), torch.empty(5 * 256, dim))
        with FlopCounterMode(display=False) as counter:
            net(latents, text, time, image_rotary_emb=rope)
    clip = ClipCost(Sizes(layers, heads, heads * dim, 16, 16, 2, 1, 8, 4, (17, 256, 256)), 17, 256, 256)
    assert clip.inversion(1, 0) == pytest.approx(counter.get_total_flops(), rel=0.05)
