"""What every model family has, and how families are found: one module of `models/video` or `models/vlm`, its `FAMILY`.

The registry reads names and pins of all families, and the plan their costs, so importing a family imports no torch:
what needs torch is imported by the function that needs it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    import torch

    Tensor: TypeAlias = torch.Tensor
    Device: TypeAlias = torch.device
    Dtype: TypeAlias = torch.dtype
else:  # a family's annotations; tests check shapes by them all the same
    Tensor = Device = Dtype = Any


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint, pinned: the hub repository that `models fetch` takes it from, and the commit there."""

    repository: str
    revision: str


@dataclass(frozen=True, kw_only=True)
class Family:
    """The part of a family that the registry of models needs."""

    name: str  # as messages print it
    make_tiny: Callable[[Path, str], Path]  # writes a tiny random twin of a variant into a folder, always equal bytes
    tiny: Mapping[str, str]  # the variants of the twin, by registry name (`tiny-…`)
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict)  # published ones, by registry name


F = TypeVar("F", bound=Family)


def find_families(package: str, kind: type[F], shared: Container[str] = ("interface",)) -> list[F]:
    """Return `FAMILY` of each module of a package but those that its families share.

    Raises:
        TypeError: a module's `FAMILY` is of another kind.
    """
    found = []
    for module in pkgutil.iter_modules(import_module(package).__path__):
        if module.name not in shared:
            family = import_module(f"{package}.{module.name}").FAMILY
            if not isinstance(family, kind):
                raise TypeError(f"{package}.{module.name}.FAMILY is no {kind.__name__}")
            found.append(family)
    return found
