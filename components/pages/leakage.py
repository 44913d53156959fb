"""What a leakage check found, as the model's card and the report say it."""

from __future__ import annotations

from components.core.artifacts import LEAKS, LeakageCounts
from components.core.units import counted


def leakage_line(counts: LeakageCounts | None) -> str:
    """Return in one line what was checked, what was found, and what was left out of training for it."""
    if counts is None:
        return "Not checked: the model was trained without a leakage check."
    checked = f"{counted(counts.training, 'training video')} against {', '.join(sorted(counts.benchmarks))}"
    if not any(counts.found.values()):
        return f"{checked}: nothing in common."
    videos, samples = counted(counts.excluded_videos, "training video"), counted(counts.excluded_samples, "sample")
    return f"{checked}: {videos} ({samples}) left out of training."


def leakage_rows(counts: LeakageCounts) -> list[tuple[str, ...]]:
    """Return for each benchmark its videos, and how many of them have a counterpart, by kind (`LEAKS`)."""
    return [
        (name, str(count), *(str(counts.found.get(name, {}).get(kind, 0)) for kind in LEAKS))
        for name, count in sorted(counts.benchmarks.items())
    ]
