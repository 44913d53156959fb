"""Captured rows against the models' own eager attention, and one layer against a naive softmax in float64."""

import copy

import pytest
import torch

from components.core.errors import DataError, ParameterError
from components.models.vlm.example import collate
from components.models.vlm.interface import Conversation
from components.models.vlm.rows import RowRequest, attention_rows, request_rows
from tests.arithmetic import rounding
from tests.models.vlm.cases import NAMES, TALK, clip, example, load

OTHER = Conversation([], "Why?", "Because it is red and moves.")


def is_qk(name):
    """Whether a parameter makes the language model's queries or keys."""
    return "language_model" in name and ("q_proj" in name or "k_proj" in name)


@pytest.fixture(scope="module", params=NAMES)
def vlm(request):
    made = load(request.param)
    with torch.no_grad():
        for name, weight in made.model.named_parameters():
            if is_qk(name):
                weight.mul_(4)  # rows that differ by head and layer
    return made


def batch_of(vlm, count, side):
    """Samples of different lengths and different numbers of cells, with all rows behind the video."""
    examples = [vlm.prepare(TALK, *clip(4)), vlm.prepare(OTHER, *clip(2, 120, 60, seed=2))][:count]
    rows = [torch.arange(int(one.video_columns[-1]) + 2, len(one.input_ids), 2) for one in examples]
    return examples, collate(examples, side), rows


def eager_rows(vlm, batch, examples, rows):
    """The full maps of transformers' eager attention, averaged over heads and layers, read at rows and cells."""
    eager = copy.copy(vlm)
    eager.model = copy.deepcopy(vlm.model)
    eager.model.set_attn_implementation("eager")
    maps = torch.stack(eager.model(**eager.arguments(batch), use_cache=False, output_attentions=True).attentions)
    assert len(maps) == 3
    mean_BNN = maps.mean((0, 2))
    found = []
    for b, one in enumerate(examples):
        start = int(batch["start"][b])
        found.append(mean_BNN[b][rows[b] + start][:, one.video_columns + start])
    return eager.model, found


def qk_gradients(model):
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if is_qk(name)}


@pytest.mark.parametrize(("count", "side"), [(1, "right"), (2, "right"), (2, "left")])
@pytest.mark.parametrize("mode", ["plain", "checkpoint", "chunks"])
def test_rows_and_gradients_equal_eager(vlm, count, side, mode):
    examples, batch, rows = batch_of(vlm, count, side)
    generator = torch.Generator().manual_seed(1)
    shapes = [(len(r), len(e.video_columns)) for r, e in zip(rows, examples, strict=True)]
    weights = [torch.randn(*shape, generator=generator) for shape in shapes]

    def loss(parts):
        return sum((100 * part * weight).sum() for part, weight in zip(parts, weights, strict=True))

    model, expected = eager_rows(vlm, batch, examples, rows)
    loss(expected).backward()
    wanted = qk_gradients(model)

    if mode == "checkpoint":
        vlm.model.train()
        vlm.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        vlm.model.zero_grad()
        rows_BRS = vlm.vision_rows(batch, rows, heads_chunk=1 if mode == "chunks" else None)
        parts = [rows_BRS[b, : len(rows[b]), : len(one.video_columns)] for b, one in enumerate(examples)]
        loss(parts).backward()
    finally:
        vlm.model.gradient_checkpointing_disable()
        vlm.model.eval()
    for part, value in zip(parts, expected, strict=True):
        assert float(value.detach().std()) > 1e-4
        torch.testing.assert_close(part, value, rtol=0, atol=rounding(64))
    found = qk_gradients(vlm.model)
    assert set(found) == set(wanted)
    assert len(found) >= 2 * 3
    for name, gradient in found.items():
        scale = wanted[name].norm()
        assert scale > 0
        assert (gradient - wanted[name]).norm() <= rounding(batch["input_ids"].shape[1]) * scale, name
    outside = rows_BRS.detach().clone()
    for b, part in enumerate(parts):
        outside[b, : part.shape[0], : part.shape[1]] = 0
    assert float(outside.abs().max()) == 0


def test_gradient_reaches_the_vision_tower(vlm):
    _, batch, rows = batch_of(vlm, 1, "right")
    vlm.model.zero_grad()
    vlm.vision_rows(batch, rows).square().sum().backward()
    matrices = [one for name, one in vlm.model.named_parameters() if vlm.part(name) == "vision" and one.dim() > 1]
    assert all(float(weight.grad.abs().sum()) > 0 for weight in matrices)


