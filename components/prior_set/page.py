"""The card of a prior set, shown in the KFP UI and exported with the set; rendered from the manifest alone."""

from __future__ import annotations

from collections import Counter

from components.core.artifacts import PriorSet
from components.pages.markdown import decisions, document, left_out, table


def card(priors: PriorSet) -> str:
    """Return in Markdown what the set holds, how it was made, and what was left out."""
    lines, videos = priors.lines, {line.video.id for line in priors.lines}
    pieces = [piece.selected for line in lines for piece in line.pieces]
    bins = Counter(min(int(line.confidence.value * 10), 9) for line in lines)
    chosen, heads = Counter(head for line in lines for head in line.heads), []
    for row in sorted(priors.heads, key=lambda row: -row.score):
        dfc, often = f"{row.dfc:.4g} ± {row.dfc_stderr:.2g}", f"{chosen[row.head]} of {len(lines)}"
        heads.append((row.head, often, dfc, f"{row.tcs:.3g}", f"{row.dsr:.3g}", f"{row.score:+.2f}"))
    return document(
        "# Motion-prior set",
        f"`sha256:{priors.digest}`",
        f"{len(lines)} samples of {len(videos)} videos; {sum(pieces)} of {len(pieces)} text tokens selected.",
        decisions(priors),
        "## Confidence",
        table(("from", "samples"), ((f"{index / 10:.1f}", count) for index, count in sorted(bins.items()))),
        "## Heads",
        table(("head", "chosen in", "DFC ± s.e.", "TCS", "DSR", "score"), heads),
        left_out(priors),
    )
