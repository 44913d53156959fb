"""Variants of one run: named sets of changes of its parameters, and artifacts that hold something for each of them.

A *case* is what a task runs its step for (`runtime/varied.py`): a variant, and where it has them a seed and a
benchmark. A case gets the task's parameters with its variant's changes, as far as the step's form declares them, and of
each input its own manifest. An artifact of such a task holds

    variants.json                     the index: every case with its folder
    variants/<folder>/manifest.json   what the step wrote for it
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.core.errors import DataError, ParameterError
from components.core.json_text import whole_numbers
from components.core.records import Json, Record, sha256
from components.runtime.parameters import (
    Benchmarks,
    Parameters,
    Seeds,
    TrialShard,
    Variants,
    as_text,
    items_of,
)
from components.runtime.presets import PRESETS

log = logging.getLogger(__name__)
INDEX, FOLDER = "variants.json", "variants"
FIRST, UNTOUCHED = "first", "untouched"  # baselines that are no variant's name
# What a task takes in its varied form; a list stands for the parameter that it lists.
LISTED = {"seeds": "seed", "benchmarks": "benchmark"}
# Parameters of a pipeline that no variant changes, and why
FIXED = {
    "store": "all variants share one store",
    "store_patience": "it is the whole run's",
    "shards": "it is the whole run's",
    "trial_shards": "it is the whole run's",
    "over_limits": "it is the whole run's",
    "variants": "a variant has no variants",
    "baseline": "it is the whole run's",
    "benchmarks": "all variants are asked the same",
    "seed": "the trainings of every variant are repeated with `seeds`",
    "seeds": "the trainings of every variant are repeated with all of them",
}
_NAME = re.compile(r"[^\x00-\x1f\x7f\\`<>]{1,60}")


class VariedParams(Parameters):
    """What a task takes in its varied form beside its step's own parameters, as far as it needs it."""

    variants: Variants
    seeds: Seeds = []
    benchmarks: Benchmarks = []
    trial_shard: TrialShard = ""


class Variant(Record):
    """A named set of changes of a pipeline's parameters; `params_<step>` holds the fields that differ."""

    name: str
    changes: Json = {}


class Case(Record):
    """One combination that a task ran its step for."""

    folder: str
    variant: str
    changes: Json
    seed: int | None = None
    benchmark: str | None = None
    same_as: str = ""

    @property
    def called(self) -> str:
        """What logs and errors call it."""
        parts = [repr(self.variant), *([] if self.seed is None else [f"seed {self.seed}"])]
        return ", ".join([*parts, *([] if self.benchmark is None else [self.benchmark.partition("=")[0]])])


class Index(Record):
    """`variants.json`: the cases of an artifact; `part` says which trainings it has where they were dealt out."""

    cases: list[Case]
    part: str = ""


# The list of variants -------------------------------------------------------------------------------------------------


def parse_variants(given: Sequence[Any]) -> list[Variant]:
    """Return the variants of the parameter `variants`: objects with a name and changes; a text names a preset.

    Raises:
        ParameterError: an unknown preset, an object without a usable name, or two variants of one name.
    """
    rows = [row for item in given for row in (_preset(item) if isinstance(item, str) else [item])]
    found = [_variant(row, number) for number, row in enumerate(rows, start=1)]
    folders: dict[str, str] = {}
    for one in found:
        other = folders.setdefault(slug(one.name), one.name)
        if sum(item.name == one.name for item in found) > 1:
            raise ParameterError(f"two variants are called {one.name!r}", source="variants", remedy="rename one")
        if other != one.name:
            problem = f"{other!r} and {one.name!r} are too much alike: both would lie in {slug(one.name)}"
            raise ParameterError(problem, source="variants", remedy="rename one")
    return found


def _preset(name: str) -> list[Json]:
    if name not in PRESETS:
        remedy = f'name one of {", ".join(PRESETS)}, or give an object: {{"name": "10 steps", "num_steps": 10}}'
        raise ParameterError(f"no preset {name!r}", source="variants", remedy=remedy)
    return PRESETS[name]


def _variant(row: Any, number: int) -> Variant:
    place, remedy = f"variants, number {number}", 'e.g. {"name": "10 steps", "num_steps": 10}'
    if not isinstance(row, Mapping):
        raise ParameterError(f"{row!r} is no object", source=place, remedy=remedy)
    name = row.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name != name.strip():
        problem = f"{name!r} is no name: 1 to 60 printable characters but \\ ` < >" if "name" in row else "no name"
        raise ParameterError(problem, source=place, remedy=remedy)
    if name in (FIRST, UNTOUCHED):
        raise ParameterError(f"{name!r} names a baseline, not a variant", source=place, remedy="another name")
    changes: Json = {}
    for key, value in row.items():
        if key == "name":
            continue
        parameter, *fields = str(key).split(".")
        if why := FIXED.get(parameter):
            remedy = "leave it out"
            raise ParameterError(f"variant {name!r} cannot change {parameter!r}: {why}", source=place, remedy=remedy)
        for field in reversed(fields):
            value = {field: value}
        changes[parameter] = merged(changes.get(parameter), whole_numbers(value))
    return Variant(name=name, changes=changes)


