"""Section 5 of the report: the text shaded by motion score, and attention over frames of strong and weak words.

Legend: T words, F the prior's frames.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from components.core.artifacts import PriorLine
from components.core.records import ScoredPiece
from components.core.units import counted
from components.pages.charts import Line, line_chart
from components.pages.figures import NOTHING, raw
from components.pages.section import Section, folded
from components.pages.stored import piece_text
from components.report.material import PriorMaterial


def motion_words(material: PriorMaterial, shown: Sequence[PriorLine]) -> Section:
    """Return each sample's text; further samples are folded away."""
    title = "Words that carry motion"
    if not shown:
        return Section("words", title, "No pictured samples: the report was made with pictures = 0.")
    kept = sum(piece.selected for line in material.priors.lines for piece in line.pieces)
    every = sum(len(line.pieces) for line in material.priors.lines)
    lead = (
        "Each token shaded by its standardized motion score MS(t) = mean + mean |change| over frames; underlined ones "
        f"are kept by MTTI ({kept} of {every} tokens in {counted(len(material.priors.lines), 'sample')})."
    )
    blocks = [
        _text(line) + (_over_frames(material, line) if index < 2 else NOTHING) for index, line in enumerate(shown)
    ]
    return Section("words", title, lead, folded(blocks, 2, "more samples"))


def _text(line: PriorLine) -> Markup:
    parts = []
    for name in ("question", "response"):
        pieces = sorted((piece for piece in line.pieces if piece.field == name), key=lambda piece: piece.start)
        if pieces:
            shaded = _shaded(str(getattr(line.sample, name)), pieces)
            parts.append(f'<p class="words"><span class="field">{name}</span>{shaded}</p>')
    cut = f" · {line.truncated} characters beyond the text encoder's length" if line.truncated else ""
    return raw(f'<p class="caption"><code>sample {line.sample.id}</code>{cut}</p>{"".join(parts)}')


def _shaded(text: str, pieces: Sequence[ScoredPiece]) -> str:
    done, at = list[str](), 0
    for piece in pieces:
        if piece.start < at:  # two pieces of one character: the first one is shown
            continue
        share = min(1.0, max(0.0, (piece.standardized + 1.2) / 3.4)) * 78
        kept = " kept" if piece.selected else ""
        done.append(
            f'{escape(text[at : piece.start])}<span class="word{kept}" style="--heat:{share:.0f}%" '
            f'title="MS {piece.score:.3g}, z {piece.standardized:+.2f}">{escape(text[piece.start : piece.end])}</span>'
        )
        at = piece.end
    return "".join(done) + str(escape(text[at:]))


def _over_frames(material: PriorMaterial, line: PriorLine) -> Markup:
    values_TF = material.tensors(line.per_frame)["per_frame"]
    ranked = sorted(range(min(len(line.pieces), len(values_TF))), key=lambda t: -line.pieces[t].score)
    frames = list(range(values_TF.shape[1]))

    def chart(title: str, chosen: Sequence[int]) -> Markup:
        lines = [
            Line(piece_text(line.sample, line.pieces[t]), frames, values_TF[t].tolist(), colour)
            for t, colour in zip(chosen, ("c1", "c2", "c3"), strict=False)
        ]
        return line_chart(title, lines, x_name="frame of the grid", zero=False)

    three = min(3, len(ranked))
    top = chart(f"Attention over frames, top {three}", ranked[:three])
    rest = ranked[max(three, len(ranked) - 3) :]
    bottom = chart(f"bottom {len(rest)}", rest) if rest else NOTHING
    return raw(f'<div class="charts">{top}{bottom}</div>')
