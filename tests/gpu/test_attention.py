"""Attention on a GPU: fused kernels' log-sum-exp, captured maps against float64 maps, a VLM's rows against eager."""

import copy
import logging

import pytest
import torch

from components.attention_capture import softmax
from components.attention_capture.capture import CaptureSpec, capture_attention
from components.models.registry import ensure_tiny
from components.models.video import load_vdm
from components.models.video.interface import EncodedText
from components.models.vlm.example import collate
from components.models.vlm.model import load_vlm
from tests.attention_capture.oracle import naive_attention, parts
from tests.conftest import VDM_TWINS
from tests.models.vlm.cases import NAMES, TALK, clip

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
WORDS = (0, 2, 5)
TEXTS = (  # of six tokens for every twin
    "a blue circle rolls right fast",
    "the red square moves left slowly",
    "another ball jumps over the box",
    "the dog walks away from camera",
)
FORMATS = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.mark.parametrize("width", [16, 32, 64, 128])
@pytest.mark.parametrize("dtype", FORMATS)
def test_the_fused_kernel_answers_and_is_right(dtype, width, caplog):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (2 * torch.randn(2, 3, n, width, generator=generator).to(dtype) for n in (301, 530, 530))
    logits = q.double() @ k.double().mT / width**0.5
    softmax._kernel.cache_clear()
    with caplog.at_level(logging.WARNING):
        output, lse = softmax.attention_with_lse(*(x.to(DEVICE) for x in (q, k, v)))
    assert not caplog.records  # no fall back to blocks
    assert (output.dtype, lse.dtype, output.device.type) == (dtype, torch.float32, torch.device(DEVICE).type)
    torch.testing.assert_close(
        output.cpu().double(), torch.softmax(logits, -1) @ v.double(), atol=FORMATS[dtype], rtol=0.01
    )
    torch.testing.assert_close(lse.cpu().double(), torch.logsumexp(logits, -1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("variant", VDM_TWINS)
@pytest.mark.parametrize("norm", ["own", "joint", "fold"])
@pytest.mark.parametrize("memory", [False, True], ids=["one_stream", "two_streams"])
@pytest.mark.parametrize(("dtype", "atol", "relative"), [("float32", 1e-5, 1e-5), ("bfloat16", 0.0, 0.03)])
def test_maps_are_those_of_the_whole_softmax(variant, norm, memory, dtype, atol, relative):
    vdm, reference = load_vdm(ensure_tiny(variant), dtype, DEVICE), load_vdm(ensure_tiny(variant), "float32", "cpu")
    reference.transformer.to(vdm.dtype).float()  # the same rounded weights
    batch = 4 if memory else 2
    x = torch.randn(batch, 3, 4, 6, 8, generator=torch.Generator().manual_seed(3)).to(vdm.dtype)
    text = EncodedText.batch([vdm.encode_text(text) for text in TEXTS[:batch]])
    on_cpu = EncodedText(*(None if part is None else part.cpu().float() for part in (text.tokens, text.pooled)))
    grid = vdm.patch_grid((3, 6, 8))
    size = grid[0] * grid[1] * grid[2]
    with naive_attention(reference.transformer, stream=1, memory=memory) as oracle:
        expected = reference.velocity(x.float(), 499, on_cpu)
    with capture_attention(vdm.transformer, CaptureSpec(WORDS, grid, norm=norm, rows=size, memory=memory)) as maps:
        output = vdm.velocity(x.to(DEVICE), 499, text)
    assert float((output.cpu() - expected).norm() / expected.norm()) <= relative
    t2v, diag, text_mass, v2v = parts(oracle.mean(norm), WORDS, grid)
    for ours, theirs in ((maps.t2v, t2v), (maps.diag, diag), (maps.rows, v2v), (maps.text_mass, text_mass)):
        assert ours.dtype == torch.float32
        assert float((ours.cpu().double() - theirs).abs().max()) <= atol + relative * float(theirs.max())
    assert maps.count == vdm.sizes.layers


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "relative", "gradient"), [(torch.float32, 1e-5, 1e-4), (torch.bfloat16, 0.05, 0.2)])
def test_rows_and_gradients_equal_eager(name, dtype, relative, gradient):
    vlm = load_vlm(ensure_tiny(name), dtype, DEVICE)
    with torch.no_grad():
        for weight_name, weight in vlm.model.named_parameters():
            if "language_model" in weight_name and ("q_proj" in weight_name or "k_proj" in weight_name):
                weight.mul_(4)
    example = vlm.prepare(TALK, *clip(4))
    batch, rows = collate([example]), torch.arange(int(example.video_columns[-1]) + 2, len(example.input_ids), 2)
    weights = torch.randn(len(rows), len(example.video_columns), generator=torch.Generator().manual_seed(1)).to(DEVICE)

    eager = copy.copy(vlm)
    eager.model = copy.deepcopy(vlm.model)
    eager.model.set_attn_implementation("eager")
    maps = torch.stack(eager.model(**eager.arguments(batch), use_cache=False, output_attentions=True).attentions)
    expected = maps.float().mean((0, 2))[0][rows.to(DEVICE)][:, example.video_columns.to(DEVICE)]
    (100 * expected * weights).sum().backward()
    found = vlm.vision_rows(batch, [rows])[0]
    (100 * found * weights).sum().backward()
    assert found.dtype == torch.float32
    assert float((found - expected).detach().norm()) <= relative * float(expected.detach().norm())
    for (weight_name, ours), theirs in zip(vlm.model.named_parameters(), eager.model.parameters(), strict=True):
        if "language_model" in weight_name and ("q_proj" in weight_name or "k_proj" in weight_name):
            assert float((ours.grad - theirs.grad).norm()) <= gradient * float(theirs.grad.norm()), weight_name
