"""Sections 2 to 5 of the report, which look at single samples: the idea in one strip, reconstruction, heads, words.

Each function returns a `Section`; what a run lacks is said in the section's one line. Legend: T words, F H W the prior's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from components.core.artifacts import HeadSelection, PriorLine, PriorSet, VlmLine
from components.report.charts import Line, Stack, line_chart, stacked_bars
from components.report.figures import NOTHING, Cell, StripRow, heat, number, photo, raw, scale_bar, shrink, signed, strip
from components.report.material import Pictured, Stored, nearest_frame, words
from components.report.section import Section, quoted

_DENSITY = "× uniform"
COLUMNS = 6


# 2 · the idea in one strip ----------------------------------------------------------------------------------------------


def idea(material: Pictured, shown: Sequence[PriorLine]) -> Section:
    """Frames, mask, prior of three words, the VLM's map before and after, of one clip; further clips folded away."""
    title = "The idea in one strip"
    if not shown:
        return Section("idea", title, "No pictured samples: the report was made with pictures = 0.")
    by_maps = sorted(shown, key=lambda line: line.sample.id not in material.after)  # clips with both maps first
    strips = [quoted(line) + sample_strip(material, line, _before_and_after(material, line)) for line in by_maps[:4]]
    before_and_after = ", and where the vision-language model looks for the same words before and after tuning" if material.before else ""
    unseen = "; outlined where the VLM saw nothing" if material.before else ""
    lead = (
        f"What the video model attends to for a word while it reconstructs the clip{before_and_after}. "
        f"Cells at their true size, unsmoothed; one colour scale a row{unseen}."
    )
    return Section("idea", title, lead, _folded(strips, 1, "more clips"))


def _before_and_after(material: Pictured, line: PriorLine) -> list[tuple[str, VlmLine]]:
    named = (("VLM before", material.before), ("VLM after", material.after))
    return [(name, found) for name, lines in named if (found := lines.get(line.sample.id)) is not None]


def sample_strip(material: Stored, line: PriorLine, seen: Sequence[tuple[str, VlmLine]]) -> Markup:
    """Six frames of a clip × frames, mask, prior of its three strongest words, and the named VLM maps of these words on one scale."""
    prior_TFHW = material.prior(line)
    count = prior_TFHW.shape[1]
    cells = np.unique(np.linspace(0, count - 1, min(COLUMNS, count)).round().astype(int)).tolist()
    indices = [nearest_frame(line.video, *line.grid.times[f]) for f in cells]
    frames = material.frames(line.video, indices)
    rows = [StripRow("frames", [Cell(photo(frame), smooth=True, label=f"frame {i}") for frame, i in zip(frames, indices, strict=True)])]
    if line.mask is not None:
        rows.append(_mask_row(material.tensors(line.mask), indices))
    named = words(line, len(prior_TFHW))
    top = sorted(range(len(named)), key=lambda t: (-named[t][1], t))[:3]
    rows += [map_row(f"“{named[t][0]}”", "prior", prior_TFHW[t], line, cells) for t in sorted(top)]
    rows += _vlm_rows(material, line, seen, sorted(top), cells)
    times = [f"{line.video.times[i]:.2f} s" for i in indices]
    return strip(rows, times, line.video.width, line.video.height)


