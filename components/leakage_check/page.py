"""The check's page in the KFP UI: what training videos share with each benchmark, and which are left out."""

from __future__ import annotations

from collections.abc import Sequence

from components.core.artifacts import LEAKS, Leak, LeakageReport, LeakKind
from components.core.units import counted
from components.pages.markdown import Markdown, bullets, code, document, left_out, table, text
from components.pages.page import shortened

_LISTED = 50  # pairs shown; the manifest has all


def page(report: LeakageReport, exclude: Sequence[LeakKind], plain: int) -> str:
    """Return Markdown: counts by benchmark and kind, what follows for training, and the pairs."""
    found = report.found
    rows = [(name, count, *(found[name].get(kind, 0) for kind in LEAKS)) for name, count in report.benchmarks.items()]
    more = len(report.pairs) - _LISTED
    unseen = f"{counted(plain, 'video')} show nothing that a hash could tell from others, and were not compared."
    return document(
        "# Leakage check",
        f"{counted(report.training, 'training video')}; {len(report.excluded)} of them are left out of training "
        f"(whatever shares {text(', '.join(exclude) or 'nothing')}). Videos of each benchmark that share something:",
        table(("benchmark", "videos", *LEAKS), rows),
        unseen if plain else "",
        "## Pairs" if report.pairs else "",
        bullets([*map(_pair, report.pairs[:_LISTED]), *([f"… and {more} more, in the manifest"] if more > 0 else [])]),
        left_out(report) if report.left_out else "",
    )


def _pair(pair: Leak) -> Markdown:
    return Markdown(f"{code(pair.training_name)}: {text(pair.reason)}{_shown(pair)}")


def _shown(pair: Leak) -> str:
    """Return what is shared: the name or text, or how much of the clips."""
    if pair.distance is not None:
        begins = f"from its second {pair.shift:.1f} on".replace("-", "−")
        return f" ({pair.seconds:.1f} s, {begins}; {pair.distance:.1f} of 64 bits differ)"
    return f" ({code(shortened(pair.what))})" if pair.what else ""
