"""What is remembered of many pieces of work, held as bytes: an entry is read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from components.store.entries import Entry, Store
from components.store.packed import LOOKUPS, Index, read_index, write_index


class Entries(Mapping[str, Entry]):
    """Entries by name (a unit's, or their key), and their small files by path."""

    def __init__(self, found: Mapping[str, bytes], files: Mapping[str, bytes] | None = None) -> None:
        self._found, self.files = found, files or {}

    def __getitem__(self, name: str) -> Entry:
        return Entry.model_validate_json(self._found[name])

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


class Memory:
    """What a task remembers of one kind of work.

    Args:
        store: where the entries lie.
        work: their folder.
        index: names the copy of all of them that the task keeps (`store.packed`); "" for none.
        trusted: that copy may be read; else each entry is looked at.
        remembered: returns the entry of a key that counts, or None.
    """

    def __init__(
        self, store: Store, work: str, index: str, trusted: bool, remembered: Callable[[str], Entry | None]
    ) -> None:
        self._store, self._work, self._index, self._remembered = store, work, index, remembered
        self._copy = read_index(store, work, index) if index and trusted else Index()
        self.entries: dict[str, bytes] = {}

    def look_up(self, keys: Iterable[str]) -> None:
        """Add what is remembered of these keys; what the copy lacks is looked for in the store, several at once."""
        missing = []
        for key in dict.fromkeys(keys):
            if (entry := self._copy.entries.get(key)) is not None:
                self.entries[key] = entry
            else:
                missing.append(key)
        with ThreadPoolExecutor(LOOKUPS) as pool:
            for key, found in zip(missing, pool.map(self._remembered, missing), strict=True):
                if found is not None:
                    self.entries[key] = found.to_bytes()

    def add(self, entry: Entry) -> None:
        """Remember a piece of work that was just done."""
        self.entries[entry.key] = entry.to_bytes()

    def keep(self, role: str = "") -> Mapping[str, bytes]:
        """Write the copy if it has changed; `role` names a small file of each entry that it holds; these are returned.

        Raises:
            DataError: such a file is missing or damaged.
        """
        files = self._files(role) if role else {}
        if self._index and self.entries and (found := Index(self.entries, files)) != self._copy:
            write_index(self._store, self._work, self._index, found)
        return files

    def _files(self, role: str) -> dict[str, bytes]:
        refs = [Entry.model_validate_json(entry).ref(role, self._work) for entry in self.entries.values()]
        missing = [ref for ref in refs if ref.path not in self._copy.files]
        with ThreadPoolExecutor(LOOKUPS) as pool:
            read = dict(zip((ref.path for ref in missing), pool.map(self._store.read, missing), strict=True))
        return {ref.path: read[ref.path] if ref.path in read else self._copy.files[ref.path] for ref in refs}


def named(keyed: Sequence[tuple[str, str]], memory: Memory, files: Mapping[str, bytes]) -> Entries:
    """Return the entries of (unit's name, key) by name, in this order."""
    return Entries({name: memory.entries[key] for name, key in keyed if key in memory.entries}, files)