def _mask_row(mask: dict[str, np.ndarray], indices: Sequence[int]) -> StripRow:
    colours = np.array([(38, 42, 52), (112, 120, 134), (45, 212, 191)], np.uint8)
    kinds = np.where(mask["mover"] > 0, 2, (mask["objects"] > 0).astype(int))
    step = max(1, kinds.shape[2] // 160)
    cells = [Cell(photo(colours[kinds[i, ::step, ::step]]), label=f"mask of frame {i}") for i in indices]
    key = raw('<span class="unit"><i class="swatch mover"></i>moves <i class="swatch still"></i>stays</span>')
    return StripRow("ground truth", cells, key)


def map_row(name: str, kind: str, map_FHW: np.ndarray, line: PriorLine, cells: Sequence[int], top: float = 0.0,
            valid_FHW: np.ndarray | None = None) -> StripRow:  # fmt: skip
    """A row of a strip: the map at the grid's frames `cells`, 0 to `top` (default: its largest shown value), unseen cells outlined."""
    top = top or float(map_FHW[list(cells)].max())
    unseen = [None if valid_FHW is None else ~valid_FHW[f] for f in cells]
    pictures = [
        Cell(heat(map_FHW[f], top), line.grid.box, hidden, label=f"{kind} {name}, cell {f}")
        for f, hidden in zip(cells, unseen, strict=True)
    ]
    return StripRow(name, pictures, scale_bar(top, f"{kind}, {_DENSITY}"))


def _vlm_rows(
    material: Stored, line: PriorLine, seen: Sequence[tuple[str, VlmLine]], rows: Sequence[int], cells: Sequence[int]
) -> list[StripRow]:
    """The VLM's maps of the same words, on one scale."""
    found = [(name, *vlm_map(material, one, rows)) for name, one in seen if one.vlm_map is not None]
    top = max((float(map_FHW[list(cells)].max()) for _, map_FHW, _ in found), default=0.0)
    return [map_row(name, "these words", map_FHW, line, cells, top, valid_FHW) for name, map_FHW, valid_FHW in found]


def vlm_map(material: Stored, line: VlmLine, rows: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The VLM's map [F, H, W] (mean over those `rows` with a counterpart, density relative to uniform) and the cells it saw."""
    assert line.vlm_map is not None
    found = material.tensors(line.vlm_map)
    map_TFHW, valid_FHW = found["map"].astype(np.float64), found["valid"].astype(bool)
    covered = np.nonzero(found["covered"])[0].tolist() if "covered" in found else list(range(len(map_TFHW)))
    usable = [t for t in covered if rows is None or t in rows] or covered or [0]
    map_FHW = np.where(valid_FHW, map_TFHW[usable].mean(0), 0.0)
    mean = map_FHW[valid_FHW].mean() if valid_FHW.any() else 0.0
    return map_FHW / (mean or 1.0), valid_FHW


# 3 · reconstruction -----------------------------------------------------------------------------------------------------


def reconstruction(material: Pictured, shown: Sequence[PriorLine]) -> Section:
    """Original, inverted noise and reconstruction of the pictured clips."""
    pictured = [line for line in shown if "reconstruction" in line.pictures]
    if not pictured:
        return Section("reconstruction", "Reconstruction", "The prior set carries no reconstruction pictures of these samples.")
    body = _folded([_picture(material, line, "reconstruction") for line in pictured], 4, "more clips", "two")
    lead = "Original, inverted noise and what the video model makes of it again, with the latent error: attention is read on this path."
    return Section("reconstruction", "Reconstruction", lead, body)


def _folded(blocks: Sequence[Markup], shown: int, what: str, layout: str = "") -> Markup:
    """The first `shown` blocks, the others behind a line that opens them."""
    first, rest = NOTHING.join(blocks[:shown]), NOTHING.join(blocks[shown:])
    more = f'<details><summary>{len(blocks) - shown} {what}</summary><div class="{layout}">{rest}</div></details>' if rest else ""
    return raw(f'<div class="{layout}">{first}</div>{more}')


def _picture(material: Pictured, line: PriorLine, name: str, width: int = 720) -> Markup:
    address = shrink(material.store.read(line.pictures[name]), width)
    return raw(f'<figure class="stored"><img src="{address}" alt="{escape(name)} of sample {line.sample.id}">{quoted(line, 80)}</figure>')


# 4 · heads --------------------------------------------------------------------------------------------------------------


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
    missing = NOTHING if pictured else raw('<p class="absent">No vision-to-vision thumbnails: the prior set carries none.</p>')
    return Section("heads", "Motion-sensitive heads", lead, head_figure(material.priors) + thumbs + missing)


def head_figure(selection: HeadSelection | PriorSet) -> Markup:
    """Sorted stacked bars of the three z-scores with the cut line, what saturates, and the table of all heads (supplement Figs. 2, 4)."""
    rows = sorted(selection.heads, key=lambda row: (-row.score, row.head))
    spread = float(np.std([row.dfc for row in rows])) or 1.0
    cut = round(float(np.mean([len(line.heads) for line in selection.lines])))
    stacks = [
        Stack(
            str(row.head),
            [(row.z[0], "c1"), (row.z[1], "c2"), (row.z[2], "c3")],
            row.dfc_stderr / spread,
            index < cut,
            f"head {row.head}: DFC {row.dfc:.4g} ± {row.dfc_stderr:.2g}, TCS {row.tcs:.3g}, DSR {row.dsr:.3g}, "
            f"score {row.score:+.2f}, chosen in {row.chosen} of {row.samples} samples",
        )
        for index, row in enumerate(rows)
    ]
    legend = [("z(DFC) ± s.e.", "c1"), ("z(TCS)", "c2"), ("z(DSR)", "c3")]
    chart = stacked_bars("Heads by score", stacks, legend, cut, f"kept: {cut} of {len(rows)}")
    return chart + _saturation(selection) + _head_table(rows, cut)


def _saturation(selection: HeadSelection | PriorSet) -> Markup:
    shares = {name.upper(): share for name, share in selection.saturation.items()}
    text = ", ".join(f"{name} {share:.0%}" for name, share in sorted(shares.items()))
    if not any(share >= 0.9 for share in shares.values()):
        return raw(f'<p class="caption">Chosen heads at the maximum of a measure: {escape(text or "not recorded")}.</p>')
    return raw(
        f'<p class="warning"><b>Selection may be positional.</b> Chosen heads at the maximum of a measure: {escape(text)}. '
        "Such heads attend to the same place in every frame whatever the content.</p>"
    )


def _head_table(rows: Sequence[Any], cut: int) -> Markup:
    body = "".join(
        f"<tr{' class=strong' if index < cut else ''}><td>{row.head}</td><td>{number(row.dfc)} ± {number(row.dfc_stderr, 2)}</td>"
        f"<td>{number(row.tcs)}</td><td>{number(row.dsr)}</td><td>{signed(row.score, 2)}</td><td>{row.chosen} of {row.samples}</td></tr>"
        for index, row in enumerate(rows)
    )
    head = "<tr><th>head</th><th>DFC ± s.e.</th><th>TCS</th><th>DSR</th><th>score</th><th>chosen in</th></tr>"
    return raw(f"<details><summary>Table of all {len(rows)} heads</summary><table>{head}{body}</table></details>")


# 5 · words --------------------------------------------------------------------------------------------------------------


def motion_words(material: Pictured, shown: Sequence[PriorLine]) -> Section:
    """The text itself, shaded by standardized motion score, and attention over frames of the strongest and weakest words."""
    if not shown:
        return Section("words", "Words that carry motion", "No pictured samples: the report was made with pictures = 0.")
    kept = sum(piece.selected for line in material.priors.lines for piece in line.pieces)
    every = sum(len(line.pieces) for line in material.priors.lines)
    lead = raw(
        f"Each token shaded by its standardized motion score MS(t) = mean + mean |change| over frames; underlined ones are kept by MTTI "
        f"({kept} of {every} tokens in {len(material.priors.lines)} samples)."
    )
    blocks = [_sentence(line) + (_over_frames(material, line) if index < 2 else NOTHING) for index, line in enumerate(shown)]
    return Section("words", "Words that carry motion", lead, _folded(blocks, 2, "more samples"))


def _sentence(line: PriorLine) -> Markup:
    parts = []
    for name in ("question", "response"):
        pieces = sorted((piece for piece in line.pieces if piece.field == name), key=lambda piece: piece.start)
        if pieces:
            parts.append(f'<p class="words"><span class="field">{name}</span>{_shaded(str(getattr(line.sample, name)), pieces)}</p>')
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
