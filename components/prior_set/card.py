"""The card of a prior set: what it holds, how it was made, what was left out. Rendered from the manifest alone."""

from __future__ import annotations

from collections import Counter

from components.core.artifacts import PriorSet
from components.pages.cards import decisions, left_out


def card(priors: PriorSet) -> str:
    """The data set's card in Markdown: what it holds, how it was made, what was left out."""
    videos = {line.video.id for line in priors.lines}
    kept = [piece for line in priors.lines for piece in line.pieces if piece.selected]
    every = sum(len(line.pieces) for line in priors.lines)
    frequent = Counter(head for line in priors.lines for head in line.heads)
    rows = [
        "# Motion-prior set",
        "",
        f"`sha256:{priors.digest}`",
        "",
        f"{len(priors.lines)} samples of {len(videos)} videos; {len(kept)} of {every} text tokens selected.",
        "",
        *decisions(priors),
    ]
    rows += ["", "## Confidence", "", "| from | samples |", "|---|---|"]
    bins = Counter(min(int(line.confidence.value * 10), 9) for line in priors.lines)
    rows += [f"| {index / 10:.1f} | {bins[index]} |" for index in range(10) if bins[index]]
    rows += ["", "## Heads", "", "| head | chosen in | DFC ± s.e. | TCS | DSR | score |", "|---|---|---|---|---|---|"]
    rows += [
        f"| {row.head} | {frequent[row.head]} of {len(priors.lines)} | {row.dfc:.4g} ± {row.dfc_stderr:.2g} | {row.tcs:.3g} "
        f"| {row.dsr:.3g} | {row.score:+.2f} |"
        for row in sorted(priors.heads, key=lambda row: -row.score)
    ]
    return "\n".join([*rows, "", *left_out(priors)]) + "\n"
