"""Numbers with their units, as every page and command prints them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal


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


def readable_hours(hours: float) -> str:
    """Return a time in the unit that suits it: `< 1 s`, `12 s`, `40 min`, `3.5 h`, `12,400 h`."""
    seconds = hours * 3600
    if seconds < 1:
        return "< 1 s" if seconds > 0 else "0 s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if seconds < 59.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{hours:.1f} h" if hours < 99.95 else f"{hours:,.0f} h"


def number(value: float, digits: int = 3) -> str:
    """Return a number with `digits` significant digits and a true minus sign, never with an exponent."""
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -6:
        return "< 0.000001" if value > 0 else "> −0.000001"
    text = f"{value:,.0f}" if size > 6 else f"{value:.{max(0, digits - 1 - size)}f}"
    return text.replace("-", "−")


def aligned(values: Sequence[float], digits: int = 3) -> list[str]:
    """Return the numbers of a column with equally many decimals, the largest with `digits` significant digits."""
    largest = max((abs(value) for value in values), default=0.0)
    decimals = digits - 1 - math.floor(math.log10(largest)) if largest > 0 else 0
    return [f"{value:.{max(0, decimals)}f}".replace("-", "−") for value in values]


def signed(value: float, digits: int = 1) -> str:
    """Return `+1.2` or `−1.2`, and `0.0` without a sign."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def probability(p: float) -> str:
    """Return `p = 0.012` or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def bare_probability(p: float) -> str:
    """Return `0.012` or `< 0.001`: below a column's head that says p."""
    return probability(p).removeprefix("p = ").removeprefix("p ")


def parameter(value: object) -> str:
    """Return a parameter's value exactly as it is, never with an exponent: `6.0`, `0.00001`, `true`, `none`."""
    if isinstance(value, list | tuple):
        return ", ".join(map(parameter, value)) or "none"
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f")
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def parameters(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the names of parameters, those of nested ones with dots, and their values as text."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from parameters(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", parameter(value)


def power(value: float) -> str:
    """Return a number of a logarithmic axis with one digit: `10⁻⁵`, `3·10⁻⁶`."""
    digit, _, exponent = f"{value:.0e}".partition("e")
    raised = f"10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    return raised if digit == "1" else f"{digit}·{raised}"
