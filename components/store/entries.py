"""The store: a folder per piece of work, on a file system or any S3 endpoint, and that folder is the memory.

`<store>/<step>/<key>/entry.json` is written last; its presence is the only record that the work is done. Files are
named after their content and never overwritten. Reading verifies size and sha256; a reader never writes, moves or
deletes.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any, overload

from pydantic import Field, ValidationError

from components.core.artifacts import AttentionLine, M, Manifest, PriorLine, load_manifest, parse_manifest
from components.core.errors import DataError, ParameterError
from components.core.lines import Blob, L, Lines, part_path, part_text, write_parts
from components.core.records import Piece, Record, Ref, ScoredPiece, canonical_json, sha256
from components.store.address import open_backend
from components.store.backend import PATIENCE

log = logging.getLogger(__name__)


def rerun_remedy(task: str) -> str:
    """Return how a damaged or missing file of a task is computed again."""
    return f"set rerun_{task} to a new value (it computes what is damaged or missing, nothing else)"


class File(Record):
    """A file of one piece of work: its path in the store, hash and size."""

    path: str
    sha256: str
    bytes: int


class Entry(Record):
    """What is remembered of one piece of work: what follows from its key, and who forced it last."""

    step: str
    version: str
    key: str
    unit: str
    reads: dict[str, Any] = Field(description="what it read, by key or content hash")
    numbers: dict[str, Any] = {}
    files: dict[str, File] = {}
    forced: dict[str, str] = Field(
        {},
        exclude_if=lambda nonces: not nonces,
        description="the last nonce `force…` of each task that computed it under one: of when it was, in no key",
    )

    def ref(self, role: str, task: str) -> Ref:
        """Return the file `role` as a reference that names the task to rerun."""
        return Ref(**self.files[role].model_dump(), task=task)

    def to_bytes(self) -> bytes:
        """Return `entry.json`. Raises ValueError: NaN or infinity among the numbers."""
        return canonical_json(self.model_dump())  # not mode="json": that would write NaN as null

    def refs(self, task: str) -> dict[str, Any]:
        """Return all files as references, by role: fields of a line."""
        return {role: self.ref(role, task) for role in self.files}


@dataclass
class _Loan:
    """How many blocks hold a file of the store, and that one of them fetches it."""

    borrowers: int = 0
    fetching: Lock = field(default_factory=Lock)


class Store:
    """Typed access to one store root; a store that does not answer is tried again for `patience` minutes."""

    def __init__(self, uri: str, patience: float = PATIENCE) -> None:
        self.backend, self.patience = open_backend(uri, patience), patience
        self.uri = self.backend.uri
        self._lock = Lock()
        self._loans: dict[str, _Loan] = {}

    def entry(self, step: str, key: str, *, task: str = "", miss_if_damaged: bool = False) -> Entry | None:
        """Return the remembered work, or None.

        Args:
            step: the work's folder.
            key: the work's name.
            task: whose rerun computes it again, where that is not called as the folder.
            miss_if_damaged: return None for a damaged entry (with a warning) instead of raising DataError.
        """
        path = f"{step}/{key}/entry.json"
        data = self.backend.get(path)
        if data is None:
            return None
        try:
            return Entry.model_validate_json(data)
        except ValidationError as error:
            if miss_if_damaged:
                log.warning("%s/%s is damaged: computing again", self.uri, path)
                return None
            remedy = rerun_remedy(task or step)
            raise DataError("entry.json does not validate", source=f"{self.uri}/{path}", remedy=remedy) from error

    def damaged(self, entry: Entry) -> list[str]:
        """Return paths of the entry's files that are missing or have other content (scratch may be gone)."""
        bad = []
        for file in entry.files.values():
            data = self.backend.get(file.path)
            if data is None and file.path.startswith("scratch/"):
                continue
            if data is None or sha256(data) != file.sha256:
                bad.append(file.path)
        return bad

    def read(self, ref: Ref) -> bytes:
        """Return the referenced bytes, verified by size and sha256."""
        data = self.backend.get(ref.path)
        self._verify(ref, None if data is None else (len(data), sha256(data)))
        assert data is not None
        return data

    def fetch(self, ref: Ref) -> Path:
        """Return a local, verified copy of the referenced file (on a file system the file itself)."""
        path = self.backend.local(ref.path)
        self._verify(ref, None if path is None else (path.stat().st_size, hash_file(path)))
        assert path is not None
        return path

    @contextmanager
    def borrowed(self, ref: Ref) -> Iterator[Path]:
        """Fetch for the length of the block; its end drops the download, so a shard's videos do not fill the disk.

        Threads that borrow one file at a time (clips that are parts of it) share the download; the last one drops it.
        """
        with self._lock:
            loan = self._loans.setdefault(ref.path, _Loan())
            loan.borrowers += 1
        try:
            with loan.fetching:
                path = self.fetch(ref)
            yield path
        finally:
            with self._lock:
                loan.borrowers -= 1
                if not loan.borrowers:
                    del self._loans[ref.path]
                    self.backend.release(ref.path)

    def present(self, ref: Ref) -> bool:
        """Return whether the object is there; content is checked when it is read."""
        return self.backend.size(ref.path) is not None

    def _verify(self, ref: Ref, seen: tuple[int, str] | None) -> None:
        if seen == (ref.bytes, ref.sha256):
            return
        what = "is missing"
        if seen is not None:
            what = f"has other content (sha256 {seen[1][:16]}…, {seen[0]} bytes, wanted {ref.bytes})"
        source = f"{self.uri}/{ref.path}, made by {ref.task}"
        raise DataError(f"{ref.path} {what}", source=source, remedy=rerun_remedy(ref.task))

    def content(self, path: str) -> str | None:
        """Return the sha256 of a stored file, or None; a download is dropped again."""
        try:
            file = self.backend.local(path)
            return None if file is None else hash_file(file)
        finally:
            self.backend.release(path)

    def lines(self, kind: type[L], lines: Iterable[L]) -> Lines[L]:
        """Write lines as the parts of a manifest, one part at a time, and return them as they are read again.

        Lines about videos come in the order of `core.lines.position`.
        """
        return Lines(kind, parts=write_parts(lines, self._put_part)).bind(self.part)

    def _put_part(self, text: bytes) -> None:
        # level 6 is gzip's own; the time of writing would make equal texts differ
        self.backend.put(part_path(sha256(text)), gzip.compress(text, 6, mtime=0))

    def part(self, blob: Blob) -> bytes:
        """Return the text of a part's file. Raises DataError: it is missing or damaged."""
        path = part_path(blob.sha256)
        return unpacked_part(self.backend.get(path), blob, f"{self.uri}/{path}")

    def publish(self, manifest: Manifest) -> str:
        """Write a manifest's parts that are in memory, and its head under its digest, which is returned.

        Publishing it again writes the same bytes.
        """
        if manifest.schema_version != "1":
            for lines in manifest.listed().values():
                lines.write(self._put_part)
        data = manifest.to_bytes()
        digest = sha256(data)
        self.backend.put(f"manifests/{digest}.json", data)
        return digest

    def manifest(self, digest: str, expected: type[M]) -> M:
        """Return a published manifest by digest (`sha256:…` or bare hex)."""
        digest = digest.removeprefix("sha256:")
        if (data := self.manifest_bytes(digest)) is None:
            remedy = "check the digest, or `motion-enhancer import` it"
            raise DataError(f"no manifest {digest}", source=self.manifest_place(digest), remedy=remedy)
        return parse_manifest(data, expected, self.manifest_place(digest)).bind(self.part)

    def opened(self, folder: Path, expected: type[M]) -> M:
        """Return the manifest of an artifact's folder, whose parts lie in this store."""
        return load_manifest(folder, expected, self.part)

    @overload
    def pieces(self, line: PriorLine) -> list[ScoredPiece]: ...

    @overload
    def pieces(self, line: AttentionLine) -> list[Piece]: ...

    def pieces(self, line: AttentionLine | PriorLine) -> Sequence[Piece]:
        """Return the pieces of a sample's text. Raises DataError: their file is missing or damaged."""
        if not isinstance(line.pieces, Ref):
            return line.pieces
        return line.parse_pieces(self.read(line.pieces))

    def manifest_place(self, digest: str) -> str:
        """Return the address of a manifest, for errors."""
        return f"{self.uri}/manifests/{digest}.json"

    def manifest_bytes(self, digest: str) -> bytes | None:
        """Return a published manifest's bytes, or None. Raises DataError: it is damaged."""
        data = self.backend.get(f"manifests/{digest}.json")
        if data is not None and sha256(data) != digest:
            problem, remedy = "manifest content differs from its name", "import or compute it again"
            raise DataError(problem, source=self.manifest_place(digest), remedy=remedy)
        return data


