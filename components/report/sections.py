"""The report's sections of words and numbers: verdict, token map, training, what was left out, provenance.

Each function returns a `Section`; what a run lacks is said in the section's one line.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from markupsafe import Markup, escape

from components.core.artifacts import Ref, StepRecord, VlmLine
from components.models.registry import TINY
from components.models.tensors import unpack
from components.models.tuned import original_name
from components.report.benchmarks import Comparison
from components.report.charts import Dot, Line, dot_plot, histogram, line_chart
from components.report.figures import NOTHING, number, probability, raw, signed
from components.report.material import Material, paper
from components.report.pictures import Section, quoted
from components.report.quality import Estimate, cluster_interval
from components.sft.aligner import Aligner
from components.sft.loss import map_distance

# 1 · verdict ------------------------------------------------------------------------------------------------------------


def sentence(material: Material, comparisons: Sequence[Comparison]) -> str:
    """The run's outcome in one sentence."""
    parts = []
    for one in comparisons:
        e = one.overall
        between = "no interval from one video" if e.low is None or e.high is None else f"[{signed(e.low)}, {signed(e.high)}]"
        parts.append(f"{one.title}: tuned − untouched: {signed(e.value)} points {between}, {probability(one.p)}, {e.n} items")
    said = "; ".join(parts) or "No benchmark was evaluated with both models"
    if tiny := sorted({model.name for model in material.models.values() if model.name in TINY}):
        items = sum(one.overall.n for one in comparisons)
        return f"Plumbing only: random weights ({', '.join(tiny)}), {items} items. {said}."
    return said + "."


def verdict(material: Material, comparisons: Sequence[Comparison]) -> Section:
    """Section 1: the sentence, a forest of all benchmarks, the models, the data's digest, and how the run differs from the paper's."""
    dots = []
    for one in comparisons:
        e = one.overall
        note = f"{signed(e.value)} {interval(e)}, n = {e.n}"
        dots.append(Dot(one.title, [(e.value, e.low, e.high, "c1")], note, True))
    forest = dot_plot("tuned − untouched, points, 95 % interval over videos", dots, reference=0.0, label=130) if dots else NOTHING
    models = "".join(
        f"<dt>{escape({'vdm': 'video model', 'vlm': 'vision-language model'}.get(role, role))}</dt><dd>{escape(model.name)} "
        f"<code>{escape(model.digest[:12])}</code></dd>"
        for role, model in sorted(material.models.items())
    )
    data = f"<dt>prior set</dt><dd>{len(material.priors.lines)} samples <code>sha256:{material.priors.digest[:16]}…</code></dd>"
    differs = deviations(material.provenance)
    listed = "".join(f"<li>{item}</li>" for item in differs)
    preset = f"<ul>{listed}</ul>" if differs else "none: the paper's setting"
    facts = f"<dl class='facts'>{models}{data}<dt>differs from the paper in</dt><dd>{preset}</dd></dl>"
    return Section("verdict", "Verdict", sentence(material, comparisons), forest + raw(facts))


def interval(e: Estimate) -> str:
    """`[−1.0, +2.0]`, or why there is none."""
    return "(1 video: no interval)" if e.low is None or e.high is None else f"[{signed(e.low)}, {signed(e.high)}]"


def deviations(provenance: dict[str, StepRecord]) -> list[Markup]:
    """Where the recorded parameters differ from the paper's; only what was recorded is judged."""
    preset, found = paper()["preset"], []
    for role in ("vdm", "vlm"):
        for name in sorted({record.models[role].name for record in provenance.values() if role in record.models}):
            if name not in preset[role]:
                found.append(raw(f"{role}: <code>{escape(name)}</code> (paper: {escape(' or '.join(preset[role]))})"))
    scalars = {name: value for _, record in sorted(provenance.items()) for name, value in record.scalars.items()}
    wanted = [("", name, scalars.get(name), value, name in scalars) for name, value in preset["scalars"].items()]
    for task, values in preset["params"].items():
        params = provenance[task].params if task in provenance else {}
        wanted += [(f"{task}.", name, params.get(name), value, name in params) for name, value in values.items()]
    found += [
        raw(f"<code>{task}{name}</code> = {escape(json.dumps(given))} (paper: {escape(json.dumps(value))})")
        for task, name, given, value, there in wanted
        if there and given != value
    ]
    return found


# 7 · token map ----------------------------------------------------------------------------------------------------------