def refuse_unknown(variants: Sequence[Variant], names: Collection[str]) -> None:
    """Raise ParameterError where a variant changes what is none of a pipeline's parameters, `names`, or a fixed one."""
    known = {*names} - {*FIXED}
    for one in variants:
        if unknown := [key for key in one.changes if key not in known]:
            remedy = f"it may change {', '.join(sorted(known))}"
            problem = f"variant {one.name!r}: this pipeline has no parameter {unknown[0]!r}"
            raise ParameterError(problem, source="variants", remedy=remedy)


def slug(name: str) -> str:
    """Return the name of a variant's folder: lower-case letters, digits and hyphens; others leave a hash."""
    found = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return found if found and name.isascii() else f"{found}-{sha256(name.encode())[:8]}".lstrip("-")


def baseline_of(baseline: str, variants: Sequence[str]) -> str:
    """Return which variant all are compared with, or `untouched`. Raises ParameterError: there is no such variant."""
    if baseline == FIRST:
        return variants[0]
    if baseline not in (UNTOUCHED, *variants):
        remedy = f"{FIRST}, {UNTOUCHED}, or one of {', '.join(map(repr, variants))}"
        raise ParameterError(f"there is no variant {baseline!r}", source="baseline", remedy=remedy)
    return baseline


def merged(known: Any, change: Any) -> Any:
    """Return a value with a change: objects by field, anything else as a whole."""
    if not (isinstance(known, Mapping) and isinstance(change, Mapping)):
        return copy.deepcopy(change)
    return {**known, **{key: merged(known.get(key), value) for key, value in change.items()}}


def changed(values: Json, changes: Json) -> Json:
    """Return the values of a pipeline's parameters, or of a step's, with those changes that are about one of them.

    `source` may name fields alone: the pipeline's one source then has these.
    """
    found = dict(values)
    for name, change in changes.items():
        if name in values:
            found[name] = _source(values[name], change) if name == "source" else merged(values[name], change)
    return found


def _source(known: str, change: Any) -> str:
    if not isinstance(change, Mapping) or "uri" in change:
        return str(as_text(change))
    items = items_of(known, "source")
    if len(items) > 1:
        problem, remedy = f"{change} could be of any of {len(items)} sources", "name all sources in the variant"
        raise ParameterError(problem, source="variants, source", remedy=remedy)
    (only,) = items
    return str(as_text({**(only if isinstance(only, Mapping) else {"uri": only}), **change}))


# Artifacts of several cases -------------------------------------------------------------------------------------------


def load_index(folder: Path) -> Index | None:
    """Return an artifact's index; None where it has none, as it is of one case. Raises DataError: it is damaged."""
    file = folder / INDEX
    if not file.is_file():
        return None
    try:
        return Index.model_validate_json(file.read_bytes())
    except ValidationError as error:
        remedy = "rerun the step that makes it"
        raise DataError(f"{INDEX} does not validate:\n{error}", source=str(file), remedy=remedy) from error


def read_index(folder: Path) -> list[tuple[Case, Path]]:
    """Return the cases of an artifact, each with the folder of its manifest. Raises DataError: there is no index."""
    if (index := load_index(folder)) is None:
        remedy = "wire the output of a task that runs variants"
        raise DataError(f"no {INDEX}: it is of no variants", source=str(folder), remedy=remedy)
    return [(case, folder / FOLDER / case.folder) for case in index.cases]


def of_case(folder: Path, case: Case) -> str:
    """Return where below an artifact's folder a case finds its manifest: empty where it holds one for all.

    Raises:
        DataError: the artifact has none for it, or several.
    """
    if (index := load_index(folder)) is None:
        return ""
    found = [one for one in index.cases if one.variant == case.variant and _fits(one, case)]
    if len(found) != 1:
        problem = f"{len(found) or 'no'} manifests of {case.called}"
        raise DataError(problem, source=str(folder / INDEX), remedy="rerun the step that makes it")
    return f"{FOLDER}/{found[0].folder}"


def _fits(one: Case, case: Case) -> bool:
    return one.seed in (None, case.seed) and one.benchmark in (None, case.benchmark)
