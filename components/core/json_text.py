"""JSON that others wrote: whatever is wrong with it is one kind of error; whole numbers are integers again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def parse_json(text: str) -> Any:
    """Return what a JSON text holds.

    Raises:
        ValueError: not JSON, a name twice in one object, or nesting or numbers beyond what can be read.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def whole_numbers(value: Any) -> Any:
    """Return a value whose whole numbers are integers: KFP hands all numbers of a list over as floats."""
    if isinstance(value, Mapping):
        return {key: whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} stands twice in one object")
    return found