def token_map(material: Material, shown_ids: Sequence[str]) -> Section:
    """Section 7: the selected pieces and the VLM's tokens with links, and how many pieces have a counterpart."""
    lines = material.model.lines
    if not lines:
        return Section("tokens", "Token map", "The tuned model's manifest has no lines.")
    limit = _limit(material)
    coverage = [line.coverage for line in lines]
    below = [item for item in material.left_out if item.task == "vlm_attention" and "coverage" in item.reason]
    bars = histogram(f"Coverage of {len(coverage)} samples", coverage, mark=limit)
    listed = "".join(f"<li><code>{escape(item.unit)}</code> {escape(item.reason)}</li>" for item in below)
    under = f"<ul>{listed}</ul>" if below else "none"
    chosen = [material.before[name] for name in shown_ids if name in material.before][:2]
    drawn = NOTHING.join(quoted(line) + links(material, line) for line in chosen)
    lead = (
        "The kept pieces of the video model's text encoder (top) and the tokens of the vision-language model that stand for the same "
        f"characters (bottom). Mean coverage {np.mean(coverage):.3f}, n = {len(coverage)}."
    )
    facts = raw(f'<div class="charts">{bars}<div><h3>Below the limit of {number(limit)} coverage</h3>{under}</div></div>')
    return Section("tokens", "Token map", lead, drawn + facts)


def _limit(material: Material) -> float:
    record = material.provenance.get("vlm_attention")
    return float(record.params.get("min_coverage", 0.5)) if record else 0.5


def links(material: Material, line: VlmLine) -> Markup:
    """Two lines of text with a curve for each link, as wide as the page allows, then the next pieces below."""
    found = material.tensors(line.token_map)
    map_TR, rows_R = found["map"], found["rows"]
    chosen = [piece for piece in line.pieces if piece.selected]
    names = [str(getattr(line.sample, piece.field))[piece.start : piece.end].strip() or piece.token for piece in chosen]
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
            lost = y == 4 and not map_TR[key].any()
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="{w - 6:.1f}" height="24" rx="5" class="token{" lost" if lost else ""}"/>')
            parts.append(f'<text x="{x + (w - 6) / 2:.1f}" y="{y + 16}" text-anchor="middle" class="mono">{escape(texts[key])}</text>')
            centres[key] = x + (w - 6) / 2
            x += w
    for t in block:
        for r in np.nonzero(map_TR[t])[0].tolist():
            a, b = tops[t], bottoms[r]
            parts.append(f'<path class="link" opacity="{0.35 + 0.65 * map_TR[t, r]:.2f}" d="M{a:.1f} 28C{a:.1f} 58 {b:.1f} 54 {b:.1f} 84"/>')
    width = max(_wide(names[t]) + tops[t] - _wide(names[t]) / 2 for t in block)
    width = max([width, *(bottoms[r] + _wide(below[r]) / 2 for r in rows)]) + 4
    return raw(f'<svg class="links" style="max-width:{width:.0f}px" viewBox="0 0 {width:.0f} 112" role="img">{"".join(parts)}</svg>')


def _vlm_tokens(material: Material, line: VlmLine, rows: Sequence[int]) -> list[str]:
    """Text of the VLM's tokens: those of its tokenizer that share characters with a kept piece, if they are as many as the rows are."""
    file = next((ref for ref in material.model.files if original_name(ref) == "tokenizer.json"), None)
    if file is None:
        return [f"#{row}" for row in rows]
    from tokenizers import Tokenizer

    tokenizer, texts = Tokenizer.from_str(material.store.read(file).decode()), list[str]()
    for name in ("question", "response"):
        kept = [piece for piece in line.pieces if piece.selected and piece.field == name]
        text = str(getattr(line.sample, name))
        spans = tokenizer.encode(text, add_special_tokens=False).offsets if text else []
        texts += [text[a:b].strip() or "␣" for a, b in spans if any(a < piece.end and piece.start < b for piece in kept)]
    return texts if len(texts) == len(rows) else [f"#{row}" for row in rows]


# 8 · training -----------------------------------------------------------------------------------------------------------


