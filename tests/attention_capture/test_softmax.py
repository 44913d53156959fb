"""Attention with its log-sum-exp: fused and blockwise against float64, unions of key sets, the choice of the kernel."""

import logging

import pytest
import torch

from components.attention_capture import softmax
from tests.arithmetic import rounding

WIDTH = 16
# logits are sums of 16 products, whose magnitudes add up to 10; outputs and log-sum-exps inherit their errors
CLOSE = rounding(WIDTH, size=10)
# a kernel may round probabilities to the format of its inputs before it adds them up, and then the output
ROUNDED = torch.finfo(torch.bfloat16).eps


def tensors(dtype, queries=37, keys=50, width=WIDTH):
    generator = torch.Generator().manual_seed(0)
    return [2 * torch.randn(2, 3, n, width, generator=generator).to(dtype) for n in (queries, keys, keys)]


def naive(q, k, v):
    logits = q.double() @ k.double().mT / q.shape[-1] ** 0.5
    return torch.softmax(logits, -1) @ v.double(), torch.logsumexp(logits, -1)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, CLOSE), (torch.bfloat16, ROUNDED)])
@pytest.mark.parametrize("attend", [softmax.attention_with_lse, softmax.blockwise_attention])
def test_output_and_lse(attend, dtype, close):
    q, k, v = tensors(dtype)
    output, lse = attend(q, k, v)
    expected, expected_lse = naive(q, k, v)
    assert (output.dtype, lse.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(output.double(), expected, atol=3 * close, rtol=2 * close)
    torch.testing.assert_close(lse.double(), expected_lse, atol=close, rtol=0)


def test_strided_inputs():
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors(torch.float32))
    torch.testing.assert_close(softmax.attention_with_lse(q, k, v)[0].double(), naive(q, k, v)[0], atol=CLOSE, rtol=0)


def test_blocks_of_any_size_agree(monkeypatch):
    q, k, v = tensors(torch.float32)
    whole = softmax.blockwise_attention(q, k, v)
    monkeypatch.setattr(softmax, "BLOCK_ELEMENTS", 1000)
    for a, b in zip(softmax.blockwise_attention(q, k, v), whole, strict=True):
        torch.testing.assert_close(a, b, atol=CLOSE, rtol=0)


def test_merge_is_the_softmax_over_both_key_sets():
    q, k, v = tensors(torch.float32)
    parts = (slice(20), slice(20, None))
    first, second = (softmax.attention_with_lse(q, k[:, :, part], v[:, :, part]) for part in parts)
    union = softmax.merge(first[0], second[0], torch.sigmoid(first[1] - second[1]))
    torch.testing.assert_close(union.double(), naive(q, k, v)[0], atol=CLOSE, rtol=0)


@pytest.fixture
def fresh_choice():
    softmax._kernel.cache_clear()
    yield
    softmax._kernel.cache_clear()


def broken(q, k, v):
    raise RuntimeError("no kernel for this")


def wrong(q, k, v):
    output, lse = softmax.blockwise_attention(q, k, v)
    return output, lse * 1.01


@pytest.mark.parametrize(("kernel", "message"), [(broken, "not usable"), (wrong, "is off by")])
def test_a_kernel_that_fails_its_check_is_not_used(monkeypatch, caplog, fresh_choice, kernel, message):
    monkeypatch.setattr(softmax, "_cpu", kernel)
    q, k, v = tensors(torch.float32)
    with caplog.at_level(logging.WARNING):
        output, lse = softmax.attention_with_lse(q, k, v)
    assert message in caplog.text
    expected, expected_lse = naive(q, k, v)
    torch.testing.assert_close(output.double(), expected, atol=CLOSE, rtol=0)
    torch.testing.assert_close(lse.double(), expected_lse, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_kernel_is_used_on_this_machine(fresh_choice, dtype):
    assert softmax._kernel(torch.device("cpu"), dtype, 64) is softmax._cpu
