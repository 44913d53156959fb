"""The paper's ablations, all of Qwen2.5-VL-7B, row by row: Table 3 of the main text, Tables 5 and 6 of the supplement.

A row is found by the name of the variant that repeats it in the preset (`components/runtime/presets.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

MODEL = "Qwen2.5-VL-7B"
Numbers = Mapping[str, Mapping[str, float]]  # by protocol and metric, in percent or points


@dataclass(frozen=True)
class AblationRow:
    """What the paper printed for one variant: percent by protocol and metric.

    `flags` are doubts by what they concern: `row`, or a benchmark's protocol.
    """

    variant: str
    label: str
    numbers: Numbers
    flags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AblationTable:
    """One table of the paper, its rows in the printed order, by variant."""

    title: str
    rows: Mapping[str, AblationRow]

    def differences(self, baseline: str) -> dict[str, Numbers]:
        """Return each row's printed numbers minus those of the baseline's row, as printed to two decimals."""
        start = self.rows[baseline].numbers
        return {
            name: {
                protocol: {metric: round(value - start[protocol][metric], 2) for metric, value in printed.items()}
                for protocol, printed in row.numbers.items()
            }
            for name, row in self.rows.items()
        }


def _table(title: str, text: str, flags: Mapping[str, Mapping[str, str]]) -> AblationTable:
    """Read a text table: variant | label | Overall and Average of MotionBench, the same of FAVOR-Bench."""
    rows = {}
    for line in text.strip().splitlines():
        variant, label, cells = (part.strip() for part in line.split("|"))
        values = [float(cell) for cell in cells.split()]
        pairs = zip(("motionbench", "favor"), (values[:2], values[2:]), strict=True)
        numbers = {protocol: dict(zip(("Overall", "Average"), pair, strict=True)) for protocol, pair in pairs}
        rows[variant] = AblationRow(variant, label, numbers, flags.get(variant, {}))
    return AblationTable(title, rows)


_TWICE = "the same pair is printed for {}"
_UNTOUCHED = "printed as Qwen2.5VL-7B, whose untouched numbers are others (Table 6): it is trained on the 25k"
_ANSWERS = "18 points below the untouched model, while MotionBench is as before: perhaps replies that nobody could read"

TABLES = (
    _table(
        "main text, Table 3",
        """
        no MHS, no MTTI | neither      | 54.83 51.51  44.83 44.54
        MHS alone       | MHS          | 56.60 52.51  46.65 46.55
        MTTI alone      | MTTI         | 55.80 51.31  45.47 45.99
        MHS and MTTI    | MHS and MTTI | 57.04 52.92  46.88 47.01
        """,
        {
            "MHS alone": {"motionbench": _TWICE.format("Qwen2.5-VL-3B + MotionEnhancer (supplement, Table 3)")},
            "MTTI alone": {"favor": _TWICE.format("Qwen2.5-VL-7B + MotionSight (supplement, Table 4)")},
        },
    ),
    _table(
        "supplement, Table 5",
        """
        no MHS, no MTTI          | Qwen2.5VL-7B          | 54.83 51.51  44.83 44.54
        2 steps                  | 2 steps for DDIM      | 52.76 48.68  24.01 25.16
        5 steps                  | 5 steps for DDIM      | 57.04 52.92  46.88 47.01
        10 steps                 | 10 steps for DDIM     | 57.51 53.35  49.02 47.99
        25 % of heads and tokens | 25% head/token select | 55.33 51.00  47.12 47.28
        50 % of heads and tokens | 50% head/token select | 57.04 52.92  46.88 47.01
        75 % of heads and tokens | 75% head/token select | 54.88 50.69  45.69 44.10
        """,
        {
            "no MHS, no MTTI": {"row": _UNTOUCHED},
            "2 steps": {"favor": _ANSWERS},
            "25 % of heads and tokens": {"favor": _TWICE.format("MotionVid-QA, 133k (Table 6)")},
        },
    ),
    _table(
        "supplement, Table 6",
        """
        untouched                  | Qwen2.5VL-7B           | 52.81 48.29  42.61 42.58
        all of MotionVid-QA, plain | + MotionVid-QA (133k)  | 55.70 51.25  47.12 47.28
        25k aligned                | + MotionEnhancer (25k) | 57.04 52.92  46.88 47.01
        """,
        {"all of MotionVid-QA, plain": {"favor": _TWICE.format("25 % of heads and tokens (Table 5)")}},
    ),
)


def ablation_table(names: Collection[str]) -> AblationTable | None:
    """Return the table that most of these variants repeat, of equals the first; None where it is fewer than two."""
    found = max(TABLES, key=lambda table: len(table.rows.keys() & {*names}))
    return found if len(found.rows.keys() & {*names}) > 1 else None
