"""Step 8 of `ablations` · comparison: every variant of a run against a baseline, on one page. On a CPU.

One piece of work, as the report: its key reads the digests of everything that is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from components.core.artifacts import EvalResult, PriorSet, Report
from components.core.errors import DataError
from components.core.records import Failure, Json, StepRecord
from components.runtime.context import Context
from components.runtime.declaration import Step
from components.runtime.parameters import Baseline, SharedParams, StepParams
from components.runtime.variants import Case
from components.store.entries import WorkFolder

if TYPE_CHECKING:
    from components.comparison.compare import Trial

_FULL, _CUT = 8_000_000, 1_000_000  # bytes: the page, and what the KFP UI shows
_ROLES = {"vdm": "video model", "vlm": "vision-language model"}
PRIORS = "prior set"
Cases = Sequence[tuple[Case, EvalResult]]


class Params(StepParams):
    """What the comparison shows."""

    pictures: int = Field(
        4, ge=0, le=64, description="pictured samples: those with the smallest sha256(sample id) that all variants have"
    )


class Shared(SharedParams):
    """What the others are compared with."""

    baseline: Baseline


def run(context: Context[Params, Shared]) -> None:
    """Make the page unless it is remembered; the cut for the KFP UI and the summary are made each time."""
    from components.comparison.compare import compare
    from components.comparison.maps import pictured
    from components.comparison.material import Material
    from components.comparison.page import build
    from components.comparison.summary import summary
    from components.pages.page import fit, render

    priors, changes = context.cases("priors", PriorSet), dict[str, Json]()
    for case, _ in priors:
        changes[case.variant] = case.changes
    untouched, tuned = (context.cases(name, EvalResult) for name in ("untouched", "tuned"))
    found = compare(by_trial(tuned, list(changes)), by_variant(untouched), context.shared.baseline)
    sets = {case.variant: one for case, one in priors}
    samples, shown_sets = pictured(sets, context.params.pictures)
    records = [record for _, one in tuned for record in one.provenance.items()]
    material = Material(
        context.store,
        found,
        changes,
        samples,
        shown_sets,
        models_of(records),
        left_out_of([*untouched, *tuned]),
        digests_of([*priors, *untouched, *tuned]),
        tuned[0][1].provenance,
    )

    def make(count: int, note: str = "") -> str:
        return render(build(material, count), note, "comparison")

    def compute(folder: WorkFolder) -> Json:
        folder.put("page", "html", fit(make, len(samples), _FULL).encode())
        return {"models": len(found.models)}

    reads: Json = {"manifests": material.digests, "baseline": found.baseline, "changes": changes}
    page = context.once("comparison", reads, compute).ref("page", context.task)
    context.publish("report", context.manifest(Report, page=page))
    note = f"A cut for this viewer. The whole page is {page.path} in the store."
    context.page("page", fit(lambda count: make(count, note), len(samples), _CUT))
    context.page("summary", summary(material, page.path))


def by_trial(cases: Cases, variants: Sequence[str]) -> dict[Trial, dict[str, EvalResult]]:
    """Return the results by trial and protocol, the variants in the given order, each one's seeds in theirs.

    Raises:
        DataError: a variant has none, or a trial two of one benchmark.
    """
    from components.comparison.compare import Trial

    found: dict[Trial, dict[str, EvalResult]] = {}
    for case, result in cases:
        if case.seed is None:
            raise DataError(f"{case.called} has no seed", source="tuned", remedy="wire the tuned models' evaluations")
        _add(found.setdefault(Trial(case.variant, case.seed), {}), case, result)
    if missing := sorted({*variants} - {trial.variant for trial in found}):
        problem = f"no results of {', '.join(map(repr, missing))}"
        raise DataError(problem, source="tuned", remedy="collect the evaluations of all trainings")
    return dict(sorted(found.items(), key=lambda item: (variants.index(item[0].variant), item[0].seed)))


def by_variant(cases: Cases) -> dict[str, dict[str, EvalResult]]:
    """Return the untouched models' results by variant and protocol; DataError where there are two of one benchmark."""
    found: dict[str, dict[str, EvalResult]] = {}
    for case, result in cases:
        _add(found.setdefault(case.variant, {}), case, result)
    return found


def _add(known: dict[str, EvalResult], case: Case, result: EvalResult) -> None:
    if result.protocol in known:
        problem = f"two results of {result.protocol} for {case.called}"
        raise DataError(problem, source="evaluations", remedy="collect each evaluation once")
    known[result.protocol] = result


def models_of(records: Sequence[tuple[str, StepRecord]]) -> dict[str, list[str]]:
    """Return the names of the models that took part by what they are."""
    found: dict[str, set[str]] = {}
    for _, record in records:
        for role, model in record.models.items():
            found.setdefault(_ROLES.get(role, role), set()).add(model.name)
    return {role: sorted(names) for role, names in sorted(found.items())}


def left_out_of(cases: Cases) -> dict[Failure, list[str]]:
    """Return the left-out units, each with the variants that lack it."""
    found: dict[Failure, dict[str, None]] = {}
    for case, result in cases:
        for unit in result.left_out:
            found.setdefault(unit, {})[case.variant] = None
    return {unit: list(variants) for unit, variants in found.items()}


def digests_of(cases: Sequence[tuple[Case, PriorSet | EvalResult]]) -> list[tuple[str, str]]:
    """Return what each manifest is, and its digest."""
    named = ((case, PRIORS if isinstance(one, PriorSet) else one.protocol, one.digest) for case, one in cases)
    return sorted((manifest_name(kind, case.variant, case.seed), digest) for case, kind, digest in named)


def manifest_name(kind: str, variant: str, seed: int | None = None) -> str:
    """Return what a prior set (`kind`: `PRIORS`) or an evaluation (its protocol) is called among all that is read.

    An evaluation without a seed is of the untouched model.
    """
    if seed is not None:
        return f"{kind}: {variant}, seed {seed}"
    return f"{kind}: {variant}" if kind == PRIORS else f"{kind}, untouched: {variant}"


STEP = Step(
    name="comparison",
    version="1",
    title="8 · Comparison",
    unit="variant",
    device="cpu",
    params=Params,
    shared=Shared,
    run=run,
    inputs={"untouched": [EvalResult], "tuned": [EvalResult], "priors": PriorSet},
    outputs={"report": Report},
    pages={"page": "HTML", "summary": "Markdown"},
)
