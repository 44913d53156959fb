"""Captured attention against whole float64 maps, and the promise that nothing of size S × S is ever allocated."""

import itertools

import pytest
import torch
from diffusers import DiffusionPipeline
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from components.attention_capture import maps as maps_module
from components.attention_capture import softmax
from components.attention_capture.capture import CaptureSpec, capture_attention, cross_stream_memory
from components.core.errors import ParameterError
from components.models.video import load_vdm
from components.models.video.cogvideox import make_tiny
from components.models.video.interface import EncodedText
from tests.arithmetic import rounding
from tests.attention_capture.oracle import TERMS, naive_attention, parts

WORDS = (0, 2, 5)
TEXTS = (
    "a blue circle rolls right fast",
    "the red square moves left slowly",
    "another ball jumps over the box",
    "the dog walks away from camera",
)
OUTPUT = rounding(TERMS)  # of a velocity of unit variance
MAPS = rounding(64 + 16 + 144)  # of a probability: the norm, q·k, and the keys of one layer


@pytest.fixture(scope="module")
def five_b(tmp_path_factory):
    return load_vdm(make_tiny(tmp_path_factory.mktemp("tiny5b"), "5b"), "float32", "cpu")


def inputs(vdm, batch, frames=3, rows=6, cols=8):
    """Latents that differ between the rows of a batch, texts of six tokens likewise."""
    x = torch.randn(batch, frames, 4, rows, cols, generator=torch.Generator().manual_seed(3))
    return x, EncodedText.batch([vdm.encode_text(text) for text in TEXTS[:batch]]), vdm.patch_grid((frames, rows, cols))


def forward(vdm, x, text):
    """Two denoising times, so that the average is over steps and layers."""
    return torch.stack([vdm.velocity(x, t, text) for t in (799, 199)])


@pytest.mark.parametrize("norm", ["own", "joint", "fold"])
@pytest.mark.parametrize("memory", [False, True], ids=["one_stream", "two_streams"])
def test_maps_are_those_of_the_whole_softmax(vdm, norm, memory):
    batch = 4 if memory else 2
    x, text, grid = inputs(vdm, batch)
    size = grid[0] * grid[1] * grid[2]
    with naive_attention(vdm.transformer, stream=1, memory=memory) as oracle:
        expected = forward(vdm, x, text)
    with capture_attention(vdm.transformer, CaptureSpec(WORDS, grid, norm=norm, rows=size, memory=memory)) as maps:
        output = forward(vdm, x, text)
    torch.testing.assert_close(output, expected, atol=OUTPUT, rtol=0)
    full = oracle.mean(norm)
    t2v, diag, text_mass, v2v = parts(full, WORDS, grid)
    assert maps.count == 2 * vdm.sizes.layers
    for ours, theirs in ((maps.t2v, t2v), (maps.diag, diag), (maps.rows, v2v), (maps.text_mass, text_mass)):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).abs().max()) <= MAPS
        assert float((ours - theirs).abs().max()) <= 1e-3 * float(theirs.max())
    torch.testing.assert_close(maps.row_mass.double(), full[:, -size:].sum(-1), atol=MAPS, rtol=0)
    torch.testing.assert_close(maps.tau("map"), v2v.mean((1, 2)), rtol=MAPS, atol=0)
    torch.testing.assert_close(maps.tau("mask"), diag.mean((1, 2, 3)), rtol=MAPS, atol=0)
    if memory:  # the three norms are different quantities here, so that the test tells them apart
        others = [parts(oracle.mean(other), WORDS, grid)[0] for other in ("own", "joint", "fold") if other != norm]
        assert all(float((maps.t2v - other).abs().max()) > 1e-4 for other in others)