def training(material: Material) -> Section:
    """Section 8: losses, gradient norms and learning rates over the steps; the distance to the prior before and after."""
    rows = material.log
    losses = [_line("L_AR", rows, "ar", "c1"), _line("held out", rows, "val_ar", "c2", dots=True)]
    aligned = [_line("L_align", rows, "align", "c3"), _line("held out", rows, "val_align", "c2", dots=True)]
    norms = [_line("∇L_AR", rows, "grad_ar", "c1", dots=True), _line("∇L_align", rows, "grad_align", "c3", dots=True)]
    roles = sorted({name for row in rows for name in row if name.startswith("lr_")})
    rates = [_line(role[3:], rows, role, colour) for role, colour in zip(roles, ("c1", "c2", "c3", "c4"), strict=False)]
    charts = [("Response loss", losses, False), ("Alignment loss", aligned, False), ("Gradient norms", norms, True)]
    drawn = [line_chart(title, [s for s in lines if s.x], x_name="step", log=log) for title, lines, log in charts]
    drawn.append(line_chart("Learning rates", [s for s in rates if s.x], x_name="step", log=True, show=lambda v: f"{v:.0e}"))
    absent = [name for (name, _, _), chart in zip(charts, drawn, strict=False) if not chart]
    missing = raw(f'<p class="absent">Not in this run\'s log: {escape(", ".join(absent).lower())}.</p>') if absent else NOTHING
    body = raw(f'<div class="charts">{NOTHING.join(drawn)}</div>') + missing + _distances(material)
    return Section("training", "Training", _training_lead(rows), body)


def _line(name: str, rows: Sequence[dict[str, Any]], key: str, colour: str, *, dots: bool = False) -> Line:
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    return Line(name, [x for x, _ in points], [y for _, y in points], colour, dots)


def _training_lead(rows: Sequence[dict[str, Any]]) -> str:
    about: dict[str, Any] = {key: value for row in reversed(rows) for key, value in row.items()}
    steps = max((row["step"] for row in rows), default=0)
    parts = [f"{steps} steps"]
    parts += [f"{about['samples']} samples, {about.get('held_out', 0)} held out by video"] if "samples" in about else []
    parts += [f"λ = {number(about['align_weight'])}"] if "align_weight" in about else []
    parts += [f"λ·Var(normalized prior) = {number(about['lambda_variance'])}, where 1 to 10 works"] if "lambda_variance" in about else []
    total, before = (sum(row.get(key, 0) for row in rows) for key in ("rows", "rows_before_response"))
    parts += [f"{before / total:.0%} of {total} aligned rows precede the response"] if total else []
    return ". ".join(parts) + "."


def _distances(material: Material) -> Markup:
    """Distance to the prior before → after for the pictured samples, and its mean change with interval."""
    pairs = [
        (name, before.distance, after.distance, after.video.id)
        for name, after in sorted(material.after.items())
        if (before := material.before.get(name)) is not None and before.distance is not None and after.distance is not None
    ]
    if not pairs:
        return raw('<p class="absent">No distance to the prior before and after: no sample has a map of both models.</p>')
    dots = [
        Dot(name, [(a, None, None, "grey"), (b, None, None, "c1")], f"{number(a)} → {number(b)}") for name, a, b, _ in pairs[:16]
    ]
    change = cluster_interval([b - a for _, a, b, _ in pairs], [video for *_, video in pairs])
    between = "" if change.low is None or change.high is None else f" [{signed(change.low, 3)}, {signed(change.high, 3)}]"
    chart = dot_plot(
        "Distance of the VLM's map to the prior", dots, legend=[("before", "grey"), ("after", "c1")], join=True, label=150, note=170
    )
    said = f"Mean change {signed(change.value, 3)}{between}, n = {change.n} pictured samples of {change.clusters} videos."
    return chart + raw(f'<p class="caption">{said} {_absorbed(material, [name for name, *_ in pairs])}</p>')


def _absorbed(material: Material, names: Sequence[str]) -> str:
    """How much of the distance the aligner takes away by itself: its output for the frozen model's map, and for the tuned one's."""
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
        f"The aligner alone takes the untouched model's distance from {number(before)} to {number(through)}, and the tuned model's from "
        f"{number(after)} to {number(after_through)} (means, n = {len(gaps)}); it is not used at inference."
    )


@torch.no_grad()
def _gaps(material: Material, name: str, aligner: Aligner) -> list[float] | None:
    """Distance to the prior before and after tuning, each without and with the aligner; None where rows do not correspond."""
    found = []
    for line in (material.before[name], material.after[name]):
        assert line.vlm_map is not None
        stored = unpack(material.store.read(line.vlm_map))
        map_TFHW, valid_FHW = stored["map"].float(), stored["valid"].bool()
        prior_TFHW = unpack(material.store.read(line.prior))["prior"].float()
        if map_TFHW.shape != prior_TFHW.shape or not bool(valid_FHW.any()):
            return None
        for seen in (map_TFHW, aligner(map_TFHW, valid_FHW)):
            found.append(float(map_distance(seen, prior_TFHW, valid_FHW)))
    return found


# 10 · left out, 11 · provenance -------------------------------------------------------------------------------------------


