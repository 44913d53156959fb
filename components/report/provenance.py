"""Sections 10 and 12 of the report: leakage, and provenance.

Provenance is digests, bytes, parameters, and the command to make it again.
"""

from __future__ import annotations

import json

from components.core.artifacts import LEAKS
from components.core.records import Json
from components.core.units import readable_bytes
from components.pages.figures import NOTHING, code, raw
from components.pages.leakage import leakage_line, leakage_rows
from components.pages.page import Section, caption, html_table
from components.pages.provenance import step_details
from components.report.material import Material
from components.report.survey import Files

# the task whose record holds a step's parameters, where it has another name; and the steps of `fine_tune`
_TASKS = {"dataset_import": "benchmark_import", "benchmark_eval": "baseline_eval"}
_STEPS = ("vlm_attention", "leakage_check", "sft", *_TASKS)


def leakage(material: Material) -> Section:
    """Return what training and benchmark videos have in common, and how many were not trained on for it."""
    counts = material.model.leakage
    lead = leakage_line(counts)
    if counts is None:
        return Section("leakage", "Leakage", lead)
    body = html_table(("benchmark", "videos", *(f"same {kind}" for kind in LEAKS)), leakage_rows(counts))
    note = "Videos of each benchmark with a counterpart in training, by what they share. Pairs: {}"
    return Section("leakage", "Leakage", lead, body + caption(raw(note).format(code(f"sha256:{counts.report}"))))


def provenance(material: Material) -> Section:
    """Return what the page was made from, and how to make it again."""
    body = raw(
        "<h3>Digests</h3>{}<h3>In the store</h3>{}<h3>Steps</h3>{}<h3>Make it again</h3>"
        "<pre>motion-enhancer run fine_tune --arguments arguments.json --set store=… --set 'benchmarks=[{}]'</pre>"
        "<details><summary>arguments.json</summary><pre>{}</pre></details>"
    ).format(
        html_table((), ((name, code(f"sha256:{digest}")) for name, digest in material.digests.items())),
        html_table(("what", "files", "bytes"), _stored_bytes(material)),
        NOTHING.join(step_details(task, record) for task, record in sorted(material.provenance.items())),
        ", ".join(f'"{name}=…"' for name in sorted(material.tuned)),
        json.dumps(_arguments(material), indent=1, sort_keys=True),
    )
    return Section("provenance", "Provenance", "Equal inputs give equal bytes: what this page was made from.", body)


def _stored_bytes(material: Material) -> list[tuple[str, int, str]]:
    found = {**material.survey.files, "VLM maps": material.frozen.maps, "tuned model": Files(*material.model.files)}
    return [(name, len(files), readable_bytes(files.bytes)) for name, files in found.items()]


def _arguments(material: Material) -> Json:
    """Return the arguments of the pipeline that fine-tunes from this prior set."""
    found: Json = {"priors": f"sha256:{material.digests['prior set']}"}
    if "vlm" in material.models:
        found["vlm"] = material.models["vlm"].name
    if "sft" in material.provenance:
        found |= material.provenance["sft"].scalars
    tasks = {step: _TASKS.get(step, step) for step in _STEPS}
    recorded = {step: material.provenance[task] for step, task in tasks.items() if task in material.provenance}
    return found | {f"params_{step}": record.params for step, record in recorded.items()}
