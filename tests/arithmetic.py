"""Bounds on what rounding does to a number, for tests that compute it another way."""

import torch


def rounding(terms, size=1.0, dtype=torch.float32):
    """How far two ways to compute the same number may end apart.

    The rounding error of a sum of n terms whose magnitudes add up to `size` stays below λ √n eps/2 · size with
    probability 1 − 2 exp(−λ²/2) (Higham and Mary, 2019). Lengths of the sums on the way to the number, over all layers,
    add up to `terms`. Both ways round, hence eps; λ = 8 leaves room for the vector lengths of other processors.
    """
    return 8 * terms**0.5 * torch.finfo(dtype).eps * size
