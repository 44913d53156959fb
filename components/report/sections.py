"""The report's sections of words and numbers: verdict, what was left out, provenance.

Each function returns a `Section`; what a run lacks is said in the section's one line.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup, escape

from components.core.records import ModelId, Ref, StepRecord
from components.models.registry import TINY
from components.pages.charts import Dot, dot_plot
from components.pages.figures import NOTHING, number, probability, raw, signed
from components.pages.section import Section
from components.report.benchmarks import Comparison, interval
from components.report.material import Material, paper

# 1 · verdict ----------------------------------------------------------------------------------------------------------


def sentence(material: Material, comparisons: Sequence[Comparison]) -> str:
    """The run's outcome in one sentence."""
    parts = []
    for one in comparisons:
        e = one.overall
        parts.append(
            f"{one.title}: tuned − untouched: {signed(e.value)} points {interval(e)}, {probability(one.p)}, {e.n} items"
        )
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
    forest = (
        dot_plot("tuned − untouched, points, 95 % interval over videos", dots, reference=0.0, label=140)
        if dots
        else NOTHING
    )
    models = "".join(
        f"<dt>{escape({'vdm': 'video model', 'vlm': 'vision-language model'}.get(role, role))}</dt><dd>{escape(model.name)} "
        f"<code>{escape(model.digest[:12])}</code></dd>"
        for role, model in sorted(material.models.items())
    )
    data = f"<dt>prior set</dt><dd>{len(material.priors.lines)} samples <code>sha256:{material.priors.digest[:16]}…</code></dd>"
    differs = deviations(material.provenance, material.models)
    listed = "".join(f"<li>{item}</li>" for item in differs)
    preset = f"<ul>{listed}</ul>" if differs else "none: the paper's setting"
    facts = f"<dl class='facts'>{models}{data}<dt>differs from the paper in</dt><dd>{preset}</dd></dl>"
    return Section("verdict", "Verdict", sentence(material, comparisons), forest + raw(facts))


def deviations(provenance: dict[str, StepRecord], models: dict[str, ModelId]) -> list[Markup]:
    """Where the recorded parameters differ from the paper's; only what was recorded is judged."""
    preset, found = paper()["preset"], []
    for role in ("vdm", "vlm"):
        if role in models and (name := models[role].name) not in preset[role]:
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


# 10 · left out, 11 · provenance ---------------------------------------------------------------------------------------


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
    return Section(
        "left-out", "Left out", lead + (" The first 200 are listed." if len(material.left_out) > 200 else ""), table
    )


def provenance(material: Material) -> Section:
    """Section 11: what each step ran with, digests, bytes by kind, and the command that makes it again."""
    digests = {"prior set": material.priors.digest, "tuned model": material.model.digest}
    for kind, results in (("untouched", material.untouched), ("tuned", material.tuned)):
        digests |= {f"{protocol}, {kind}": result.digest for protocol, result in sorted(results.items())}
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td><code>sha256:{digest}</code></td></tr>" for name, digest in digests.items()
    )
    sizes = "".join(
        f"<tr><td>{name}</td><td>{files}</td><td>{_size(total)}</td></tr>" for name, files, total in _bytes(material)
    )
    tasks = "".join(_task(task, record) for task, record in sorted(material.provenance.items()))
    arguments = json.dumps(_arguments(material), indent=1, sort_keys=True)
    sources = ", ".join(f'"{name}=…"' for name in sorted(material.tuned))
    body = raw(
        f"<h3>Digests</h3><table>{rows}</table><h3>In the store</h3><table><tr><th>what</th><th>files</th><th>bytes</th></tr>"
        f"{sizes}</table><h3>Steps</h3>{tasks}<h3>Make it again</h3><pre>motion-enhancer run fine_tune --arguments arguments.json "
        f"--set store=… --set 'benchmarks=[{escape(sources)}]'</pre>"
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
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(json.dumps(value))}</td></tr>"
        for name, value in sorted(values.items())
    )
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