@pytest.mark.parametrize("side", ["left", "right"])
def test_capture_leaves_the_output_alone(vlm, side):
    _, batch, rows = batch_of(vlm, 2, side)
    stock = copy.copy(vlm)
    stock.model = copy.deepcopy(vlm.model)
    stock.model.set_attn_implementation("sdpa")
    with torch.no_grad():
        with_rows = vlm.forward(batch, request_rows(batch, rows)).logits_BLV
        assert torch.equal(with_rows, vlm.forward(batch).logits_BLV)
        assert torch.equal(with_rows, stock.forward(batch).logits_BLV)


def test_reentrant_checkpointing_is_refused(vlm):
    _, batch, rows = batch_of(vlm, 1, "right")
    vlm.model.train()
    vlm.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    try:
        with pytest.raises(ParameterError, match="reentrant"):
            vlm.vision_rows(batch, rows)
        vlm.model.eval()
        vlm.vision_rows(batch, rows)  # nothing is recomputed in evaluation
    finally:
        vlm.model.gradient_checkpointing_disable()
        vlm.model.eval()


def test_rows_must_stand_behind_the_video(vlm):
    made = example(vlm)
    last = int(made.video_columns[-1])
    for row in (0, last, len(made.input_ids)):
        with pytest.raises(DataError, match="not all between"):
            request_rows(collate([made]), [torch.tensor([row])])
    request_rows(collate([made]), [torch.tensor([last + 1, len(made.input_ids) - 1])])


def test_a_model_without_rows_says_so():
    plain = load(NAMES[0], rows=False)
    made = example(plain)
    with pytest.raises(RuntimeError, match="rows=True"):
        plain.vision_rows(collate([made]), [torch.tensor([len(made.input_ids) - 2])])


# One layer ------------------------------------------------------------------------------------------------------------

B, H, K, N, D, R = 2, 6, 2, 40, 8, 5


def layer(dtype=torch.float32, length=N):
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(B, heads, length, D, generator=generator).mul(2).to(dtype) for heads in (H, K))
    rows = torch.randint(8, length, (B, R), generator=generator)
    return query, key, rows


def naive(query, key, rows, allowed_BNN):
    """Head by head, row by row, in float64."""
    out = torch.zeros(B, rows.shape[1], key.shape[2], dtype=torch.float64)
    for b in range(B):
        for r, row in enumerate(rows[b].tolist()):
            for h in range(H):
                logits = key[b, h // (H // K)].double() @ query[b, h, row].double() / D**0.5
                logits[~allowed_BNN[b, row]] = -torch.inf
                out[b, r] += logits.softmax(0) / H
    return out


CAUSAL = torch.ones(N, N, dtype=torch.bool).tril().expand(B, -1, -1)


@pytest.mark.parametrize("kind", ["none", "boolean", "additive"])
@pytest.mark.parametrize("chunk", [None, 1])
def test_one_layer_against_naive(kind, chunk):
    query, key, rows = layer()
    padded = CAUSAL.clone()
    padded[1, :, :6] = False
    allowed = CAUSAL if kind == "none" else padded
    additive = torch.zeros(B, 1, N, N).masked_fill(~padded[:, None], -1e30)
    mask = {"none": None, "boolean": padded[:, None], "additive": additive}[kind]
    row_mask = torch.ones(B, R, dtype=torch.bool)
    row_mask[1, -1] = False
    cols = torch.tensor([[7, 3, 3, 20], [30, 6, 8, 0]])
    expected = naive(query, key, rows, allowed) * row_mask[..., None]
    full = attention_rows(query, key, D**-0.5, mask, RowRequest(rows, row_mask, heads_chunk=chunk))
    assert (full - expected).abs().max() < rounding(D)
    col_mask = torch.tensor([[True] * 4, [True] * 3 + [False]])
    some = attention_rows(query, key, D**-0.5, mask, RowRequest(rows, row_mask, cols, chunk, col_mask))
    expected = torch.stack([expected[b][:, cols[b]] for b in range(B)])
    expected[1, :, 3] = 0
    assert (some - expected).abs().max() < rounding(D)


def test_bf16_logits_are_computed_in_fp32():
    """The truth is the softmax of the bf16 q and k; rounding logits to bf16, as eager attention does, misses it."""
    query, key, rows = layer(torch.bfloat16)
    expected = naive(query, key, rows, CAUSAL)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention_rows(query, key, D**-0.5, None, RowRequest(rows, torch.ones(B, R, dtype=torch.bool)))
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < rounding(D)


def test_a_cache_is_refused():
    query, key, rows = layer()
    with pytest.raises(ValueError, match="whole sequence"):
        attention_rows(query[:, :, -1:], key, 1.0, None, RowRequest(rows, torch.ones(B, R, dtype=torch.bool)))
