"""Tolerances that follow from the arithmetic, so that they hold on every machine: vector units sum in orders of their own."""

import torch


def rounding(terms, size=1.0, dtype=torch.float32):
    """How far two ways to compute the same number may end apart.

    Each of the `terms` additions on the way (lengths of the sums, added up over layers) rounds by at most eps/2 of `size`,
    the magnitude of what is added; with random signs they walk as √terms. The factor of 8 is margin.
    """
    return 8 * terms**0.5 * torch.finfo(dtype).eps * size
