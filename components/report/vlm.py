"""Sections 7 and 8 of the report: the VLM's tokens for the video model's pieces, the training, and the VLM's maps.

Legend: T kept pieces (words), R rows of the VLM's sequence, F H W the prior's grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from markupsafe import Markup, escape
from tokenizers import Tokenizer

from components.core.artifacts import VlmLine
from components.core.units import number, signed
from components.media.map_algebra import map_distance
from components.pages.charts import Dot, dot_plot, histogram
from components.pages.figures import NOTHING, code, raw
from components.pages.page import Section, absent, caption, quoted
from components.pages.samples import piece_text
from components.pages.training_log import training_curves, training_line
from components.quality.measures import Scene, weighted_auc
from components.quality.statistics import Estimate, mean_interval
from components.report.material import Material, scenes
from components.sft.aligner import Aligner
from components.store.tensors import unpack
from components.store.transfer import original_name


def token_map(material: Material, shown_ids: Sequence[str]) -> Section:
    """Return the selected pieces and the VLM's tokens with links, and how many pieces have a counterpart."""
    coverage = material.frozen.coverage
    if not coverage:
        return Section("tokens", "Token map", "The tuned model's manifest names no samples.")
    record = material.provenance.get("vlm_attention")
    limit = float(record.params.get("min_coverage", 0.5)) if record else 0.5
    below = [item for item in material.left_out if item.task == "vlm_attention" and "coverage" in item.reason]
    bars = histogram(f"Coverage of {len(coverage)} samples", coverage, mark=limit)
    listed = NOTHING.join(raw("<li>{} {}</li>").format(code(item.unit), item.reason) for item in below)
    under = raw("<ul>{}</ul>").format(listed) if below else "none"
    chosen = [material.before[name] for name in shown_ids if name in material.before][:2]
    drawn = NOTHING.join(quoted(line.sample) + links(material, line) for line in chosen)
    lead = (
        "The kept pieces of the video model's text encoder (top) and the tokens of the vision-language model that "
        f"stand for the same characters (bottom). Mean coverage {np.mean(coverage):.3f}, n = {len(coverage)}."
    )
    facts = raw(f'<div class="charts">{bars}<div><h3>Coverage below {limit:g}</h3>{under}</div></div>')
    return Section("tokens", "Token map", lead, drawn + facts)


def links(material: Material, line: VlmLine) -> Markup:
    """Return two lines of text with one curve per link, as wide as the page allows, then the next pieces below."""
    found = material.tensors(line.token_map)
    map_TR, rows_R = found["map"], found["rows"]
    chosen = [piece for piece in material.pieces(line) if piece.selected]
    names = [piece_text(line.sample, piece) for piece in chosen]
    if len(names) != len(map_TR):
        names = [f"row {t}" for t in range(len(map_TR))]
    below = _vlm_tokens(material, line, rows_R.tolist())
    blocks, block, wide = [], list[int](), 0.0
    for t, name in enumerate(names):
        size = max(_wide(name), sum(_wide(below[r]) for r in np.nonzero(map_TR[t])[0].tolist()))
        if block and wide + size > 940:
            blocks.append(block)
            block, wide = [], 0.0
        block, wide = [*block, t], wide + size
    return NOTHING.join(_block(names, below, map_TR, block) for block in [*blocks, block])


def _wide(text: str) -> float:
    return 7.4 * len(text) + 20


def _block(names: Sequence[str], below: Sequence[str], map_TR: np.ndarray, block: Sequence[int]) -> Markup:
    rows = sorted({r for t in block for r in np.nonzero(map_TR[t])[0].tolist()})
    parts, tops, bottoms = list[str](), dict[int, float](), dict[int, float]()
    for keys, texts, y, centres in ((block, names, 4, tops), (rows, below, 84, bottoms)):
        x = 4.0
        for key in keys:
            w = _wide(texts[key])
            lost = " lost" if y == 4 and not map_TR[key].any() else ""
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{w - 6:.1f}" height="24" rx="5" class="token{lost}"/>'
                f'<text x="{x + (w - 6) / 2:.1f}" y="{y + 16}" text-anchor="middle" class="mono">'
                f"{escape(texts[key])}</text>"
            )
            centres[key] = x + (w - 6) / 2
            x += w
    for t in block:
        for r in np.nonzero(map_TR[t])[0].tolist():
            a, b, weight = tops[t], bottoms[r], 0.35 + 0.65 * map_TR[t, r]
            curve = f"M{a:.1f} 28C{a:.1f} 58 {b:.1f} 54 {b:.1f} 84"
            parts.append(f'<path class="link" opacity="{weight:.2f}" d="{curve}"/>')
    width = max(_wide(names[t]) + tops[t] - _wide(names[t]) / 2 for t in block)
    width = max([width, *(bottoms[r] + _wide(below[r]) / 2 for r in rows)]) + 4
    return raw(
        f'<svg class="links" style="max-width:{width:.0f}px" viewBox="0 0 {width:.0f} 112" role="img">'
        f"{''.join(parts)}</svg>"
    )


def _vlm_tokens(material: Material, line: VlmLine, rows: Sequence[int]) -> list[str]:
    """Return the VLM's tokens that share characters with a kept piece; their positions if they are not one per row."""
    file = next((ref for ref in material.model.files if original_name(ref) == "tokenizer.json"), None)
    if file is None:
        return [f"#{row}" for row in rows]
    tokenizer, texts = Tokenizer.from_str(material.store.read(file).decode()), list[str]()
    for name in ("question", "response"):
        kept = [piece for piece in material.pieces(line) if piece.selected and piece.field == name]
        text = str(getattr(line.sample, name))
        spans = tokenizer.encode(text, add_special_tokens=False).offsets if text else []
        texts += [
            text[a:b].strip() or "␣" for a, b in spans if any(a < piece.end and piece.start < b for piece in kept)
        ]
    return texts if len(texts) == len(rows) else [f"#{row}" for row in rows]


