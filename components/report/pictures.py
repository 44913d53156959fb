"""Sections 2 to 5 of the report, which look at single samples: the idea in one strip, reconstruction, heads, words.

Each function returns a `Section`; what a run lacks is said in the section's one line. Legend: T words, F H W the
prior's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from components.core.artifacts import PriorLine, VlmLine
from components.pages.charts import Line, line_chart
from components.pages.figures import NOTHING, raw, shrink
from components.pages.heads import head_figure
from components.pages.section import Section, quoted
from components.pages.strips import sample_strip
from components.report.material import Pictured

# 2 · the idea in one strip --------------------------------------------------------------------------------------------


def idea(material: Pictured, shown: Sequence[PriorLine]) -> Section:
    """Frames, mask, prior of three words, the VLM's map before and after, of one clip; further clips folded away."""
    title = "The idea in one strip"
    if not shown:
        return Section("idea", title, "No pictured samples: the report was made with pictures = 0.")
    by_maps = sorted(shown, key=lambda line: line.sample.id not in material.after)  # clips with both maps first
    strips = [quoted(line) + sample_strip(material, line, _before_and_after(material, line)) for line in by_maps[:4]]
    before_and_after = (
        ", and where the vision-language model looks for the same words before and after tuning"
        if material.before
        else ""
    )
    unseen = "; outlined where the VLM saw nothing" if material.before else ""
    lead = (
        f"What the video model attends to for a word while it reconstructs the clip{before_and_after}. "
        f"Cells at their true size, unsmoothed; one colour scale a row{unseen}."
    )
    return Section("idea", title, lead, _folded(strips, 1, "more clips"))


def _before_and_after(material: Pictured, line: PriorLine) -> list[tuple[str, VlmLine]]:
    named = (("VLM before", material.before), ("VLM after", material.after))
    return [(name, found) for name, lines in named if (found := lines.get(line.sample.id)) is not None]


# 3 · reconstruction ---------------------------------------------------------------------------------------------------


def reconstruction(material: Pictured, shown: Sequence[PriorLine]) -> Section:
    """Original, inverted noise and reconstruction of the pictured clips."""
    pictured = [line for line in shown if "reconstruction" in line.pictures]
    if not pictured:
        return Section(
            "reconstruction", "Reconstruction", "The prior set carries no reconstruction pictures of these samples."
        )
    body = _folded([_picture(material, line, "reconstruction") for line in pictured], 4, "more clips", "two")
    lead = "Original, inverted noise and what the video model makes of it again, with the latent error: attention is read on this path."
    return Section("reconstruction", "Reconstruction", lead, body)


def _folded(blocks: Sequence[Markup], shown: int, what: str, layout: str = "") -> Markup:
    """The first `shown` blocks, the others behind a line that opens them."""
    first, rest = NOTHING.join(blocks[:shown]), NOTHING.join(blocks[shown:])
    more = (
        f'<details><summary>{len(blocks) - shown} {what}</summary><div class="{layout}">{rest}</div></details>'
        if rest
        else ""
    )
    return raw(f'<div class="{layout}">{first}</div>{more}')


def _picture(material: Pictured, line: PriorLine, name: str, width: int = 720) -> Markup:
    address = shrink(material.store.read(line.pictures[name]), width)
    return raw(
        f'<figure class="stored"><img src="{address}" alt="{escape(name)} of sample {line.sample.id}">{quoted(line, 80)}</figure>'
    )


# 4 · heads ------------------------------------------------------------------------------------------------------------