class WorkFolder:
    """One piece of work being written: files first, `entry.json` last; `forced` is the nonce by task, if it has one."""

    def __init__(
        self, store: Store, step: str, version: str, key: str, forced: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.store, self.step, self.version, self.key, self.forced = store, step, version, key, dict(forced)
        self._files: dict[str, File] = {}

    def put(self, role: str, extension: str, data: bytes, *, scratch: bool = False) -> None:
        """Write `data` under a name that holds 16 hex of its sha256; `scratch` may be emptied at any time."""
        digest = sha256(data)
        folder = f"scratch/{self.key}" if scratch else f"{self.step}/{self.key}"
        path = f"{folder}/{role}-{digest[:16]}.{extension}"
        self.store.backend.put(path, data)
        self._files[role] = File(path=path, sha256=digest, bytes=len(data))

    def adopt(self, role: str, file: File) -> None:
        """Count a file that lies elsewhere in the store (a video) as part of this work."""
        self._files[role] = file

    def finish(self, unit: str, reads: dict[str, Any], numbers: dict[str, Any]) -> Entry:
        """Write the entry: from here on the work is remembered. Raises DataError: NaN or infinity among the numbers."""
        work = {"step": self.step, "version": self.version, "key": self.key, "unit": unit}
        files, forced = dict(sorted(self._files.items())), self._nonces()
        entry = Entry(**work, reads=reads, numbers=numbers, files=files, forced=forced)
        try:
            data = entry.to_bytes()
        except ValueError as error:
            problem, source = f"NaN or infinity in {numbers}", f"{self.step}, {unit}"
            raise DataError(problem, source=source, remedy="look into this unit") from error
        self.store.backend.put(f"{self.step}/{self.key}/entry.json", data)
        return entry

    def _nonces(self) -> dict[str, str]:
        """Return the nonces for the entry: another task's stays, as the work is newer now than that task asked for."""
        before = self.store.entry(self.step, self.key, miss_if_damaged=True) if self.forced else None
        return self.forced if before is None else before.forced | self.forced


def named_manifest(what: str, store: Store) -> tuple[bytes, str]:
    """Return a manifest's bytes and place, by its digest in the store (`sha256:…`) or from an artifact's folder.

    Raises ParameterError: neither is there; DataError: the store's copy is damaged.
    """
    file, digest = Path(what) / "manifest.json", what.removeprefix("sha256:")
    if file.is_file():
        return file.read_bytes(), str(file)
    if (data := store.manifest_bytes(digest)) is None:
        remedy = "give sha256:… of a manifest in the store, or an artifact folder"
        raise ParameterError(f"no manifest {what!r}", source="command line", remedy=remedy)
    return data, store.manifest_place(digest)


def unpacked_part(data: bytes | None, blob: Blob, source: str) -> bytes:
    """Return the text of a part's file, verified. Raises DataError: it is missing (None) or damaged."""
    try:
        return part_text(data, blob.sha256)
    except ValueError as error:
        remedy = "set rerun_… of the task that published it to a new value, or export and import the manifest again"
        raise DataError(f"a part of a manifest: {error}", source=source, remedy=remedy) from error


def hash_file(path: Path) -> str:
    """Return the hex sha256 of a local file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
