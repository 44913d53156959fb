"""What a running step sees: its parameters and inputs, the memory of its work, and where its outputs go.

Inputs and outputs are KFP's: the launcher hands over an executor input and reads the answer back.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from typing_extensions import TypeVar as DefaultedTypeVar

from components.core.artifacts import PRODUCTS, M, Manifest, Sharded
from components.core.errors import DataError, ParameterError, UnitsFailed
from components.core.lines import L, Lines
from components.core.progress import track
from components.core.records import Failure, Json, ModelId, StepRecord, canonical_json
from components.runtime.declaration import Step
from components.runtime.parameters import P, Shard, SharedParams, UnitParams, validated
from components.runtime.remembered import Entries, Memory, named
from components.runtime.side_by_side import PartDone, leave_spent, own_part, processes
from components.runtime.side_by_side import compute as compute_side_by_side
from components.runtime.stages import Spent, Stages, in_stages
from components.runtime.variants import Case, read_index
from components.store.entries import Entry, Store, WorkFolder
from components.store.failures import SHOWN, shortened

S_co = DefaultedTypeVar("S_co", bound=SharedParams, default=SharedParams, covariant=True)
U = TypeVar("U")
S = TypeVar("S", bound=Sharded)
UnitP = TypeVar("UnitP", bound=UnitParams)
log = logging.getLogger(__name__)


class Context(Generic[P, S_co]):
    """What a running step sees: its own and the shared parameters, inputs and store, and where its outputs go."""

    params: P
    shared: S_co

    def __init__(self, step: Step[P], task: str, executor_input: Json) -> None:
        self.step, self.task = step, task
        self.part = own_part()
        self._executor_input, self._folders = executor_input, dict[str, Callable[[], Path]]()
        given, self._outputs = executor_input.get("inputs", {}), executor_input.get("outputs", {})
        values = dict(given.get("parameterValues", {}))
        params, self.rerun = values.pop("params", {}), str(values.pop("rerun", "0"))
        artifacts = given.get("artifacts", {}).items()
        self._inputs = {name: [artifact_path(item) for item in entry.get("artifacts", [])] for name, entry in artifacts}
        self._form = step.form_for([*values, *self._inputs])
        self.step_params = {
            name: values.pop(f"params_{name}") for name in self._form.planned if f"params_{name}" in values
        }
        self.params = validated(step.params, params, f"params_{step.name}")
        self.shared = validated(self._form.shared, values, f"parameters of {task}")  # type: ignore[assignment]
        self.store = Store(self.shared.store, self.shared.store_patience)
        self.models: dict[str, ModelId] = {}
        self.provenance: dict[str, StepRecord] = {}
        self.left_out: dict[Failure, None] = {}
        self.counts = {"computed": 0, "remembered": 0, "failed": 0}
        self._answer: dict[str, Json] = {"artifacts": {}, "parameterValues": {}}
        self._started, self._logged, self._spent = time.monotonic(), 0, Spent()

    @property
    def forced(self) -> bool:
        """Whether everything is to be computed, once for this nonce."""
        return self.rerun.startswith("force")

    def has(self, name: str) -> bool:
        """Whether this form has the input."""
        return name in self._inputs

    def input(self, name: str, kind: type[M]) -> M:
        """Return the single manifest of an input."""
        (manifest,) = self.collected(name, kind)
        return manifest

    def collected(self, name: str, kind: type[M]) -> list[M]:
        """All manifests of a collected input, in the loop's order; their provenance and left-out units are carried on.

        Raises:
            ParameterError: the task was given no such input.
            DataError: an artifact's folder holds no manifest of this kind.
        """
        manifests = [self.store.opened(folder, kind) for folder in self._given(name)]
        for manifest in manifests:
            self.provenance.update(manifest.provenance)
        # what an earlier step left out stands in every shard's manifest, mostly in one and the same part
        lists = {lines.parts: lines for lines in (manifest.left_out for manifest in manifests)}
        for lines in lists.values():
            self.note_left_out(lines)
        return manifests

    def cases(self, name: str, kind: type[M]) -> list[tuple[Case, M]]:
        """Return the manifests of an input of several variants with their cases, collected ones in the loop's order.

        Errors as `collected`, and a DataError where an artifact has no index of variants. Provenance and left-out units
        stay theirs: they differ from case to case.
        """
        found = [item for folder in self._given(name) for item in read_index(folder)]
        return [(case, self.store.opened(folder, kind)) for case, folder in found]

    def _given(self, name: str) -> list[Path]:
        if name not in self._inputs:
            remedy = f"wire it (`step`: --in {name}=FOLDER)"
            raise ParameterError(f"no input {name!r}", source=f"inputs of {self.task}", remedy=remedy)
        return self._inputs[name]

    def shards(self, name: str, kind: type[S]) -> list[S]:
        """Return the manifests of an input that is collected over shards, in order; each shard must be there once."""
        manifests = self.collected(name, kind)
        found = {item.shard: Shard.parse(item.shard) for item in manifests}
        if len(found) != len(manifests) or not Shard.all(list(found.values())):
            problem = f"shards {[item.shard for item in manifests]} are not k/n, each once"
            raise DataError(problem, source=self.task, remedy="correct `shards`")
        return sorted(manifests, key=lambda item: found[item.shard].index)

    def key(self, reads: Json) -> str:
        """Key of one piece of this step's work."""
        return self.step.key(self.params, self.step.shared_result(self.shared), self.models, reads)

    def work(self, key: str, step: str = "") -> WorkFolder:
        """Return a folder to write one piece of work into."""
        forced = {self.task: self.rerun} if self.forced else {}
        return WorkFolder(self.store, step or self.step.name, self.step.version, key, forced)

    def remembered(self, key: str, step: str = "") -> Entry | None:
        """Return the entry of this work, or None if it has to be computed (again), as `rerun` asks.

        With a nonce `force…` an entry counts if this task computed it under the same nonce: a retry goes on where the
        first try stopped, whatever process, shard or run that was.

        Raises:
            DataError: the entry is damaged and no rerun was asked for.
        """
        entry = self.store.entry(step or self.step.name, key, task=self.task, miss_if_damaged=self.rerun != "0")
        if entry is None or (self.forced and entry.forced.get(self.task) != self.rerun):
            return None
        if self.rerun != "0" and (bad := self.store.damaged(entry)):
            log.warning("%s: computing again, damaged or missing: %s", entry.unit, ", ".join(bad))
            return None
        return entry

    def each(
        self: Context[UnitP, Any],
        units: Sequence[U],
        *,
        name: Callable[[U], str],
        reads: Callable[[U], Json],
        compute: Callable[[U, WorkFolder], Json] | Stages[U, Any, Any],
        work: str = "",
        called: Callable[[U], str] | None = None,
        group: Callable[[U], str] | None = None,
        around: Callable[[Sequence[U]], AbstractContextManager[object]] = nullcontext,
        scope: Json | None = None,
        packed: str = "",
    ) -> Entries:
        """Do one piece of work per unit unless it is remembered; a bad unit never becomes an entry.

        Args:
            units: what to work on, batch size 1.
            name: a unit's id.
            reads: what the unit reads, by key or content hash (enters the key).
            compute: writes files into the folder and returns small numbers for the entry; or how that is done in
                stages, while the next units are read and the last ones written.
            work: folder of the store when it is not the step's own name (pictures and the like).
            called: what failures call a unit; its id where this is not given.
            group: of several processes one computes all units of a group; without it each unit may go to any.
            around: is entered around the work, with the units that this process computes, in their order.
            scope: names these units among those of other tasks under the same parameters: of a shard its name. Their
                entries are kept in one object beside, and looked up there.
            packed: the role of a small file that is kept there as well, and returned.

        Returns:
            Entries by unit id in the units' order, without the failed ones, which are in `left_out`.

        Raises:
            DataError: more than `max_failed` of the units failed; the others are done and remembered.
        """
        failures: list[Failure] = []
        keyed: list[tuple[U, str]] = []
        called = called or name
        for unit in units:
            try:
                keyed.append((unit, self.key(reads(unit))))
            except DataError as error:
                failures.append(self._failure(called(unit), error))
        if self.part is not None and (mine := [(unit, key) for unit, key in keyed if key in self.part.keys]):
            for unit, outcome in self._computed(mine, name, reads, compute, work, around):
                if isinstance(outcome, DataError):  # it is the task's own to report
                    log.info("%s fails: %s", name(unit), outcome.problem)
            leave_spent(self.part, self._spent)
            raise PartDone
        memory = self.memory(work, "" if scope is None else self.key({"scope": scope}))
        memory.look_up(key for _, key in keyed)
        todo = [(unit, key) for unit, key in keyed if key not in memory.entries]
        names = [(name(unit), key) for unit, key in keyed]
        if self.part is not None:  # its own units come later: what is missing here fails in the task's own process
            return named(names, memory, {})
        self.counts["remembered"] += len(keyed) - len(todo)
        computed = len(todo)
        groups: dict[str, list[str]] = {}
        for unit, key in todo:
            groups.setdefault((group or name)(unit), []).append(key)
        if len(groups) > 1 and processes() > 1:
            keys = [*groups.values()]
            self._spent.add(compute_side_by_side(self.step.name, self.task, self._executor_input, keys, self._folders))
            memory.look_up(key for _, key in todo)
            todo = [(unit, key) for unit, key in todo if key not in memory.entries]  # what failed there fails here
        for unit, outcome in self._computed(todo, name, reads, compute, work, around):
            if isinstance(outcome, DataError):
                computed -= 1
                failures.append(self._failure(called(unit), outcome))
            else:
                memory.add(outcome)
        self.counts["computed"] += computed
        files = memory.keep(packed)
        self.fail(failures, len(units))
        return named(names, memory, files)

    def memory(self, work: str = "", index: str = "") -> Memory:
        """Return the memory of a kind of work of this task; `index` names the copy of its entries that is kept."""
        folder = work or self.step.name
        return Memory(self.store, folder, index, self.rerun == "0", lambda key: self.remembered(key, work))

    def _computed(
        self,
        todo: Sequence[tuple[U, str]],
        name: Callable[[U], str],
        reads: Callable[[U], Json],
        compute: Callable[[U, WorkFolder], Json] | Stages[U, Any, Any],
        work: str,
        around: Callable[[Sequence[U]], AbstractContextManager[object]],
    ) -> Iterator[tuple[U, Entry | DataError]]:
        """Compute units, each with the key of its work, and yield each with its entry or its failure, in order."""
        units, part = [unit for unit, _ in todo], self.part
        stages, spent = (compute, self._spent) if isinstance(compute, Stages) else (Stages.one(compute), Spent())
        title, line = (f"{part.name} {self.step.title}", part.rank) if part else (self.step.title, None)

        def finish(place: int, made: Any) -> Entry:
            unit, key = todo[place]
            folder = self.work(key, work)
            return folder.finish(name(unit), reads(unit), stages.write(unit, made, folder))

        with around(units):
            yield from in_stages(units, stages, finish, spent, partial(track, what=title, position=line))

    @contextmanager
    def shared_folder(self, name: str, fill: Callable[[Path], Path]) -> Iterator[Callable[[], Path]]:
        """Yield a function that returns a folder, filled at its first call, once for all processes of this task."""
        if self.part is not None:
            folders = self.part.folders
            yield lambda: folders[name]
            return
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / name
            self._folders[name] = cache(lambda: fill(folder))
            try:
                yield self._folders[name]
            finally:
                del self._folders[name]

    def once(self, unit: str, reads: Json, compute: Callable[[WorkFolder], Json], work: str = "") -> Entry:
        """Do one piece of work about `unit` unless it is remembered, as `each` does; only the step's own is counted."""
        self._alone()
        key = self.key(reads)
        entry = self.remembered(key, work)
        if not work:
            self.counts["computed" if entry is None else "remembered"] += 1
        if entry is None:
            folder = self.work(key, work)
            entry = folder.finish(unit, reads, compute(folder))
        return entry

    def _failure(self, unit: str, error: DataError) -> Failure:
        if self.part is None:  # one of several processes leaves it to the task's own
            self._logged += 1
            if self._logged <= SHOWN:
                log.error("%s left out: %s", unit, error)
            elif self._logged == SHOWN + 1:
                log.error("more are left out: the list comes at the end")
        return Failure(unit=unit, task=self.task, reason=error.problem)

    def fail(self: Context[UnitP, Any], failures: list[Failure], total: int) -> None:
        """Record left-out units, and stop when they are more than `max_failed` allows."""
        self.leave_out(failures)
        if failures and len(failures) > self.params.max_failed * total:
            raise self.failed(f"{len(failures)} of {total} {self.step.unit}s failed", failures, "max_failed")

    def leave_out(self, failures: Sequence[Failure]) -> None:
        """Record left-out units."""
        self.counts["failed"] += len(failures)
        self.note_left_out(failures)

    def note_left_out(self, failures: Iterable[Failure]) -> None:
        """List units for the manifest, each once, without counting them as this step's own."""
        self.left_out.update(dict.fromkeys(failures))

    def failed(self, problem: str, failures: Sequence[Failure], allowed: str) -> UnitsFailed:
        """Return the error of units that are more than the parameter `allowed` allows.

        It lists the first of them; where there are more, a file in the store has all.
        """
        lines = [f"{item.unit}: {item.reason}" for item in failures]
        listed = "".join(f"\n    {line}" for line in shortened(self.store, self.task, lines))
        problem = f"{problem} ({allowed}={getattr(self.params, allowed):g}), the others are done:{listed}"
        remedy = f"fix or remove them and run again (only they are tried), or raise {allowed}"
        reasons = {item.unit: item.reason for item in failures}
        return UnitsFailed(problem, source=self.task, remedy=remedy, reasons=reasons)

    def lines(self, kind: type[L], lines: Iterable[L]) -> Lines[L]:
        """Write a manifest's lines into the store while they are made, a part at a time; in their order."""
        self._alone()
        return self.store.lines(kind, lines)

    def manifest(self, kind: type[M], **fields: Any) -> M:
        """Return a manifest of `kind` with this step's provenance and left-out units filled in."""
        params, scalars = self.params.result(), self.step.shared_result(self.shared)
        record = StepRecord(version=self.step.version, params=params, scalars=scalars, models=dict(self.models))
        # a task of a loop carries no shard: every shard's record is the same
        provenance = {**self.provenance, self.task: record}
        left_out = Lines(Failure, sorted(self.left_out, key=lambda item: (item.task, item.unit, item.reason)))
        return kind(kind=kind.KIND, provenance=provenance, left_out=left_out, **fields)

    def publish(self, name: str, manifest: Manifest) -> str:
        """Write an output artifact: into the store under its digest, and as the artifact's folder.

        KFP repeats its metadata in the record of every task that reads it, many times: only what people look for.
        """
        self._alone()
        digest = self.store.publish(manifest)
        metadata = {"digest": f"sha256:{digest}"} if manifest.kind in PRODUCTS else {}
        self._write(name, manifest.to_bytes(), metadata, "manifest.json")
        return digest

    def page(self, name: str, text: str) -> None:
        """Write a Markdown or HTML output that the KFP UI shows."""
        self._write(name, text.encode(), {})

    def metrics(self, name: str = "metrics", **values: float) -> None:
        """Write a Metrics output: units, how many this run computed per hour, `device_waited`, and what the step adds.

        The device waited a share of the time of the loops over units that were computed in stages, of all processes.

        The UI shows the metadata; kfp's local cache needs a file as well.
        """
        total = sum(self.counts.values())
        share = self.counts["remembered"] / total if total else 0.0
        numbers = {"units": total, "failed": self.counts["failed"], "share_remembered": round(share, 4)}
        if total:  # a reduction has no units
            hours = max(1e-3, time.monotonic() - self._started) / 3600
            numbers["units_per_hour"] = round(self.counts["computed"] / hours, 1)
        if self._spent.seconds:
            numbers["device_waited"] = share = round(self._spent.share, 4)
            log.info("%s: the device waited for files %.1f %% of %.0f s", self.task, 100 * share, self._spent.seconds)
        shown = {key: round(float(value), 6) for key, value in {**numbers, **values}.items()}
        self._write(name, canonical_json(shown), shown)

    def value(self, name: str, text: str) -> None:
        """Write an output parameter."""
        _put(Path(self._outputs["parameters"][name]["outputFile"]), text.encode())
        self._answer["parameterValues"][name] = text

    def _alone(self) -> None:
        """Raise PartDone in one of several processes of a task: what comes now is done once."""
        if self.part is not None:
            raise PartDone

    def _write(self, name: str, data: bytes, metadata: Json, file: str = "") -> None:
        self._alone()
        item = self._outputs["artifacts"][name]["artifacts"][0]
        _put(artifact_path(item) / file, data)
        self._answer["artifacts"][name] = {"artifacts": [{**item, "metadata": metadata}]}

    def close(self) -> None:
        """Check that every declared output was written, then write KFP's answer."""
        wanted = {*self.step.outputs, *self.step.pages, *self._form.values}
        if missing := wanted - set(self._answer["artifacts"]) - set(self._answer["parameterValues"]):
            raise AssertionError(f"step {self.step.name} ended without its outputs {sorted(missing)}")
        if self.forced and (count := self.counts["remembered"]):
            log.info("%d were computed under %s before; a new nonce computes them again", count, self.rerun)
        if file := self._outputs.get("outputFile"):
            _put(Path(file), json.dumps(self._answer).encode())


def artifact_path(item: Json) -> Path:
    """Return where KFP's launcher mounts or copies an artifact; a plain path under kfp.local."""
    uri = str(item.get("customPath") or item["uri"]).removeprefix("file://")
    for scheme, folder in (("minio://", "/minio/"), ("s3://", "/s3/"), ("gs://", "/gcs/")):
        uri = folder + uri.removeprefix(scheme) if uri.startswith(scheme) else uri
    return Path(uri)


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def remembered_pictures(
    context: Context[Any],
    units: Sequence[U],
    *,
    name: Callable[[U], str],
    reads: Callable[[U], Json],
    paint: Callable[[U, WorkFolder], Json],
) -> list[Entry]:
    """Return the pictures of `units` for a step's page, drawing those that are not remembered.

    A picture is work of its own (`<step>_pictures/<key>`): asking for more never touches results, and no count and no
    failure includes pictures. Arguments as in `Context.each`; a DataError where a picture needs an object of the store
    that is missing or damaged.
    """
    work = f"{context.step.name}_pictures"
    return [context.once(name(unit), reads(unit), partial(paint, unit), work) for unit in units]
