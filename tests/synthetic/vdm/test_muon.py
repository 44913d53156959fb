"""Muon against the singular value decomposition and against torch's own, and which parameters it gets."""

import pytest
import torch

from components.synthetic.vdm.muon import Muon, orthogonal
from components.synthetic.vdm.network import make_denoiser
from components.synthetic.vdm.train import hidden_matrices


@pytest.mark.parametrize("shape", [(24, 24), (64, 16), (16, 64)])
def test_orthogonal_keeps_directions_and_levels_singular_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = orthogonal(matrix)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ found @ vh.T
    values = inside.diagonal()
    assert torch.allclose(inside, torch.diag(values), atol=1e-10)  # the same singular vectors
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.25  # the quintic does not settle on 1, by design


def test_steps_are_torchs_up_to_its_half_precision():
    generator = torch.Generator().manual_seed(1)
    start, grads = torch.randn(48, 16, generator=generator), torch.randn(3, 48, 16, generator=generator)
    ends = []
    for make in (lambda p: Muon([p], lr=0.1), lambda p: torch.optim.Muon([p], lr=0.1, weight_decay=0.0, momentum=0.95)):
        weight = torch.nn.Parameter(start.clone())
        optimizer = make(weight)
        for grad in grads:
            weight.grad = grad.clone()
            optimizer.step()
        ends.append(weight.detach() - start)
    own, reference = ends
    assert float((own - reference).norm() / reference.norm()) < 0.02


def test_a_step_with_momentum_by_hand():
    weight = torch.nn.Parameter(torch.zeros(8, 2, dtype=torch.float64))
    optimizer = Muon([weight], lr=0.5, momentum=0.8)
    first, second = torch.randn(2, 8, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for grad in (first, second):
        weight.grad = grad.clone()
        optimizer.step()
    one = 0.2 * first
    two = 0.8 * one + 0.2 * second
    moved = sum(orthogonal(0.2 * grad + 0.8 * average) for grad, average in ((first, one), (second, two)))
    assert torch.allclose(weight.detach(), -0.5 * 2 * moved)  # √(8/2) = 2


def test_it_takes_the_blocks_matrices_and_nothing_else():
    model = make_denoiser(0)
    hidden, rest = hidden_matrices(model)
    assert len(hidden) == 4 * 6  # q, k, v, out and two of the feed-forward, in four layers
    assert {weight.shape for weight in hidden} == {(128, 128), (512, 128), (128, 512)}
    assert len(hidden) + len(rest) == len(list(model.parameters()))
    with pytest.raises(ValueError, match=r"matrices, not \(3,\)"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