def heads(material: Pictured, shown: Sequence[PriorLine]) -> Section:
    """Stacked z-scores of all heads, sorted, with the cut line; thumbnails of the vision-to-vision maps."""
    if not material.priors.heads:
        return Section("heads", "Motion-sensitive heads", "The prior set has no head table.")
    samples = len(material.priors.lines)
    lead = raw(
        f"MHS scores each head by how much of its vision-to-vision attention follows a place through time (mean over {samples} samples); "
        "a sample keeps as many as stand left of the line, the table says how often each head was kept."
    )
    pictured = [line for line in shown if "heads" in line.pictures][:3]
    thumbs = _folded([_picture(material, line, "heads", 960) for line in pictured], 1, "more samples")
    missing = (
        NOTHING
        if pictured
        else raw('<p class="absent">No vision-to-vision thumbnails: the prior set carries none.</p>')
    )
    return Section("heads", "Motion-sensitive heads", lead, head_figure(material.priors) + thumbs + missing)


# 5 · words ------------------------------------------------------------------------------------------------------------


def motion_words(material: Pictured, shown: Sequence[PriorLine]) -> Section:
    """The text itself, shaded by standardized motion score, and attention over frames of the strongest and weakest words."""
    if not shown:
        return Section(
            "words", "Words that carry motion", "No pictured samples: the report was made with pictures = 0."
        )
    kept = sum(piece.selected for line in material.priors.lines for piece in line.pieces)
    every = sum(len(line.pieces) for line in material.priors.lines)
    lead = raw(
        f"Each token shaded by its standardized motion score MS(t) = mean + mean |change| over frames; underlined ones are kept by MTTI "
        f"({kept} of {every} tokens in {len(material.priors.lines)} samples)."
    )
    blocks = [
        _sentence(line) + (_over_frames(material, line) if index < 2 else NOTHING) for index, line in enumerate(shown)
    ]
    return Section("words", "Words that carry motion", lead, _folded(blocks, 2, "more samples"))


def _sentence(line: PriorLine) -> Markup:
    parts = []
    for name in ("question", "response"):
        pieces = sorted((piece for piece in line.pieces if piece.field == name), key=lambda piece: piece.start)
        if pieces:
            parts.append(
                f'<p class="words"><span class="field">{name}</span>{_shaded(str(getattr(line.sample, name)), pieces)}</p>'
            )
    cut = f" · {line.truncated} characters beyond the text encoder's length" if line.truncated else ""
    return raw(f'<p class="caption"><code>sample {line.sample.id}</code>{cut}</p>{"".join(parts)}')


def _shaded(text: str, pieces: Sequence[Any]) -> str:
    done, at = [], 0
    for piece in pieces:
        if piece.start < at:  # two pieces of one character: the first one is shown
            continue
        share = min(1.0, max(0.0, (piece.standardized + 1.2) / 3.4)) * 78
        kept = " kept" if piece.selected else ""
        done.append(str(escape(text[at : piece.start])))
        done.append(
            f'<span class="word{kept}" style="--heat:{share:.0f}%" title="MS {piece.score:.3g}, z {piece.standardized:+.2f}">'
            f"{escape(text[piece.start : piece.end])}</span>"
        )
        at = piece.end
    return "".join(done) + str(escape(text[at:]))


def _over_frames(material: Pictured, line: PriorLine) -> Markup:
    values_TF = material.tensors(line.per_frame)["per_frame"]
    ranked = sorted(range(min(len(line.pieces), len(values_TF))), key=lambda t: -line.pieces[t].score)
    frames = list(range(values_TF.shape[1]))

    def chart(title: str, chosen: Sequence[int]) -> Markup:
        lines = []
        for t, colour in zip(chosen, ("c1", "c2", "c3"), strict=False):
            piece = line.pieces[t]
            name = str(getattr(line.sample, piece.field))[piece.start : piece.end] or piece.token
            lines.append(Line(name, frames, values_TF[t].tolist(), colour))
        return line_chart(title, lines, x_name="frame of the grid", zero=False)

    three = min(3, len(ranked))
    title = "Attention over frames"
    rest = ranked[max(three, len(ranked) - 3) :]
    bottom = chart(f"bottom {len(rest)}", rest) if rest else NOTHING
    return raw(f'<div class="charts">{chart(f"{title}, top {three}", ranked[:three])}{bottom}</div>')