def test_reductions_are_those_of_the_whole_map(vdm):
    x, text, grid = inputs(vdm, 4)
    size = grid[0] * grid[1] * grid[2]
    with naive_attention(vdm.transformer, stream=1, memory=True) as oracle:
        forward(vdm, x, text)
    with capture_attention(vdm.transformer, CaptureSpec(WORDS, grid, rows=10 * size, memory=True)) as maps:
        forward(vdm, x, text)
    _, diag, _, v2v = parts(oracle.mean("own"), WORDS, grid)
    place = torch.arange(size) % (grid[1] * grid[2])
    same = place[:, None] == place[None]
    found = maps.reduce(thumbnail=size, places=3)
    squares = v2v.square()
    torch.testing.assert_close(found.sum_m, (squares * same).sum((1, 2)), rtol=MAPS, atol=0)
    torch.testing.assert_close(found.sum_not_m, (squares * ~same).sum((1, 2)), rtol=MAPS, atol=0)
    assert float(found.sum_not_m_error.abs().max()) == 0
    torch.testing.assert_close(found.thumbnail_hnn.double(), v2v * size, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.block_hBFF.double(), diag[:, list(found.places)] * size, atol=1e-4, rtol=1e-4)
    assert len(set(found.places)) == 3
    small = maps.reduce(thumbnail=6).thumbnail_hnn.double()
    pooled = v2v.reshape(len(v2v), 6, size // 6, 6, size // 6).mean((2, 4)) * size
    torch.testing.assert_close(small, pooled, atol=1e-4, rtol=1e-4)


def test_sampled_rows_are_rows_of_the_map_and_follow_the_seed(five_b):
    x, text, grid = inputs(five_b, 2)
    with naive_attention(five_b.transformer, stream=1, memory=False) as oracle:
        forward(five_b, x, text)
    v2v = parts(oracle.mean("own"), WORDS, grid)[3]
    picks = []
    for seed in (0, 0, 1):
        with capture_attention(five_b.transformer, CaptureSpec(WORDS, grid, rows=7, seed=seed)) as maps:
            forward(five_b, x, text)
        assert maps.rows.shape == (4, 7, v2v.shape[1])
        torch.testing.assert_close(maps.rows.double(), v2v[:, maps.row_indices], atol=MAPS, rtol=0)
        picks.append(maps.row_indices.tolist())
        assert maps.reduce(thumbnail=16).thumbnail_hnn.shape == (4, 16, 16)
        assert bool(torch.isfinite(maps.reduce().thumbnail_hnn).all())
    assert picks[0] == picks[1] != picks[2]


def test_the_rest_is_estimated_without_bias_and_its_error_is_honest():
    """160 samples of rows of one random map, against the exact sum."""
    generator = torch.Generator().manual_seed(0)
    grid, text = (3, 6, 8), 4
    length = text + 144
    q, k = torch.randn(2, 3, length, 16, generator=generator)
    q = q * 2.5  # peaky rows: their energies differ
    lse = torch.logsumexp(q.double() @ k.double().mT / 4, -1).float()

    def rest(rows, seed):
        maps = maps_module.CapturedMaps(CaptureSpec((0,), grid, rows=rows, seed=seed))
        maps.add(q, k, lse)
        found = maps.reduce(thumbnail=4)
        return found.sum_not_m, found.sum_not_m_error

    exact, _ = rest(144, 0)
    estimates, errors = (torch.stack(values) for values in zip(*(rest(36, seed) for seed in range(160)), strict=True))
    spread = estimates.std(0)
    assert bool(((estimates.mean(0) - exact).abs() < 4 * spread / 160**0.5).all())
    ratio = errors.square().mean(0).sqrt() / spread
    assert bool(((ratio > 0.8) & (ratio < 1.25)).all())
    covered = ((estimates - exact).abs() < 2 * errors).double().mean()
    assert covered > 0.85


def test_half_precision_q_and_k_lose_nothing_more():
    """Logits come from upcast q and k: the maps are those of the rounded tensors in float64."""
    generator = torch.Generator().manual_seed(0)
    grid, text = (2, 3, 4), 5
    q, k = (2 * torch.randn(2, 3, text + 24, 16, generator=generator)).bfloat16()
    logits = q.double() @ k.double().mT / 4
    maps = maps_module.CapturedMaps(CaptureSpec((1, 4), grid, rows=24))
    maps.add(q, k, torch.logsumexp(logits, -1).float())
    t2v, diag, text_mass, v2v = parts(torch.softmax(logits, -1), (1, 4), grid)
    for ours, theirs in ((maps.t2v, t2v), (maps.diag, diag), (maps.text_mass, text_mass), (maps.rows, v2v)):
        torch.testing.assert_close(ours.double(), theirs, atol=MAPS, rtol=1e-4)


@pytest.mark.parametrize("stream", [None, 0, 1])
def test_the_chosen_stream_is_captured(five_b, stream):
    x, text, grid = inputs(five_b, 2)
    with naive_attention(five_b.transformer, stream=1 if stream is None else stream, memory=False) as oracle:
        forward(five_b, x, text)
    with capture_attention(five_b.transformer, CaptureSpec(WORDS, grid, stream=stream)) as maps:
        forward(five_b, x, text)
    assert float((maps.t2v - parts(oracle.mean("own"), WORDS, grid)[0]).abs().max()) <= MAPS


def test_memory_alone_changes_the_main_rows_as_capture_does(vdm):
    x, text, grid = inputs(vdm, 4)
    with capture_attention(vdm.transformer, CaptureSpec(WORDS, grid, memory=True)):
        captured = forward(vdm, x, text)
    with cross_stream_memory(vdm.transformer):
        alone = forward(vdm, x, text)
    plain = forward(vdm, x, text)
    assert torch.equal(captured, alone)
    torch.testing.assert_close(alone[:, 2:], plain[:, 2:], atol=OUTPUT, rtol=0)
    assert float((alone[:, :2] - plain[:, :2]).abs().max()) > 1e-3


def test_processors_of_the_layers_come_back_also_after_an_exception(vdm):
    x, text, grid = inputs(vdm, 2)
    before = dict(vdm.transformer.attn_processors)
    with capture_attention(vdm.transformer, CaptureSpec(WORDS, grid)):
        inside = vdm.transformer.attn_processors
        taken = [name for name, processor in before.items() if inside[name] is not processor]
        assert len(taken) == vdm.sizes.layers
        assert not [name for name in taken if "refiner" in name]
    with pytest.raises(ParameterError), capture_attention(vdm.transformer, CaptureSpec(WORDS, (99, 1, 1))):
        forward(vdm, x, text)
    assert all(vdm.transformer.attn_processors[name] is processor for name, processor in before.items())


def test_a_stock_pipeline_call_is_captured(vdm, vdm_folder):
    """With a text behind which pads follow: HunyuanVideo masks them, CogVideoX does not."""
    pipeline = DiffusionPipeline.from_pretrained(vdm_folder)
    pipeline.set_progress_bar_config(disable=True)

    def call():
        size = {"height": 64, "width": 64, "num_frames": 17, "num_inference_steps": 2, "max_sequence_length": 64}
        generator = torch.Generator().manual_seed(0)
        return pipeline("a red ball rolls", **size, output_type="latent", generator=generator).frames

    plain = call()
    grid = vdm.patch_grid((5, 8, 8))
    with capture_attention(pipeline.transformer, CaptureSpec((0, 1, 2, 3), grid)) as maps:
        captured = call()
    torch.testing.assert_close(captured, plain, atol=OUTPUT, rtol=0)
    assert maps.count == 2 * vdm.sizes.layers
    assert maps.t2v.shape == (4, 4, grid[0] * 16)
    assert bool((maps.text_mass < 1).all())


class Spy(TorchDispatchMode):
    """The largest tensor that any operation returns, in elements."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.numel() and 0 not in leaf.stride():
                self.largest = max(self.largest, leaf.numel())
        return result


def largest_allocation(vdm, side, rows):
    """Of a two-stream capture on 4 × side × side tokens, reductions included."""
    x, text, grid = inputs(vdm, 4, frames=4, rows=2 * side, cols=2 * side)
    spec = CaptureSpec(WORDS, grid, norm="fold", rows=rows, memory=True)
    with Spy() as spy, capture_attention(vdm.transformer, spec) as maps:
        vdm.velocity(x, 199, text)
        maps.reduce()
        maps.tau()
    return spy.largest, 4 * side * side


@pytest.mark.parametrize("blockwise", [False, True], ids=["fused", "blockwise"])
def test_nothing_of_size_s_by_s_is_allocated(five_b, monkeypatch, blockwise):
    if blockwise:  # the fallback keeps to its budget
        monkeypatch.setattr(softmax, "BLOCK_ELEMENTS", 1 << 19)
        monkeypatch.setattr(maps_module, "BLOCK_ELEMENTS", 1 << 19)
        monkeypatch.setattr(softmax, "_kernel", lambda *_: softmax.blockwise_attention)
    else:
        largest_allocation(five_b, 4, 4)  # the kernel's self-check runs once
    for side in (24, 32):  # below, the feed-forward layer's own tensors are of that size
        largest, size = largest_allocation(five_b, side, rows=4 * side * side // 16)
        assert largest < 4 * size**2 / 4
    sides = (8, 12, 16)
    seen = [largest_allocation(five_b, side, rows=16) for side in sides]
    for (small, size), (large, bigger) in itertools.pairwise(seen):
        assert large / small <= 1.01 * bigger / size


def test_the_spy_sees_a_whole_map(five_b):
    largest, size = largest_allocation(five_b, 16, rows=4 * 16 * 16)
    assert largest >= 4 * size**2


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"norm": "both"}, "norm"),
        ({"grid": (3, 0, 4)}, "grid"),
        ({"rows": 1}, "rows"),
        ({"text_indices": ()}, "text_indices"),
        ({"text_indices": (1, 1)}, "text_indices"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_spec_that_means_nothing_is_refused(change, match):
    with pytest.raises(ParameterError, match=match):
        CaptureSpec(**{"text_indices": WORDS, "grid": (3, 3, 4), **change})


def test_a_call_that_does_not_fit_the_spec_is_refused(five_b):
    x, text, grid = inputs(five_b, 3)
    for spec, match in [
        (CaptureSpec(WORDS, (30, 3, 4)), "grid"),
        (CaptureSpec((64,), grid), "text"),
        (CaptureSpec(WORDS, grid, stream=3), "stream 3"),
        (CaptureSpec(WORDS, grid, memory=True), "second half"),
    ]:
        with pytest.raises(ParameterError, match=match), capture_attention(five_b.transformer, spec):
            five_b.velocity(x, 199, text)
    with pytest.raises(ParameterError, match="nothing"):
        _ = maps_module.CapturedMaps(CaptureSpec(WORDS, grid)).t2v
