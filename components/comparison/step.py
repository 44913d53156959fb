"""comparison: the evaluations of all variants side by side. A reduction."""

from __future__ import annotations

from components.core.artifacts import EvalResult, PriorSet, Report
from components.core.records import Json
from components.pages.markdown import document, table
from components.runtime.context import Context
from components.runtime.declaration import Step
from components.runtime.parameters import Baseline, SharedParams, StepParams
from components.runtime.variants import Case, baseline_of
from components.store.entries import WorkFolder


class Shared(SharedParams):
    """What the others are compared with."""

    baseline: Baseline


def run(context: Context[StepParams, Shared]) -> None:
    """Write one table of accuracies."""
    results = [*context.cases("untouched", EvalResult), *context.cases("tuned", EvalResult)]
    priors = context.cases("priors", PriorSet)
    baseline = baseline_of(context.shared.baseline, list(dict.fromkeys(case.variant for case, _ in priors)))
    page = document(
        "# Comparison", f"Baseline: {baseline}", table(("case", "benchmark", "items", "correct"), map(_row, results))
    )

    def compute(folder: WorkFolder) -> Json:
        folder.put("page", "html", page.encode())
        return {}

    reads: Json = {"results": [[case.folder, found.digest] for case, found in results], "baseline": baseline}
    entry = context.once("comparison", reads, compute)
    context.publish("report", context.manifest(Report, page=entry.ref("page", context.task)))
    context.page("page", page)
    context.page("summary", page)


def _row(pair: tuple[Case, EvalResult]) -> tuple[object, ...]:
    case, result = pair
    return case.called, result.protocol, result.scores[0].n, result.scores[0].correct


STEP = Step(
    name="comparison",
    version="1",
    title="Comparison",
    unit="variant",
    device="cpu",
    params=StepParams,
    shared=Shared,
    run=run,
    inputs={"untouched": [EvalResult], "tuned": [EvalResult], "priors": PriorSet},
    outputs={"report": Report},
    pages={"page": "HTML", "summary": "Markdown"},
)
