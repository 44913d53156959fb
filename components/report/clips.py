"""Sections 2 to 5 of the report, of pictured samples: the idea in one strip, reconstruction, heads, words.

Legend: T words, F the prior's frames.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from components.core.artifacts import PriorLine
from components.core.records import ScoredPiece
from components.core.units import counted, number, signed
from components.pages.charts import Line, line_chart
from components.pages.figures import NOTHING, raw, stored_picture
from components.pages.heads import head_figure
from components.pages.page import Section, absent, folded, quoted
from components.pages.samples import piece_text, sample_strip
from components.report.material import PriorMaterial

_CLIPS, _SAMPLES = 4, 3


def idea(material: PriorMaterial, shown: Sequence[PriorLine]) -> Section:
    """Return the strip of one clip, clips with both maps first; further clips are folded away."""
    title = "The idea in one strip"
    if not shown:
        return Section("idea", title, "No pictured samples: the report was made with pictures = 0.")
    strips = []
    for line in sorted(shown, key=lambda line: line.sample.id not in material.after)[:_CLIPS]:
        name, sides = line.sample.id, (("VLM before", material.before), ("VLM after", material.after))
        seen = [(side, lines[name]) for side, lines in sides if name in lines]
        strips.append(quoted(line.sample) + sample_strip(material, line, seen))
    lead = "What the video model attends to for a word while it reconstructs the clip"
    if material.before:
        lead += ", and where the vision-language model looks for the same words before and after tuning"
    lead += ". Cells at their true size, unsmoothed; one colour scale per row"
    if material.before:
        lead += "; outlined where the VLM saw nothing"
    return Section("idea", title, f"{lead}.", folded(strips, 1, "more clips"))


def _pictures(material: PriorMaterial, shown: Sequence[PriorLine], role: str) -> list[Markup]:
    found = []
    for line in shown:
        if role in line.pictures:
            png = material.store.read(line.pictures[role])
            found.append(stored_picture(png, f"{role} of sample {line.sample.id}", quoted(line.sample)))
    return found


def reconstruction(material: PriorMaterial, shown: Sequence[PriorLine]) -> Section:
    """Return original, inverted noise and reconstruction of two clips; further clips are folded away."""
    name, title = "reconstruction", "Reconstruction"
    blocks = _pictures(material, shown, name)
    if not blocks:
        return Section(name, title, "The prior set carries no reconstruction pictures of these samples.")
    lead = (
        "Original, inverted noise and what the video model makes of it again, with the latent error: attention is read "
        "on this path."
    )
    return Section(name, title, lead, folded(blocks, 2, "more clips"))


def heads(material: PriorMaterial, shown: Sequence[PriorLine]) -> Section:
    """Return stacked z-scores of all heads with the cut line, and the vision-to-vision maps of three samples."""
    title = "Motion-sensitive heads"
    if not material.priors.heads:
        return Section("heads", title, "The prior set has no head table.")
    lead = (
        "MHS scores each head by how much of its vision-to-vision attention follows a place through time (mean over "
        f"{counted(len(material.priors.lines), 'sample')}); a sample keeps as many as stand left of the line, the "
        "table lists how often each head was kept."
    )
    blocks = _pictures(material, shown, "heads")[:_SAMPLES]
    missing = absent("No vision-to-vision thumbnails: the prior set carries none.")
    maps = folded(blocks, 1, "more samples") if blocks else missing
    return Section("heads", title, lead, head_figure(material.priors.heads, material.priors.saturation) + maps)


def motion_words(material: PriorMaterial, shown: Sequence[PriorLine]) -> Section:
    """Return each sample's text shaded by motion score; further samples are folded away."""
    title = "Words that carry motion"
    if not shown:
        return Section("words", title, "No pictured samples: the report was made with pictures = 0.")
    kept, every = material.survey.kept, material.survey.pieces
    lead = (
        "Each token shaded by its standardized motion score MS(t) = mean + mean |change| over frames; underlined ones "
        f"are kept by MTTI ({kept} of {every} tokens in {counted(len(material.priors.lines), 'sample')})."
    )
    warning = raw('<p class="warning">{}</p>').format(material.unread) if material.unread else NOTHING
    blocks = [
        _text(material, line) + (_over_frames(material, line) if i < 2 else NOTHING) for i, line in enumerate(shown)
    ]
    return Section("words", title, lead, warning + folded(blocks, 2, "more samples"))


def _text(material: PriorMaterial, line: PriorLine) -> Markup:
    parts, every = [], material.pieces(line)
    for name in ("question", "response"):
        pieces = sorted((piece for piece in every if piece.field == name), key=lambda piece: piece.start)
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
        about = f"MS {number(piece.score)}, z {signed(piece.standardized, 2)}"
        done.append(
            f'{escape(text[at : piece.start])}<span class="word{kept}" style="--heat:{share:.0f}%" '
            f'title="{about}">{escape(text[piece.start : piece.end])}</span>'
        )
        at = piece.end
    return "".join(done) + str(escape(text[at:]))


def _over_frames(material: PriorMaterial, line: PriorLine) -> Markup:
    """Return the attention over frames of the three strongest words, and of the weakest ones."""
    values_TF = material.tensors(line.per_frame)["per_frame"]
    pieces = material.pieces(line)
    ranked = sorted(range(min(len(pieces), len(values_TF))), key=lambda t: -pieces[t].score)
    top, rest = ranked[:3], ranked[3:][-3:]
    charts = []
    for title, chosen in ((f"Attention over frames, top {len(top)}", top), (f"bottom {len(rest)}", rest)):
        lines = []
        for index, t in enumerate(chosen, 1):
            values, name = values_TF[t].tolist(), piece_text(line.sample, pieces[t])
            lines.append(Line(name, range(len(values)), values, f"c{index}"))
        charts.append(line_chart(title, lines, x_name="frame of the grid", zero=False))
    return raw(f'<div class="charts">{NOTHING.join(charts)}</div>')
