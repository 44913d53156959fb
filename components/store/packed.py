"""Many small objects in one: entries and files that a task would otherwise ask for one by one.

`manifests/parts/<sha256>.zip` are files that belong to a manifest's lines, in one for those that read them all.

`indexes/<work>/<key>.zip` is a copy of the entries that one task last saw, and of small files of theirs. It stands
beside the truth, which is the entries: the task overwrites it, one that is damaged or whose entries were deleted counts
as absent, a task that is asked to look again (`rerun_<task>`) does not read it, and garbage collection deletes a work's
copies before any of its entries. Only two entries are looked for: who deletes some of a work's entries by hand deletes
`indexes/` as well.
"""

from __future__ import annotations

import io
import logging
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

from components.core.records import Ref, sha256
from components.store.entries import Store

log = logging.getLogger(__name__)
A = TypeVar("A")
B = TypeVar("B")
LOOKUPS = 16  # requests under way
_HELD = 1024  # answers that are there before they are asked for
_DIGEST = 64  # hex digits
_LOCAL = struct.Struct("<26xHH")  # a member's header: how long its name and its extra field are, which follow
_KEYS, _ENTRIES = "keys.txt", "entries.jsonl"


@dataclass
class Index:
    """Entries by key, as they lie in the store (`entry.json`), and files by path."""

    entries: dict[str, bytes] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


class Members(Mapping[str, bytes]):
    """The files of a zip file by name.

    Those that are stored as they are lie once in memory: each is copied out of the archive when it is read. Checksums
    are not verified: who reads an archive knows the sha256 of the whole.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._places, self._unpacked = data, dict[str, slice](), dict[str, bytes]()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED:
                    self._unpacked[info.filename] = archive.read(info)
                    continue
                start = info.header_offset + _LOCAL.size + sum(_LOCAL.unpack_from(data, info.header_offset))
                self._places[info.filename] = slice(start, start + info.file_size)

    def __getitem__(self, name: str) -> bytes:
        place = self._places.get(name)
        return self._unpacked[name] if place is None else self._data[place]

    def __iter__(self) -> Iterator[str]:
        return chain(self._unpacked, self._places)

    def __len__(self) -> int:
        return len(self._unpacked) + len(self._places)

    def pop(self, name: str) -> bytes:
        """Return a compressed file and forget it."""
        return self._unpacked.pop(name)


def index_path(work: str, key: str) -> str:
    """Return where the copy of a task's entries lies."""
    return f"indexes/{work}/{key}.zip"


def read_index(store: Store, work: str, key: str) -> Index:
    """Return a task's copy; an empty one where there is none, or one that does not count (with a warning)."""
    data = store.backend.get(index_path(work, key))
    if data is None:
        return Index()
    problem = "it is damaged"
    if sha256(memoryview(data)[_DIGEST:]).encode() == data[:_DIGEST]:  # copies are large, and several read at a time
        found = Members(data)
        keys = [name.decode() for name in found.pop(_KEYS).splitlines()]
        if all(store.backend.size(f"{work}/{name}/entry.json") is not None for name in (keys[0], keys[-1])):
            return Index(dict(zip(keys, found.pop(_ENTRIES).splitlines(), strict=True)), found)
        problem = "its entries were deleted"
    log.warning("%s/%s does not count, %s: looking at each entry", store.uri, index_path(work, key), problem)
    return Index()


def write_index(store: Store, work: str, key: str, index: Index) -> None:
    """Write a task's copy, which has at least one entry; before it stands the sha256 of the zip file."""
    listed = {
        _KEYS: "".join(f"{name}\n" for name in index.entries).encode(),
        _ENTRIES: b"".join(entry + b"\n" for entry in index.entries.values()),
    }
    data = zipped({**listed, **index.files})
    store.backend.put(index_path(work, key), sha256(data).encode() + data)  # a zip file may begin with anything


def put_files(store: Store, files: Mapping[str, bytes], task: str) -> Ref:
    """Write files as one, named after its content."""
    data = zipped(files)
    digest = sha256(data)
    path = f"manifests/parts/{digest}.zip"
    store.backend.put(path, data)
    return Ref(path=path, sha256=digest, bytes=len(data), task=task)


def read_files(store: Store, packed: Ref | None, refs: Sequence[Ref], readers: int = LOOKUPS) -> Iterator[bytes]:
    """Yield the referenced files, verified: out of `packed` where a manifest has that, else `readers` at once.

    Raises:
        DataError: one is missing or damaged.
    """
    if packed is None:
        with ThreadPoolExecutor(readers) as pool:
            yield from in_batches(pool, store.read, refs)
        return
    files = Members(store.read(packed))
    for ref in refs:
        data = files.get(ref.path)
        yield store.read(ref) if data is None or sha256(data) != ref.sha256 else data


def in_batches(pool: ThreadPoolExecutor, do: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
    """Yield what `do` returns for each item, as the pool's `map`, which would hold everything at once."""
    for start in range(0, len(items), _HELD):
        yield from pool.map(do, items[start : start + _HELD])


def zipped(files: Mapping[str, bytes]) -> bytes:
    """Return a zip file of these, equal for equal files; only text is compressed."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in files.items():
            kind = zipfile.ZIP_DEFLATED if name in (_KEYS, _ENTRIES) else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(name), data, kind)  # its default time is 1980, of no clock
    return target.getvalue()
