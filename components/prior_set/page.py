"""The card of a prior set, shown in the KFP UI and exported with the set; rendered from the manifest alone."""

from __future__ import annotations

from collections import Counter

from components.core.artifacts import PriorSet
from components.core.records import Head
from components.pages.heads import HEAD_TABLE, head_table, ranked
from components.pages.markdown import bullets, decisions, document, left_out, table, text
from components.pages.samples import Unread, unread_warning

_SHOWN = 100  # heads


def card(priors: PriorSet) -> str:
    """Return in Markdown what the set holds, how it was made, and what was left out."""
    selected, pieces, unread = 0, 0, Unread()
    bins, chosen, sources = Counter[int](), Counter[Head](), Counter[tuple[str, float]]()
    for line in priors.lines:
        selected, pieces = selected + line.piece_counts.selected, pieces + line.piece_counts.pieces
        bins[min(int(line.confidence.value * 10), 9)] += 1
        chosen.update(line.heads)
        sources[line.sample.source, line.sample.weight] += 1
        unread.add(line)
    warning = unread_warning(priors, unread)
    heads = ranked(priors.heads)
    shown = heads[:_SHOWN]
    return document(
        "# Motion-prior set",
        f"{len(priors.lines)} samples of {priors.lines.videos} videos; {selected} of {pieces} text tokens selected.",
        f"`sha256:{priors.digest}`",
        bullets(f"merged from {digest}" for digest in priors.merged),
        *_sources(sources),
        f"**Warning:** {text(warning)}" if warning else "",
        "## Confidence",
        table(("confidence", "samples"), ((f"{i / 10:.1f} to {(i + 1) / 10:.1f}", bins[i]) for i in sorted(bins))),
        "## Heads",
        table(HEAD_TABLE, head_table(shown, [f"{chosen[row.id]} of {len(priors.lines)}" for row in shown])),
        f"The best {len(shown)} of {len(heads):,}; the set's manifest has all." if len(shown) < len(heads) else "",
        left_out(priors),
        decisions(priors),
    )


def _sources(counts: Counter[tuple[str, float]]) -> list[str]:
    """Return the samples of each source of a recipe, where there was one."""
    if {name for name, _ in counts} == {""}:
        return []
    rows = [(name or "(no name)", count, f"{weight:g}") for (name, weight), count in sorted(counts.items())]
    return ["## Sources", table(("source", "samples", "weight"), rows)]
