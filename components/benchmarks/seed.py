"""SEED-Bench: general questions about images and videos, here a check that tuning costs nothing elsewhere.

It ships pre-sampled frames, so its questions come as JSONL. A prompt of its own was not published; this is the
customary one.
"""

from __future__ import annotations

from collections.abc import Sequence

from components.benchmarks.interface import Benchmark, Metric, paper_rows
from components.core.records import Option
from components.core.text import render_question

_IMAGE = {
    "Scene Understanding": "SU",
    "Instance Identity": "II",
    "Instance Attributes": "IA",
    "Instance Location": "IL",
    "Instances Counting": "IC",
    "Spatial Relation": "SR",
    "Instance Interaction": "IN",
    "Visual Reasoning": "VR",
    "Text Understanding": "TU",
}
_VIDEO = {"Action Recognition": "AR", "Action Prediction": "AP", "Procedure Understanding": "PU"}
_GROUPS = {"Image": _IMAGE, "Video": _VIDEO}


def prompt(question: str, options: Sequence[Option]) -> str:
    """Return the customary prompt."""
    return f"{render_question(question, options)}\nAnswer with the option's letter from the given choices directly."


def official_rule(reply: str, options: Sequence[Option], gold: str) -> bool:
    """Return whether the reply's first character is the right letter, whatever its case.

    As lmms-eval scores replies; the benchmark's own script has none, it ranks the options' likelihoods.
    """
    return reply.strip()[:1].lower() == gold.lower()


_MIXED = "the table mixes two versions of SEED-Bench or two weightings: All does not follow from Image and Video"

# supplement, Table 7
_PAPER = """
                   All   Image   Video
Qwen2.5-VL-7B     74.1    77.5    61.3
tuned             72.9    75.9    62.1
InternVL3-8B      72.7    76.2    60.4
tuned             72.4    75.8    60.6
"""

BENCHMARK = Benchmark(
    name="seed",
    title="SEED-Bench",
    types={**_IMAGE, **_VIDEO},
    metrics=(Metric("All"), *(Metric(name, types=frozenset(kinds.values())) for name, kinds in _GROUPS.items())),
    prompt=prompt,
    official_rule=official_rule,
    paper=paper_rows(_PAPER, {"Qwen2.5-VL-7B": {"row": _MIXED}, "InternVL3-8B": {"row": _MIXED}}),
)
