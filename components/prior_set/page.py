"""The card of a prior set, shown in the KFP UI and exported with the set; rendered from the manifest alone."""

from __future__ import annotations

from collections import Counter

from components.core.artifacts import PriorSet
from components.pages.cards import decisions, left_out
from components.pages.markdown import document, table


def card(priors: PriorSet) -> str:
    """Return in Markdown what the set holds, how it was made, and what was left out."""
    videos = {line.video.id for line in priors.lines}
    kept = sum(piece.selected for line in priors.lines for piece in line.pieces)
    every = sum(len(line.pieces) for line in priors.lines)
    return document(
        "# Motion-prior set",
        f"`sha256:{priors.digest}`",
        f"{len(priors.lines)} samples of {len(videos)} videos; {kept} of {every} text tokens selected.",
        decisions(priors),
        "## Confidence",
        _confidence(priors),
        "## Heads",
        _heads(priors),
        left_out(priors),
    )


def _confidence(priors: PriorSet) -> str:
    bins = Counter(min(int(line.confidence.value * 10), 9) for line in priors.lines)
    return table(("from", "samples"), ((f"{index / 10:.1f}", count) for index, count in sorted(bins.items())))


def _heads(priors: PriorSet) -> str:
    chosen, samples = Counter(head for line in priors.lines for head in line.heads), len(priors.lines)
    rows = (
        (
            row.head,
            f"{chosen[row.head]} of {samples}",
            f"{row.dfc:.4g} ± {row.dfc_stderr:.2g}",
            f"{row.tcs:.3g}",
            f"{row.dsr:.3g}",
            f"{row.score:+.2f}",
        )
        for row in sorted(priors.heads, key=lambda row: -row.score)
    )
    return table(("head", "chosen in", "DFC ± s.e.", "TCS", "DSR", "score"), rows)
