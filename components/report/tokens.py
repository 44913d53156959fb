"""Section 7 of the report: the video model's pieces and the VLM's tokens that stand for the same characters.

Legend: T kept pieces, R rows of the VLM's sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape
from tokenizers import Tokenizer

from components.core.artifacts import VlmLine
from components.pages.charts import histogram
from components.pages.figures import NOTHING, code, raw
from components.pages.page import Section, quoted
from components.pages.samples import piece_text
from components.report.material import Material
from components.store.transfer import original_name


def token_map(material: Material, shown_ids: Sequence[str]) -> Section:
    """Return the selected pieces and the VLM's tokens with links, and how many pieces have a counterpart."""
    lines = material.model.lines
    if not lines:
        return Section("tokens", "Token map", "The tuned model's manifest has no lines.")
    record = material.provenance.get("vlm_attention")
    limit = float(record.params.get("min_coverage", 0.5)) if record else 0.5
    coverage = [line.coverage for line in lines]
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
    chosen = [piece for piece in line.pieces if piece.selected]
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
        kept = [piece for piece in line.pieces if piece.selected and piece.field == name]
        text = str(getattr(line.sample, name))
        spans = tokenizer.encode(text, add_special_tokens=False).offsets if text else []
        texts += [
            text[a:b].strip() or "␣" for a, b in spans if any(a < piece.end and piece.start < b for piece in kept)
        ]
    return texts if len(texts) == len(rows) else [f"#{row}" for row in rows]
