"""What is remembered of a step: out of the copies that its tasks keep of their entries, else looked at one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from components.core.records import sha256
from components.store.entries import Entry, Store
from components.store.packed import Index, in_batches, read_index

_READERS = 16  # copies that are read at a time


class Present:
    """Whether a step has an entry of a key.

    Damage counts as work to do, as the rerun that computes it again begins with `plan`.
    """

    def __init__(self, store: Store, step: str, indexes: Iterable[str]) -> None:
        self._store, self._step, self._keys = store, step, set[str]()
        with ThreadPoolExecutor(_READERS) as pool:
            for copy in pool.map(partial(read_index, store, step), indexes):
                self._take(copy)

    def _take(self, copy: Index) -> None:
        self._keys |= copy.entries.keys()

    def __contains__(self, key: str) -> bool:
        return key in self._keys or self._store.entry(self._step, key, miss_if_damaged=True) is not None


class Known(Present):
    """The entries of a step by key, and what else its tasks' copies hold."""

    def __init__(self, store: Store, step: str, indexes: Iterable[str]) -> None:
        self._entries, self._files = dict[str, bytes](), dict[str, Mapping[str, bytes]]()
        super().__init__(store, step, indexes)

    def _take(self, copy: Index) -> None:
        self._entries |= copy.entries
        self._files |= dict.fromkeys(copy.files, copy.files)  # a copy holds its files once, in its archive

    def __contains__(self, key: str) -> bool:
        return key in self._entries or self.entry(key) is not None

    def entry(self, key: str) -> Entry | None:
        """Return an entry, or None."""
        if (data := self._entries.get(key)) is not None:
            return Entry.model_validate_json(data)
        if (entry := self._store.entry(self._step, key, miss_if_damaged=True)) is not None:
            self._entries[key] = entry.to_bytes()
        return entry

    def files(self, role: str, keys: Sequence[str], readers: int) -> Iterator[tuple[str, bytes]]:
        """Yield the unit and the file `role` of each of these entries, which are there.

        Raises:
            DataError: a file is missing or damaged.
        """

        def read(key: str) -> tuple[str, bytes]:
            entry = Entry.model_validate_json(self._entries[key])
            ref = entry.ref(role, self._step)
            data = self._files.get(ref.path, {}).get(ref.path)
            return entry.unit, self._store.read(ref) if data is None or sha256(data) != ref.sha256 else data

        with ThreadPoolExecutor(readers) as pool:
            yield from in_batches(pool, read, keys)
