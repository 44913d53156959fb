"""A task in its varied form: its step runs once for every case, in one process; what they share is computed once.

Cases run one after another, so each finds in the store what an earlier one has computed. Where parameters and inputs
equal an earlier case's, its manifests are copied and nothing runs. Trainings can be dealt out over tasks that run side
by side, as `k/n`; those whose work has one key go to the same task.
"""

from __future__ import annotations

import gc
import json
import logging
import shutil
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from components.core.errors import MotionEnhancerError
from components.core.records import Json, canonical_json, sha256
from components.runtime.case_pages import JOINED
from components.runtime.declaration import Step
from components.runtime.parameters import Shard, validated
from components.runtime.variants import (
    FOLDER,
    INDEX,
    LISTED,
    Case,
    Index,
    Variant,
    VariedParams,
    changed,
    load_index,
    of_case,
    parse_variants,
    slug,
)

log = logging.getLogger(__name__)


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
        """Return what differs between trainings: the key of a variant's training with its first seed, and the seed."""
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
            data, metadata = JOINED[kind](self.step.title, found)
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