def training(material: Material) -> Section:
    """Return the training's curves, and the VLM's maps before and after it."""
    body = training_curves(material.log) + _distances(material) + _attention(material)
    return Section("training", "Training", training_line(material.log), body)


def _distances(material: Material) -> Markup:
    """Return the distance to the prior before → after for the pictured samples, and its mean change with interval."""
    pairs = []
    for name, before, after in _both(material):
        if before.distance is not None and after.distance is not None:
            pairs.append((name, before.distance, after.distance, after.video.id))
    if not pairs:
        return absent("No distance to the prior before and after: no sample has a map of both models.")
    dots = []
    for name, a, b, _ in pairs[:16]:
        dots.append(Dot(name, [(a, None, None, "grey"), (b, None, None, "c1")], f"{number(a)} → {number(b)}"))
    change = mean_interval([b - a for _, a, b, _ in pairs], [video for *_, video in pairs])
    title, legend = "Distance of the VLM's map to the prior", [("before", "grey"), ("after", "c1")]
    chart = dot_plot(title, dots, legend=legend, join=True, label=150, note=170)
    return chart + caption(f"Mean change {_change(change)}. {_absorbed(material, [name for name, *_ in pairs])}")


def _both(material: Material) -> list[tuple[str, VlmLine, VlmLine]]:
    """Return the samples that both models saw: id, line before and line after."""
    found = [(name, material.before.get(name), after) for name, after in sorted(material.after.items())]
    return [(name, before, after) for name, before, after in found if before is not None]


def _change(e: Estimate) -> str:
    between = "" if e.low is None or e.high is None else f" [{signed(e.low, 3)}, {signed(e.high, 3)}]"
    return f"{signed(e.value, 3)}{between}, n = {e.n} pictured samples of {e.clusters} videos"


def _attention(material: Material) -> Markup:
    """Return AUC_obj of the VLM's own map before → after, over the pictured samples with masks."""
    shown = [after for _, before, after in _both(material) if before.vlm_map is not None and after.vlm_map is not None]
    pairs = []
    for scene in scenes(material, shown):
        a, b = (_auc(material, side[scene.sample], scene) for side in (material.before, material.after))
        if a is not None and b is not None:
            pairs.append((a, b, scene.video))
    if not pairs:
        problem = "no pictured sample has a mask with a mover and static objects"
        return absent(f"The VLM's AUC_obj before and after: {problem}.")
    values, videos = np.array([(a, b, b - a) for a, b, _ in pairs]).T, [video for *_, video in pairs]
    untouched, tuned, change = (mean_interval(one.tolist(), videos) for one in values)
    return caption(
        f"AUC_obj of the VLM's own map, mover against static objects: {untouched.value:.3f} → {tuned.value:.3f}, "
        f"change {_change(change)}; .5 is chance."
    )


def _auc(material: Material, line: VlmLine, scene: Scene) -> float | None:
    """Return AUC_obj of one sample's map, mean over the words that the VLM has, over the cells that both models saw."""
    map_TFHW, valid_FHW, covered_T = material.vlm_map(line)
    return weighted_auc(map_TFHW[covered_T].mean(0), scene.mover * valid_FHW, scene.static * valid_FHW)


def _absorbed(material: Material, names: Sequence[str]) -> str:
    """Return how much of the distance the aligner alone takes away, for the frozen model's maps and the tuned one's."""
    if not material.model.aligner:
        return "The run has no aligner (aligner: none, or λ = 0), so nothing was absorbed by one."
    weights = unpack(material.store.read(material.model.aligner[0]))
    aligner = Aligner("local" if weights["read.weight"].shape[-1] > 1 else "pointwise")
    aligner.load_state_dict(weights)
    gaps = [gap for name in names if (gap := _gaps(material, name, aligner)) is not None]
    if not gaps:
        return "What the aligner absorbs is not known: no pictured map has a row for each word of its prior."
    before, through, after, after_through = np.mean(gaps, axis=0).tolist()
    return (
        f"The aligner alone takes the untouched model's distance from {number(before)} to {number(through)}, and the "
        f"tuned model's from {number(after)} to {number(after_through)} (means, n = {len(gaps)}); it is not used at "
        "inference."
    )


@torch.no_grad()
def _gaps(material: Material, name: str, aligner: Aligner) -> list[float] | None:
    """Return distances to the prior before and after tuning, each without and with the aligner.

    None where the rows do not correspond.
    """
    found = []
    for line in (material.before[name], material.after[name]):
        map_TFHW, valid_FHW, covered_T = map(torch.from_numpy, material.vlm_map(line))
        prior_TFHW = torch.from_numpy(material.prior(line))
        if map_TFHW.shape != prior_TFHW.shape or not bool(valid_FHW.any()):
            return None
        # words without a counterpart are in no loss
        map_TFHW, prior_TFHW = map_TFHW.float()[covered_T], prior_TFHW[covered_T]
        for seen in (map_TFHW, aligner(map_TFHW, valid_FHW)):
            found.append(float(map_distance(seen, prior_TFHW, valid_FHW)))
    return found
