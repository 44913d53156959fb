"""Numbers with their units, as every page and command prints them."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Return `1 sample` or `2 samples`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def readable_bytes(count: float) -> str:
    """Return a number of bytes in decimal units with three significant digits: `0 B`, `12.3 kB`, `1.68 TB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"
