"""What a run records in its folder (`run.json`: its store, the digests of what it made), and how commands find it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError

from components.core.errors import DataError, ParameterError
from components.core.records import Record, sha256
from components.store.entries import Store, named_manifest
from components.store.file import FileBackend

log = logging.getLogger(__name__)
FILE = "run.json"


class Output(Record):
    """Something a run made: the digest of its manifest, and the store that holds it."""

    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    store: str


class RunRecord(Record):
    """`run.json`: the store that was given to a run, and the newest outputs of the runs in this folder, by name."""

    store: str
    outputs: dict[str, Output] = {}

    def moved(self, change: Callable[[str], str]) -> RunRecord:
        """Return the record with the address of every store changed."""
        outputs = {name: Output(digest=item.digest, store=change(item.store)) for name, item in self.outputs.items()}
        return RunRecord(store=change(self.store), outputs=outputs)


def read_record(folder: Path) -> RunRecord | None:
    """Return the record of a run's folder, None where no run was; `DataError` where it cannot be read."""
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        record = RunRecord.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise DataError(f"{FILE} does not validate", source=str(file), remedy="run the pipeline again") from error
    return record.moved(lambda store: store if "://" in store else f"{folder.absolute().as_uri()}/{store}")


def write_record(folder: Path, store: str, outputs: Mapping[str, Output]) -> None:
    """Record a run's store, and its outputs beside those of other names that earlier runs left.

    A store in the folder is written relative to it, so that the folder may be moved.
    """
    before = read_record(folder)
    record = RunRecord(store=store, outputs={**(before.outputs if before else {}), **outputs})
    record = record.moved(lambda store: store.removeprefix(f"{folder.absolute().as_uri()}/"))
    FileBackend(folder.absolute()).put(FILE, record.model_dump_json(indent=2).encode() + b"\n")


class Found(NamedTuple):
    """A manifest that a command was given: its bytes, where they lie, and the store that holds its files."""

    data: bytes
    source: str
    store: Store


def find_manifest(what: str, store: str = "", output: str = "") -> Found:
    """Return a manifest by its digest, from an artifact's folder, or as an output of the newest run in a folder.

    What uncommitted code made lies in a part of the store of its own (`dev-…`): where the store has no such manifest,
    the newest part that has it counts, and a log line names it.

    Args:
        what: `sha256:…`, an artifact's folder, or a run's folder.
        store: where to look; without it, where the run that the folder belongs to keeps its results.
        output: of a run's folder: `priors`, `model` or `report`; may be left out where only one was made.

    Raises:
        ParameterError: no such manifest, or nothing says which store holds it.
        DataError: the store's copy is damaged.
    """
    folder = Path(what)
    if record := read_record(folder):
        made = _chosen(record, what, output)
        opened = Store(store or made.store)
        return Found(*named_manifest(made.digest, opened), opened)
    if output:
        raise ParameterError(f"no {FILE} in {what}", source="command line", remedy="give the folder of a run (--out)")
    file, places = folder / "manifest.json", [store] if store else []
    digest = what.removeprefix("sha256:")
    if file.is_file():
        digest = sha256(file.read_bytes())
        above = next((found for parent in file.absolute().parents if (found := read_record(parent))), None)
        places += [*(item.store for item in above.outputs.values()), above.store] if above else []
    if not places:
        raise ParameterError(f"no store to look for {what} in", source="command line", remedy="give --store")
    opened = next(filter(None, (_holder(Store(uri), f"manifests/{digest}.json") for uri in places)), Store(places[0]))
    return Found(*named_manifest(what, opened), opened)


def find_manifests(what: str, store: str) -> list[Found]:
    """Return all outputs in a run's folder, or the one manifest that `find_manifest` returns."""
    record = read_record(Path(what))
    return [find_manifest(what, store, name) for name in (record.outputs if record else [""])]


def _chosen(record: RunRecord, folder: str, output: str) -> Output:
    made = record.outputs
    if not output and len(made) == 1:
        return next(iter(made.values()))
    if output not in made:
        problem = f"no output {output!r}" if output else f"a run's folder with {len(made)} outputs"
        raise ParameterError(problem, source=folder, remedy=f"name one of: {', '.join(made) or 'nothing was made yet'}")
    return made[output]


def _holder(store: Store, path: str) -> Store | None:
    """Return the store if it has the object, else its newest part of uncommitted code that has it."""
    if store.backend.size(path) is not None:
        return store
    parts = [Store(f"{store.uri}/{name}") for name in store.backend.folders() if name.startswith("dev-")]
    written = {part: time for part in parts if (time := part.backend.modified(path)) is not None}
    newest = max(written, key=written.__getitem__, default=None)
    if newest is not None:
        log.info("%s holds it: results of uncommitted code", newest.uri)
    return newest
