"""Tensors as safetensors without metadata; NaN and infinity are refused when writing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors.torch import load, save
from torch import Tensor

from components.core.errors import DataError


def pack(tensors: Mapping[str, Tensor], source: str = "result") -> bytes:
    """Serialize; equal tensors give equal bytes. Raises DataError: NaN or infinity; names the tensor and the unit."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            remedy = "check the input and the model's dtype"
            raise DataError(f"{name} holds NaN or infinity", source=source, remedy=remedy)
    data: bytes = save({name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())})
    return data


def unpack(data: bytes) -> dict[str, Tensor]:
    """Tensors by name, on the CPU."""
    tensors: dict[str, Tensor] = load(data)
    return tensors
