"""A bench's table: its rows, how they are printed, and the JSON file of the same rows under `runs/`.

The file is a list of {name, value, bound, holds} and, where a row has them, test, low, high, n, clusters, model and
detail.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from components.kubeflow.tree import ROOT

Test = Literal["value <=", "value >", "low >", "high <"]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: what is measured, or what is compared with what.
        value: the ratio, or the estimate.
        bound: what `test` holds the value or an end of its interval to; None: it is only reported.
        detail: in words, what the value is made of.
        test: how the bound is meant.
        low, high: ends of the 95 % interval.
        n, clusters: values behind an estimate, and the videos or seeds that the interval is over.
        model: digest of the model that was measured.
    """

    name: str
    value: float
    bound: float | None
    detail: str
    test: Test = "value <="
    low: float | None = None
    high: float | None = None
    n: int | None = None
    clusters: int | None = None
    model: str | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the bound holds; None without one. Without an interval, a bound on its ends does not hold."""
        if self.bound is None:
            return None
        tested = {"value <=": self.value, "value >": self.value, "low >": self.low, "high <": self.high}[self.test]
        if tested is None:
            return False
        return {"<=": tested <= self.bound, ">": tested > self.bound, "<": tested < self.bound}[self.test.split()[1]]


def write(rows: Sequence[Row], target: Path) -> Path:
    """Write the JSON file; return its path."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for row in rows:
        fields = asdict(row) | {"test": None if row.bound is None else row.test}
        first = {
            "name": fields.pop("name"),
            "value": fields.pop("value"),
            "bound": fields.pop("bound"),
            "holds": row.holds,
        }
        lines.append(first | {key: value for key, value in fields.items() if value is not None})
    target.write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")
    return target


def show(rows: Sequence[Row], heading: str) -> None:
    """Print the table under the heading of its first column."""
    names, width = {True: "yes", False: "NO", None: "-"}, max(len(heading), *(len(row.name) for row in rows))
    print(f"\n{heading:<{width}}  {'value [95 %]':<24}  {'bound':>14}  holds  measured")
    for row in rows:
        value = f"{row.value:.3f}" if row.low is None else f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"
        bound = "-" if row.bound is None else f"{row.test} {row.bound:.2f}"
        print(f"{row.name:<{width}}  {value:<24}  {bound:>14}  {names[row.holds]:>5}  {row.detail}")


def finish(rows: Sequence[Row], name: str, heading: str) -> int:
    """Print the table, write `runs/<name>.json`; return the exit code: 1 where a bound does not hold."""
    show(rows, heading)
    print(f"\n{write(rows, ROOT / 'runs' / f'{name}.json').relative_to(ROOT)}")
    return int(any(row.holds is False for row in rows))
