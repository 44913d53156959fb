"""Pictures of a step for its page: drawn once per unit and remembered in the store.

A picture is work of its own (`<step>_pictures/<key>`): asking for more never touches results, and pictures count as no
units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from components.core.records import Json, sha256
from components.runtime.context import Context
from components.store.entries import Entry, WorkFolder

U = TypeVar("U")


def smallest_by_hash(names: Sequence[str], count: int) -> list[str]:
    """Return the `count` names with the smallest sha256, in that order: one new unit changes at most one of them."""
    return sorted(set(names), key=lambda name: sha256(name.encode()))[:count]


def remembered_pictures(
    context: Context[Any],
    units: Sequence[U],
    *,
    name: Callable[[U], str],
    reads: Callable[[U], Json],
    paint: Callable[[U, WorkFolder], Json],
) -> list[Entry]:
    """Return the pictures of `units`, drawing those that are not remembered; no count and no failure includes them.

    Args:
        context: the running step.
        units: what to draw, in the order of the answer.
        name: a unit's id.
        reads: what a picture shows, by key or content hash.
        paint: writes files into the folder and returns small numbers for the entry.

    Raises:
        DataError: a picture needs an object of the store that is missing or damaged.
    """
    work = f"{context.step.name}_pictures"
    return [context.once(name(unit), reads(unit), partial(paint, unit), work) for unit in units]
