"""The report's section on one benchmark, of two evaluations as the step makes them."""

from components.core.artifacts import EvalResult, PriorSet, TunedModel
from components.core.records import Ref
from components.report.benchmarks import benchmarks, compare
from components.report.material import Material
from components.store.entries import Store

NONE = Ref(path="none", sha256="0" * 64, bytes=0, task="sft")


def benchmark_section(store, before: EvalResult) -> str:
    """Return the section's HTML: each model is right in every other item, so that all but an odd one are pictured."""
    before, after = (
        before.model_copy(
            update={"lines": [one.model_copy(update={"correct": k % 2 == side}) for k, one in enumerate(before.lines)]}
        )
        for side in (0, 1)
    )
    priors = PriorSet(kind="PriorSet", provenance={}, lines=[], heads=[], saturation={})
    model = TunedModel(kind="TunedModel", provenance={}, key="f" * 32, files=[], aligner=[], log=NONE, lines=[])
    sides = {"untouched": {before.protocol: before}, "tuned": {after.protocol: after}}
    material = Material(Store(str(store)), priors, model=model, **sides, provenance=before.provenance)
    compared = compare(before, after)
    assert compared is not None
    return str(benchmarks(material, [compared], len(before.lines)).body)
