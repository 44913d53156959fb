"""A multiple-choice benchmark of one's own: JSONL rows, whose `type` may be anything or missing.

`custom=DIR`, or `custom:<name>=DIR` for each of several: the name stands where pages have a benchmark's title.
"""

from __future__ import annotations

from collections.abc import Sequence

from components.benchmarks.interface import Benchmark, Metric
from components.core.records import Option
from components.core.text import render_question


def prompt(question: str, options: Sequence[Option]) -> str:
    """Return the customary prompt, that of LLaVA's and lmms-eval's multiple-choice tasks."""
    return f"{render_question(question, options)}\nAnswer with the option's letter from the given choices directly."


def official_rule(reply: str, options: Sequence[Option], gold: str) -> bool:
    """Return whether the reply's first character is the right letter, whatever its case, as lmms-eval scores."""
    return reply.strip()[:1].lower() == gold.lower()


BENCHMARK = Benchmark(
    name="custom",
    title="Custom",
    types={},
    metrics=(Metric("Overall"), Metric("Average", "macro")),
    prompt=prompt,
    official_rule=official_rule,
)