def left_out(material: Material) -> Section:
    """Section 10: units that a step left out, with reasons."""
    if not material.left_out:
        return Section("left-out", "Left out", "Nothing: every unit of every step is in.")
    counts = Counter(item.task for item in material.left_out)
    rows = "".join(
        f"<tr><td>{escape(item.task)}</td><td><code>{escape(item.unit)}</code></td><td>{escape(item.reason)}</td></tr>"
        for item in sorted(material.left_out, key=lambda item: (item.task, item.unit))[:200]
    )
    lead = f"{len(material.left_out)} units: " + ", ".join(f"{n} by {task}" for task, n in sorted(counts.items())) + "."
    table = raw(f"<table class='wrap'><tr><th>task</th><th>unit</th><th>reason</th></tr>{rows}</table>")
    return Section("left-out", "Left out", lead + (" The first 200 are listed." if len(material.left_out) > 200 else ""), table)


def provenance(material: Material) -> Section:
    """Section 11: what each step ran with, digests, bytes by kind, and the command that makes it again."""
    digests = {"prior set": material.priors.digest, "tuned model": material.model.digest}
    for kind, results in (("untouched", material.untouched), ("tuned", material.tuned)):
        digests |= {f"{protocol}, {kind}": result.digest for protocol, result in sorted(results.items())}
    rows = "".join(f"<tr><td>{escape(name)}</td><td><code>sha256:{digest}</code></td></tr>" for name, digest in digests.items())
    sizes = "".join(f"<tr><td>{name}</td><td>{files}</td><td>{_size(total)}</td></tr>" for name, files, total in _bytes(material))
    tasks = "".join(_task(task, record) for task, record in sorted(material.provenance.items()))
    arguments = json.dumps(_arguments(material), indent=1, sort_keys=True)
    body = raw(
        f"<h3>Digests</h3><table>{rows}</table><h3>In the store</h3><table><tr><th>what</th><th>files</th><th>bytes</th></tr>{sizes}</table>"
        f"<h3>Steps</h3>{tasks}<h3>Make it again</h3><pre>motion-enhancer run fine_tune --arguments arguments.json "
        f"--set store=… --set 'benchmarks=[{escape(', '.join(chr(34) + name + '=…' + chr(34) for name in sorted(material.tuned)))}]'</pre>"
        f"<details><summary>arguments.json</summary><pre>{escape(arguments)}</pre></details>"
    )
    return Section("provenance", "Provenance", "Equal inputs give equal bytes: what this page was made from.", body)


def _size(total: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if total >= factor:
            return f"{number(total / factor)} {unit}"
    return f"{total} B"


def _bytes(material: Material) -> list[tuple[str, int, int]]:
    lines = material.priors.lines
    kinds: dict[str, Iterable[Ref]] = {
        "videos": [line.video.file for line in lines],
        "priors": [line.prior for line in lines],
        "attention over frames": [line.per_frame for line in lines],
        "head statistics": [line.statistics for line in lines],
        "pictures": [ref for line in lines for ref in line.pictures.values()],
        "VLM maps": [line.vlm_map for line in (*material.model.lines, *material.after.values()) if line.vlm_map],
        "tuned model": material.model.files,
    }
    unique = {name: {ref.path: ref.bytes for ref in refs} for name, refs in kinds.items()}
    return [(name, len(files), sum(files.values())) for name, files in unique.items()]


def _task(task: str, record: StepRecord) -> str:
    values = {**record.scalars, **record.params}
    rows = "".join(f"<tr><td><code>{escape(name)}</code></td><td>{escape(json.dumps(value))}</td></tr>" for name, value in sorted(values.items()))
    models = ", ".join(f"{model.name} {model.digest[:12]}" for model in record.models.values())
    return (
        f"<details><summary><b>{escape(task)}</b> v{escape(record.version)} {escape(models)}</summary>"
        f"<table>{rows or '<tr><td>no parameters</td></tr>'}</table></details>"
    )


_STEP_OF = {
    "vlm_attention": "vlm_attention",
    "sft": "sft",
    "benchmark_import": "dataset_import",
    "baseline_eval": "benchmark_eval",
    "prior_set": "prior_set",
}


def _arguments(material: Material) -> dict[str, Any]:
    """The arguments of the pipeline that fine-tunes from this prior set."""
    found: dict[str, Any] = {"priors": f"sha256:{material.priors.digest}"}
    if "vlm" in material.models:
        found["vlm"] = material.models["vlm"].name
    if "sft" in material.provenance:
        found |= material.provenance["sft"].scalars
    for task, step in _STEP_OF.items():
        if task in material.provenance:
            found[f"params_{step}"] = material.provenance[task].params
    return found
