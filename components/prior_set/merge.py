"""Prior sets joined into one: what they must agree in, and the joined set, as if its samples had been made at once."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import pairwise

from components.core.artifacts import PriorLine, PriorSet
from components.core.errors import ParameterError
from components.core.lines import position
from components.core.records import Head, StepRecord
from components.core.units import parameters

_OWN = ("dataset_import", "prior_set")  # tasks whose parameters say nothing of how a prior is made


def check_agreement(sets: Sequence[PriorSet]) -> None:
    """Check that all priors were made in the same way, but for the sources of their samples.

    Raises:
        ParameterError: sets of another video model, other versions or parameters of a step, or, under the scope
            `dataset`, other heads; it names what differs.
    """
    for found in sets if len(sets) > 1 else ():
        if "head_selection" not in found.provenance:
            problem = f"{_short(found)} does not say how its heads were chosen"
            raise ParameterError(problem, source="priors", remedy="merge sets that motion_priors made")
    for one, other in pairwise(sets):
        tasks = sorted({*one.provenance, *other.provenance} - {*_OWN})
        if differences := [line for task in tasks for line in _differences(one, other, task)]:
            problem = f"{_short(one)} and {_short(other)} were made in different ways: {'; '.join(differences)}"
            remedy = "merge sets of one video model and the same parameters, or make one of them again"
            raise ParameterError(problem, source="priors", remedy=remedy)
        if _scope(one) == "dataset" and _heads(one) != _heads(other):
            problem = f"{_short(one)} and {_short(other)} have other heads under params_head_selection.scope=dataset"
            remedy = "give both sources to motion_priors in one recipe, or use the scope sample"
            raise ParameterError(problem, source="priors", remedy=remedy)


def joined_lines(sets: Sequence[PriorSet]) -> Iterator[PriorLine]:
    """Yield the samples of all sets in their order; of one that several have, the first set's."""
    last = None
    for line in heapq.merge(*(found.lines for found in sets), key=position):
        if position(line) != last:
            yield line
        last = position(line)


def joined_provenance(sets: Sequence[PriorSet]) -> dict[str, StepRecord]:
    """Return every step's record by task; where sets have different ones, each set's own under its digest."""
    found: dict[str, StepRecord] = {}
    for task in sorted({task for one in sets for task in one.provenance}):
        records = {_short(one): one.provenance[task] for one in sets if task in one.provenance}
        first = next(iter(records.values()))
        if task not in _OWN or all(record == first for record in records.values()):
            found[task] = first
        else:
            found |= {f"{task} of {name}": record for name, record in records.items()}
    return found


def _differences(one: PriorSet, other: PriorSet, task: str) -> Iterator[str]:
    """Yield what two sets' records of a task differ in: version, parameters, models by digest."""
    records = [found.provenance.get(task) for found in (one, other)]
    said = [{} if record is None else _flat(record) for record in records]
    for name in sorted({*said[0], *said[1]}):
        before, after = (values.get(name, "not recorded") for values in said)
        if before != after:
            yield f"{task} {name} is {before} and {after}"


def _flat(record: StepRecord) -> dict[str, str]:
    models = {role: model.digest[:12] for role, model in record.models.items()}
    return {"version": record.version, **dict(parameters({**record.scalars, **record.params, **models}))}


def _scope(found: PriorSet) -> str:
    params = found.provenance["head_selection"].params
    return str(params["scope"]) if params["mhs"] else "sample"


def _heads(found: PriorSet) -> set[tuple[Head, ...]]:
    return {tuple(line.heads) for line in found.lines}


def _short(found: PriorSet) -> str:
    return f"sha256:{found.digest[:12]}"
