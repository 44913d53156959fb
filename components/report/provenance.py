"""Section 11 of the report: digests, bytes in the store, each step's parameters, and the command to make it again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

from components.core.records import Ref, StepRecord
from components.core.units import readable_bytes
from components.pages.figures import NOTHING, code, raw
from components.pages.section import Section, html_table
from components.report.material import Material

# the task whose record holds a step's parameters
_TASKS = {
    "vlm_attention": "vlm_attention",
    "sft": "sft",
    "dataset_import": "benchmark_import",
    "benchmark_eval": "baseline_eval",
    "prior_set": "prior_set",
}


def provenance(material: Material) -> Section:
    """Return what the page was made from, and how to make it again."""
    digests = {"prior set": material.priors.digest, "tuned model": material.model.digest}
    for kind, results in (("untouched", material.untouched), ("tuned", material.tuned)):
        digests |= {f"{protocol}, {kind}": result.digest for protocol, result in sorted(results.items())}
    sources = ", ".join(f'"{name}=…"' for name in sorted(material.tuned))
    body = raw(
        "<h3>Digests</h3>{}<h3>In the store</h3>{}<h3>Steps</h3>{}<h3>Make it again</h3>"
        "<pre>motion-enhancer run fine_tune --arguments arguments.json --set store=… --set 'benchmarks=[{}]'</pre>"
        "<details><summary>arguments.json</summary><pre>{}</pre></details>"
    ).format(
        html_table((), ((name, code(f"sha256:{digest}")) for name, digest in digests.items())),
        html_table(("what", "files", "bytes"), _stored_bytes(material)),
        NOTHING.join(_step(task, record) for task, record in sorted(material.provenance.items())),
        sources,
        json.dumps(_arguments(material), indent=1, sort_keys=True),
    )
    return Section("provenance", "Provenance", "Equal inputs give equal bytes: what this page was made from.", body)


def _stored_bytes(material: Material) -> list[tuple[str, int, str]]:
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
    return [(name, len(files), readable_bytes(sum(files.values()))) for name, files in unique.items()]


def _step(task: str, record: StepRecord) -> Markup:
    values = sorted({**record.scalars, **record.params}.items())
    rows = [(code(name), json.dumps(value)) for name, value in values]
    models = ", ".join(f"{model.name} {model.digest[:12]}" for model in record.models.values())
    return raw("<details><summary><b>{}</b> v{} {}</summary>{}</details>").format(
        task, record.version, models, html_table((), rows) if rows else raw("<p>no parameters</p>")
    )


def _arguments(material: Material) -> dict[str, Any]:
    """Return the arguments of the pipeline that fine-tunes from this prior set."""
    found: dict[str, Any] = {"priors": f"sha256:{material.priors.digest}"}
    if "vlm" in material.models:
        found["vlm"] = material.models["vlm"].name
    if "sft" in material.provenance:
        found |= material.provenance["sft"].scalars
    recorded = {step: task for step, task in _TASKS.items() if task in material.provenance}
    return found | {f"params_{step}": material.provenance[task].params for step, task in recorded.items()}
