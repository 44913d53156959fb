"""The report's section on one benchmark, of two evaluations as the step makes them."""

from components.core.artifacts import EvalResult, PriorSet, TunedModel
from components.core.records import Ref
from components.report.benchmarks import benchmarks, compare
from components.report.material import Material
from components.store.entries import Store
from tests.runner import changed

NONE = Ref(path="none", sha256="0" * 64, bytes=0, task="sft")


def alternating(result: EvalResult) -> list[EvalResult]:
    """Return the result as of two models, of which each is right in every other item."""
    lines = result.lines
    return [
        changed(result, lines=[one.model_copy(update={"correct": k % 2 == side}) for k, one in enumerate(lines)])
        for side in (0, 1)
    ]


def benchmark_section(store, result: EvalResult) -> str:
    """Return the section's HTML: of `alternating` results all items but an odd one are pictured."""
    before, after = alternating(result)
    priors = PriorSet(kind="PriorSet", provenance={}, lines=[], heads=[], saturation={})
    model = TunedModel(kind="TunedModel", provenance={}, key="f" * 32, files=[], aligner=[], log=NONE, lines=[])
    sides = {"untouched": {result.protocol: before}, "tuned": {result.protocol: after}}
    material = Material(Store(str(store)), priors, model=model, **sides, provenance=result.provenance)
    compared = compare(before, after)
    assert compared is not None
    return str(benchmarks(material, [compared], len(result.lines)).body)
