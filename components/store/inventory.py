"""What lies in a store at one moment, and what of it a set of names reaches: the ground that `store gc` stands on.

A manifest or an entry names things by path (a file), by key (a piece of work) or by digest (a manifest). Names are
taken from every string of the JSON, whatever its field, so that nothing is lost when a manifest of another version, or
a new field, names a file.
Only paths that look exactly like ours are seen at all: whatever else lies in the bucket is left alone.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from components.core.artifacts import PriorSet, Report, TunedModel
from components.core.errors import DataError
from components.core.progress import track
from components.core.records import sha256
from components.store.backend import Listed
from components.store.entries import Store

log = logging.getLogger(__name__)
PRODUCTS = (PriorSet.KIND, TunedModel.KIND, Report.KIND)

_FILE = r"[^/]+-[0-9a-f]{16}\.[^/]+"
_SCRATCH = re.compile(rf"scratch/[0-9a-f]{{32}}/{_FILE}")
MANIFEST = re.compile(r"manifests/([0-9a-f]{64})\.json")
_VIDEO = re.compile(r"videos/[0-9a-f]{64}\.[^/]+")
_WORK = re.compile(rf"([a-z][a-z0-9_]*/[0-9a-f]{{32}})/(entry\.json|resume/.+|tensorboard/.+|{_FILE})")
_NAME = re.compile(r"(?:sha256:)?[0-9a-f]{64}|[0-9a-f]{32}|[^/]+(?:/[^/]+)+")


@dataclass(frozen=True)
class Published:
    """A manifest of the store: its file, its kind, and all that it names."""

    file: Listed
    kind: str
    names: frozenset[str]


@dataclass
class Work:
    """A folder `<step>/<key>`: its entry's file and names (None, none: not finished, or left behind), and its other files."""

    entry: Listed | None = None
    names: frozenset[str] = frozenset()
    files: list[Listed] = field(default_factory=list)
    states: list[Listed] = field(default_factory=list)
    board: list[Listed] = field(default_factory=list)

    def __iter__(self) -> Iterator[Listed]:
        """All files, the entry first: without it the work is not remembered, so no half-deleted work ever is."""
        yield from ([] if self.entry is None else [self.entry])
        yield from (*self.files, *self.resume, *self.board)

    @property
    def resume(self) -> list[Listed]:
        """Files of resume states, each state's mark first: a state that is half deleted must not count."""
        return sorted(self.states, key=lambda item: not item.path.endswith("/complete.json"))


@dataclass
class Snapshot:
    """A store at one moment: manifests by digest, works by `<step>/<key>`, and files that no work's folder holds."""

    manifests: dict[str, Published] = field(default_factory=dict)
    works: dict[str, Work] = field(default_factory=dict)
    scratch: list[Listed] = field(default_factory=list)
    videos: list[Listed] = field(default_factory=list)
    others: int = 0


@dataclass
class Reached:
    """What a set of names leads to: every name on the way (paths among them), works and manifests."""

    names: set[str] = field(default_factory=set)
    works: set[str] = field(default_factory=set)
    manifests: set[str] = field(default_factory=set)


class Inventory:
    """Takes snapshots of a store; what did not change since the last one is not read again."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._manifests: dict[tuple[str, str], Published] = {}
        self._entries: dict[tuple[str, str], frozenset[str]] = {}

    def look(self, unread: frozenset[str] = frozenset()) -> Snapshot:
        """A snapshot of now.

        Args:
            unread: digests of manifests that need not be readable, as they are to go.

        Raises:
            DataError: a manifest is damaged, so that nobody can say what it names.
        """
        found, manifests, entries = Snapshot(), [], []
        for item in self.store.backend.walk():
            if match := MANIFEST.fullmatch(item.path):
                manifests.append((match.group(1), item))
            elif _SCRATCH.fullmatch(item.path):
                found.scratch.append(item)
            elif _VIDEO.fullmatch(item.path):
                found.videos.append(item)
            elif match := _WORK.fullmatch(item.path):
                work = found.works.setdefault(match.group(1), Work())
                if match.group(2) == "entry.json":
                    work.entry = item
                    entries.append((match.group(1), item))
                else:
                    {"resume": work.states, "tensorboard": work.board}.get(
                        match.group(2).split("/")[0], work.files
                    ).append(item)
            else:
                found.others += 1
        self._read_manifests(found, manifests, unread)
        self._read_entries(found, entries)
        return found

    def _read_manifests(self, found: Snapshot, listed: list[tuple[str, Listed]], unread: frozenset[str]) -> None:
        for digest, item in track(listed, "manifests"):
            known = self._manifests.get((item.path, item.stamp))
            data = None if known else self.store.backend.get(item.path)
            if known is None and data is None:
                continue  # deleted since it was listed
            if data is not None:
                raw = _parsed(data) if sha256(data) == digest else None
                if raw is None and digest not in unread:
                    raise DataError(
                        "a manifest is damaged, so that nobody can say what it names",
                        source=f"{self.store.uri}/{item.path}",
                        remedy=f"import or publish it again, or `store gc --drop sha256:{digest}`",
                    )
                known = Published(item, str((raw or {}).get("kind", "")), names(raw))
                self._manifests[item.path, item.stamp] = known
            assert known is not None
            found.manifests[digest] = Published(item, known.kind, known.names)

    def _read_entries(self, found: Snapshot, listed: list[tuple[str, Listed]]) -> None:
        new = [item for _, item in listed if (item.path, item.stamp) not in self._entries]
        with ThreadPoolExecutor(16) as pool:
            read = pool.map(lambda item: self.store.backend.get(item.path), new)
            for item, data in track(zip(new, read, strict=True), "entries", len(new)):
                raw = None if data is None else _parsed(data)
                if data is not None and raw is None:
                    log.warning("%s/%s is damaged", self.store.uri, item.path)
                self._entries[item.path, item.stamp] = names(raw)
        for folder, item in listed:
            found.works[folder].names = self._entries[item.path, item.stamp]


def _parsed(data: bytes) -> dict[str, Any] | None:
    try:
        raw = json.loads(data)
    except ValueError:
        return None
    return raw if isinstance(raw, dict) else None


def names(value: Any) -> frozenset[str]:
    """Every string of a JSON value that may name a file, a work or a manifest (`sha256:` cut off)."""
    found, stack = set(), [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if _NAME.fullmatch(item):
                found.add(item.removeprefix("sha256:"))
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return frozenset(found)


def reach(found: Snapshot, start: Iterable[str], closed: Callable[[str], bool] = lambda digest: False) -> Reached:
    """Everything that names lead to, over manifests and works, until nothing new is found.

    A path leads to the work whose folder it lies in and to every work that counts it among its files (a video's
    import); a key leads to the work, a work to what it read and to its files, a digest to the manifest and so to what
    that names.

    Args:
        found: the store.
        start: paths, keys and digests.
        closed: manifests that lead nowhere, by digest.
    """
    by_name: dict[str, list[str]] = {}
    for folder, work in found.works.items():
        for name in (
            folder.split("/")[1],
            *(item.path for item in work),
            *(name for name in work.names if _VIDEO.fullmatch(name)),
        ):
            by_name.setdefault(name, []).append(folder)
    reached, queue = Reached(), list(start)
    while queue:
        name = queue.pop()
        if name in reached.names:
            continue
        reached.names.add(name)
        if name in found.manifests and not closed(name):
            reached.manifests.add(name)
            queue.extend(found.manifests[name].names)
        for folder in by_name.get(name, ()):
            if folder not in reached.works:
                reached.works.add(folder)
                queue.extend(found.works[folder].names)
    return reached
