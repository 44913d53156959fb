"""Step 8 · report: one self-contained page of what a run found, from manifests and the store's objects, on a CPU.

One piece of work: its key reads the digests of everything that is shown. Equal inputs give equal bytes: no dates and no
timings.
"""

from __future__ import annotations

from pydantic import Field

from components.core.artifacts import EvalResult, PriorSet, Report, TunedModel, VlmMaps
from components.core.errors import DataError
from components.core.records import Json
from components.runtime.context import Context
from components.runtime.declaration import Step
from components.runtime.parameters import StepParams
from components.store.entries import WorkFolder

_FULL, _CUT = 8_000_000, 1_000_000  # bytes: the report, and what the KFP UI shows


class Params(StepParams):
    """What the report shows."""

    pictures: int = Field(8, ge=0, le=64, description="pictured samples: those with the smallest sha256(sample id)")
    masked: int = Field(
        256, ge=1, description="most samples that the prior is measured on against ground-truth masks, same order"
    )
    seed: int = Field(1, ge=0, description="seed of bootstraps and permutations")


def by_protocol(results: list[EvalResult], source: str) -> dict[str, EvalResult]:
    """Return results by benchmark; two of one benchmark raise a DataError."""
    found = {result.protocol: result for result in results}
    if len(found) != len(results):
        names = sorted(result.protocol for result in results)
        raise DataError(f"several results of one benchmark: {names}", source=source, remedy="give each benchmark once")
    return found


def run(context: Context[Params]) -> None:
    """Make the page unless it is remembered; the cut for the KFP UI and the summary are made each time."""
    from components.pages.page import fit, render
    from components.quality.measures import assess
    from components.report.material import Material, scenes, shipped
    from components.report.page import Findings, build, comparisons, summary

    untouched = by_protocol(context.collected("untouched", EvalResult), "untouched")
    tuned = by_protocol(context.collected("tuned", EvalResult), "tuned")
    after, priors = context.input("maps", VlmMaps), context.input("priors", PriorSet)
    model, shown_lines = context.input("model", TunedModel), {line.sample.id: line for line in after.lines}
    made = model, untouched, tuned, dict(context.provenance), list(context.left_out)
    material = Material(context.store, priors, *made, after=shown_lines, masked=context.params.masked)
    quality = assess(scenes(material, material.survey.masked.lines), seed=context.params.seed)
    shown = min(context.params.pictures, len(material.order))
    pictured = [line.sample.id for line in material.order[:shown]]
    findings = Findings(quality, comparisons(material), shipped("prior_table.json"), pictured)

    def make(count: int, note: str = "") -> str:
        return render(build(material, findings, count), note)

    def compute(folder: WorkFolder) -> Json:
        folder.put("page", "html", fit(make, shown, _FULL).encode())
        return {"sections": 12}

    reads = {
        "untouched": {name: material.digests[f"{name}, untouched"] for name in untouched},
        "tuned": {name: material.digests[f"{name}, tuned"] for name in tuned},
        "maps": after.digest,
        "priors": material.digests["prior set"],
        "model": material.digests["tuned model"],
        "bench": findings.bench,
    }
    page = context.once("report", reads, compute).ref("page", context.task)
    context.publish("report", context.manifest(Report, page=page))
    note = f"A cut for this viewer. The whole report is {page.path} in the store."
    context.page("page", fit(lambda count: make(count, note), shown, _CUT))
    context.page("summary", summary(material, findings, page.path))


STEP = Step(
    name="report",
    version="4",
    title="8 · Report",
    unit="section",
    device="cpu",
    params=Params,
    run=run,
    inputs={"untouched": [EvalResult], "tuned": [EvalResult], "maps": VlmMaps, "priors": PriorSet, "model": TunedModel},
    outputs={"report": Report},
    pages={"page": "HTML", "summary": "Markdown"},
)
