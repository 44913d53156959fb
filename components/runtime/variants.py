"""Variants of one run: a task runs its step once for each, in one process, so that what they share is computed once.

A *case* is what a task runs its step for: a variant, and where it has them a seed and a benchmark. A case gets the
task's parameters with its variant's changes, as far as the step's form declares them, and of each input its own
manifest. One after another, each finds in the store what an earlier one has computed; where parameters and inputs equal
an earlier case's, its manifests are copied and nothing runs. An artifact of such a task holds

    variants.json                     the index: every case with its folder
    variants/<folder>/manifest.json   what the step wrote for it

Trainings can be dealt out over tasks that run side by side, as `k/n`; equal ones go to the same task.
"""

from __future__ import annotations

import copy
import gc
import html
import json
import logging
import re
import shutil
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.core.errors import DataError, MotionEnhancerError, ParameterError
from components.core.records import Json, Record, canonical_json, sha256
from components.runtime.declaration import Step, Ui
from components.runtime.parameters import (
    Benchmarks,
    Parameters,
    Seeds,
    Shard,
    TrialShard,
    Variants,
    as_text,
    items_of,
    validated,
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
_PAGE = 1_000_000  # bytes of a page that the KFP UI shows


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
        changes[parameter] = merged(changes.get(parameter), _whole(value))
    return Variant(name=name, changes=changes)


def _whole(value: Any) -> Any:
    """Return a value whose whole numbers are integers: KFP hands all numbers of a list over as floats."""
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


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


# A task that runs its step for several cases --------------------------------------------------------------------------


def is_varied(step: Step[Any], executor_input: Json) -> bool:
    """Return whether a task runs its step once per variant; `plan` takes the variants as a parameter of its own."""
    given = executor_input.get("inputs", {})
    values = given.get("parameterValues", {})
    names = [*values, *given.get("artifacts", {})]
    return "variants" in values and "variants" not in step.form_for(names).shared.model_fields


@dataclass(frozen=True)
class Work:
    """A case, the executor input that its step runs with, and a hash over all that its results follow from."""

    case: Case
    request: Json
    digest: str


class VariedTask:
    """A task in its varied form.

    Args:
        step: the step.
        task: the task's name.
        executor_input: KFP's.
        place: returns where an artifact of the executor input lies on this machine.
        scratch: a folder for the pages of the cases.
        key: returns the key of the one piece of work that the step does with an executor input, where it does one.

    Raises:
        ParameterError: what `parse_variants` raises, or a list that is empty.
    """

    def __init__(
        self,
        step: Step[Any],
        task: str,
        executor_input: Json,
        place: Callable[[Json], Path],
        scratch: Path,
        key: Callable[[Json], str] | None = None,
    ) -> None:
        self.step, self.task, self._place, self._scratch, self._key = step, task, place, scratch, key
        given, self._outputs = executor_input["inputs"], executor_input["outputs"]
        self._values, self._artifacts = dict(given["parameterValues"]), given.get("artifacts", {})
        taken = {name: self._values.pop(name) for name in VariedParams.model_fields if name in self._values}
        self._asked = validated(VariedParams, taken, f"parameters of {task}")
        self._variants = parse_variants(self._asked.variants)
        listed = [single for name, single in LISTED.items() if name in taken]
        self._form = step.form_for([*self._values, *listed, *self._artifacts])

    def run(self, run_one: Callable[[Json], None]) -> None:
        """Run the step for every case that equals no earlier one, then write indexes, pages and KFP's answer.

        Raises:
            MotionEnhancerError: what the step raises, with the case's name; cases before it are remembered.
        """
        first, done = dict[str, Case](), list[Case]()
        works = self.works()
        for number, work in enumerate(works, start=1):
            place = f"{self.task}: {work.case.called} ({number} of {len(works)})"
            if (earlier := first.get(work.digest)) is not None:
                log.info("%s has the parameters and inputs of %s", place, earlier.called)
                self._copy(earlier, work.case)
                done.append(work.case.model_copy(update={"same_as": earlier.folder}))
                continue
            log.info("%s", place)
            with _named(work.case):
                run_one(work.request)
            first[work.digest] = work.case
            done.append(work.case)
            _release_memory()
        self._publish(done)

    # Cases ------------------------------------------------------------------------------------------------------------

    def works(self) -> list[Work]:
        """Return the cases of this task in the order of the variants; of dealt out trainings those of its part."""
        works = [self._work(case) for case in self._cases()]
        if not self._asked.trial_shard:
            return works
        part, keys, places = Shard.parse(self._asked.trial_shard), self._keys(works), dict[Hashable, int]()
        for key in keys:
            places.setdefault(key, len(places))
        return [work for work, key in zip(works, keys, strict=True) if places[key] % part.count == part.index]

    def _keys(self, works: Sequence[Work]) -> list[Hashable]:
        """Return what tells trainings apart: the key of a variant's training with its first seed, and the seed."""
        if self._key is None:
            return [work.digest for work in works]
        known: dict[str, str] = {}
        for work in works:
            if work.case.variant not in known:
                with _named(work.case):
                    known[work.case.variant] = self._key(work.request)
        return [(known[work.case.variant], work.case.seed) for work in works]

    def _cases(self) -> list[Case]:
        """Return every variant with every seed and benchmark; where an input holds a part of the trials, with those."""
        seeds: list[int | None] = [*self._asked.seeds] or [None]
        benchmarks: list[str | None] = [*self._asked.benchmarks] or [None]
        trials = list(product(self._variants, seeds))
        if (dealt := self._dealt()) is not None:
            trials = [(one, case.seed) for one in self._variants for case in dealt.cases if case.variant == one.name]
        return [_case(*trial, benchmark) for trial, benchmark in product(trials, benchmarks)]

    def _dealt(self) -> Index | None:
        """Return the index of an input that holds a part of the trials, if there is one."""
        single = (name for name, kind in self.step.inputs.items() if name in self._artifacts and isinstance(kind, type))
        indexes = (load_index(self._place(item)) for name in single for item in self._artifacts[name]["artifacts"])
        return next((index for index in indexes if index is not None and index.part), None)

    def _work(self, case: Case) -> Work:
        own = f"params_{self.step.name}"
        values = {**self._values, own: self._values["params"]} if "params" in self._values else dict(self._values)
        values = changed(values, case.changes)
        if own in values:
            values["params"] = values.pop(own)
        values |= {name: value for name in LISTED.values() if (value := getattr(case, name)) is not None}
        values = {name: value for name, value in values.items() if name not in LISTED.values() or self._takes(name)}
        artifacts = {
            name: {"artifacts": [_below(item, of_case(self._place(item), case)) for item in entry["artifacts"]]}
            for name, entry in self._artifacts.items()
        }
        inputs = {"parameterValues": values, "artifacts": artifacts}
        request = {"inputs": inputs, "outputs": {"artifacts": self._written(case)}}
        return Work(case, request, self._digest(values, artifacts, case))

    def _takes(self, name: str) -> bool:
        return name in self._form.shared.model_fields

    def _digest(self, values: Json, artifacts: Json, case: Case) -> str:
        """Return a hash over the validated parameters and the inputs' manifests, however a number is written."""
        given = {name: value for name, value in values.items() if name not in ("params", "rerun")}
        place = f"variant {case.called}, parameters of {self.task}"
        params = validated(
            self.step.params, values.get("params", {}), f"variant {case.called}, params_{self.step.name}"
        )
        heads = {name: [_head(self._place(item)) for item in entry["artifacts"]] for name, entry in artifacts.items()}
        shared = validated(self._form.shared, given, place).model_dump(mode="json")
        return sha256(canonical_json({"params": params.model_dump(mode="json"), "shared": shared, "inputs": heads}))

    # Outputs ----------------------------------------------------------------------------------------------------------

    def _written(self, case: Case) -> Json:
        """Return where a case's outputs go: manifests into the artifacts, pages aside."""
        artifacts = {name: self._outputs["artifacts"][name]["artifacts"] for name in self.step.outputs}
        found = {
            name: {"artifacts": [_below(item, f"{FOLDER}/{case.folder}") for item in items]}
            for name, items in artifacts.items()
        }
        pages = {name: str(self._page(case.folder, name)) for name in self.step.pages}
        return found | {name: {"artifacts": [{"name": name, "uri": uri}]} for name, uri in pages.items()}

    def _page(self, folder: str, name: str) -> Path:
        return self._scratch / folder / name

    def _output(self, name: str) -> Json:
        (item,) = self._outputs["artifacts"][name]["artifacts"]
        found: Json = item
        return found

    def _copy(self, earlier: Case, case: Case) -> None:
        for name in self.step.outputs:
            folder = self._place(self._output(name)) / FOLDER
            shutil.copytree(folder / earlier.folder, folder / case.folder, dirs_exist_ok=True)

    def _publish(self, cases: Sequence[Case]) -> None:
        dealt = self._dealt()
        index = Index(cases=[*cases], part=self._asked.trial_shard or (dealt.part if dealt is not None else ""))
        answer: Json = {}
        for name in self.step.outputs:
            file = self._place(item := self._output(name)) / INDEX
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(canonical_json(index.model_dump(mode="json")))
            answer[name] = {"artifacts": [{**item, "metadata": {}}]}
        for name, kind in self.step.pages.items():
            run = [case for case in cases if not case.same_as]
            found = [(case, self._page(case.folder, name).read_bytes()) for case in run]
            data, metadata = _JOINED[kind](self.step.title, found)
            file = self._place(item := self._output(name))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            answer[name] = {"artifacts": [{**item, "metadata": metadata}]}
        if target := self._outputs.get("outputFile"):
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            Path(target).write_text(json.dumps({"artifacts": answer, "parameterValues": {}}))


@contextmanager
def _named(case: Case) -> Iterator[None]:
    """Let an error name the case that it is of."""
    try:
        yield
    except MotionEnhancerError as error:
        raise error.within(f"variant {case.called}") from error


def _case(variant: Variant, seed: int | None, benchmark: str | None) -> Case:
    parts = [slug(variant.name), *([] if seed is None else [f"seed-{seed}"])]
    parts += [] if benchmark is None else [slug(benchmark.partition("=")[0])]
    return Case(folder="/".join(parts), variant=variant.name, changes=variant.changes, seed=seed, benchmark=benchmark)


def _below(item: Json, path: str) -> Json:
    """Return an artifact of KFP's that lies below another one."""
    places = {name: f"{item[name]}/{path}" for name in ("uri", "customPath") if item.get(name)} if path else {}
    return {**item, **places}


def _head(folder: Path) -> str:
    """Return the hash of an artifact's manifest; empty where there is none, which the step then refuses."""
    file = folder / "manifest.json"
    return sha256(file.read_bytes()) if file.is_file() else ""


def _release_memory() -> None:
    """Give back what the models of one case hold before the next one loads its own."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


# Pages of several cases in one ----------------------------------------------------------------------------------------

Pages = Sequence[tuple[Case, bytes]]


def _joined_metrics(_: str, pages: Pages) -> tuple[bytes, Json]:
    """Return the counts of units over all cases that were run; what else a step measures is each case's own."""
    found = [json.loads(data) for _, data in pages]
    units = sum(one.get("units", 0) for one in found)
    shared = sum(one.get("units", 0) * one.get("share_remembered", 0.0) for one in found)
    numbers = {"cases": len(found), "units": units, "failed": sum(one.get("failed", 0) for one in found)}
    numbers["share_remembered"] = round(shared / units, 4) if units else 0.0
    shown = {name: float(value) for name, value in numbers.items()}
    return canonical_json(shown), shown


def _joined_markdown(title: str, pages: Pages) -> tuple[bytes, Json]:
    parts = [f"# {title}: {len(pages)} different cases"]
    parts += [f"## `{case.called}`\n\n{data.decode()}" for case, data in pages]
    return "\n\n".join(parts).encode(), {}


def _joined_html(title: str, pages: Pages) -> tuple[bytes, Json]:
    """Return the pages one below the other as far as the KFP UI shows them; the others are named."""
    shown, left = list[str](), _PAGE
    for case, data in pages:
        frame = f'<iframe srcdoc="{html.escape(data.decode())}"></iframe>'
        name = html.escape(case.called)
        if (left := left - len(frame)) > 0:
            shown.append(f"<details><summary>{name}</summary>{frame}</details>")
        else:
            shown.append(f"<p>{name}: not shown here, as the page would be too large for this viewer</p>")
    style = (
        "<style>body{font:15px/1.5 sans-serif}iframe{width:100%;height:90vh;border:0}summary{cursor:pointer}</style>"
    )
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>{style}'
    return f"{head}<h1>{html.escape(title)}</h1>{''.join(shown)}</html>".encode(), {}


_JOINED: dict[Ui, Callable[[str, Pages], tuple[bytes, Json]]] = {
    "Metrics": _joined_metrics,
    "Markdown": _joined_markdown,
    "HTML": _joined_html,
}
