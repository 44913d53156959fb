"""`store gc`: delete what no kept manifest reaches and nobody wrote for some days.

Kept, with all they lead to (files, the works these are of, what those read, and so on): every prior set, model and
report, unless it is given up by `--drop`, and whatever was written in the last `older_than` days, which may belong to a
run that has not published yet. A folder's age is that of the last write into it.

A manifest or an entry names things by path (a file), by key (a piece of work) or by digest (a manifest). Names are
taken from every string of the JSON, whatever its field: a manifest of another version, or a new field, keeps its files.
Only paths of exactly the store's own form are listed: whatever else lies in the bucket is left alone.

What failed tasks of a cluster wrote about themselves (`failures/`) goes by its age alone.

Deletion goes from what names to what is named: manifests, then entries, then files. Stopped at any point it leaves
files that nobody names, never a name without its file. The store is looked at again before each of the three and when a
manifest was published meanwhile, and a folder just before it is deleted: a run under way keeps what it names.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from components.core.artifacts import PRODUCTS
from components.core.errors import DataError, ParameterError
from components.core.progress import track
from components.core.records import sha256
from components.store.backend import Listed
from components.store.entries import Store
from components.store.failures import FAILURE

log = logging.getLogger(__name__)
DAY = 86400.0
_PARTS = ("manifests", "entries", "files")

MANIFEST = re.compile(r"manifests/([0-9a-f]{64})\.json")
_VIDEO = re.compile(r"videos/[0-9a-f]{64}\.[^/]+")
_WORK = re.compile(r"([a-z][a-z0-9_]*/[0-9a-f]{32})/(entry\.json|resume/.+|tensorboard/.+|[^/]+-[0-9a-f]{16}\.[^/]+)")
_NAME = re.compile(r"(?:sha256:)?[0-9a-f]{64}|[0-9a-f]{32}|[^/]+(?:/[^/]+)+")


@dataclass(frozen=True)
class Published:
    """A manifest of the store: its file, its kind, and all that it names."""

    file: Listed
    kind: str
    names: frozenset[str]


@dataclass
class Folder:
    """`<step>/<key>`, `scratch/<key>`, or one file (a video, a failure's record): files, entry, what that names."""

    files: list[Listed] = field(default_factory=list)
    entry: Listed | None = None
    names: frozenset[str] = frozenset()

    @property
    def written(self) -> float:
        """Time of the last write into the folder."""
        return max(item.modified for item in self.files)


@dataclass
class Snapshot:
    """A store at one moment: manifests by digest, folders by path; `dropped` are manifests that were not read."""

    manifests: dict[str, Published] = field(default_factory=dict)
    dropped: dict[str, Listed] = field(default_factory=dict)
    folders: dict[str, Folder] = field(default_factory=dict)
    others: int = 0


class Inventory:
    """Takes snapshots of a store; what did not change since the last one is not read again."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._manifests: dict[tuple[str, str], Published] = {}
        self._entries: dict[tuple[str, str], frozenset[str]] = {}

    def look(self, drop: frozenset[str] = frozenset()) -> Snapshot:
        """Take a snapshot. Manifests in `drop` are not read, and may be damaged; another damaged one is a DataError."""
        found = Snapshot()
        manifests: dict[str, Listed] = {}
        for item in self.store.backend.walk():
            if match := MANIFEST.fullmatch(item.path):
                (found.dropped if match.group(1) in drop else manifests)[match.group(1)] = item
            elif match := _WORK.fullmatch(item.path):
                folder = found.folders.setdefault(match.group(1), Folder())
                folder.files.append(item)
                if match.group(2) == "entry.json":
                    folder.entry = item
            elif _VIDEO.fullmatch(item.path) or FAILURE.fullmatch(item.path):
                found.folders[item.path] = Folder([item])
            else:
                found.others += 1
        for digest, item in track(list(manifests.items()), "manifests"):
            if (known := self._published(digest, item)) is not None:
                found.manifests[digest] = known
        self._read_entries([folder for folder in found.folders.values() if folder.entry is not None])
        return found

    def _published(self, digest: str, item: Listed) -> Published | None:
        """Return what a manifest names; None where it was deleted after it was listed."""
        if (known := self._manifests.get((item.path, item.stamp))) is not None:
            return Published(item, known.kind, known.names)
        if (data := self.store.backend.get(item.path)) is None:
            return None
        raw = _parsed(data) if sha256(data) == digest else None
        if raw is None:
            problem, source = "a manifest is damaged: what it names is unknown", self.store.manifest_place(digest)
            remedy = f"import or publish it again, or `store gc --drop sha256:{digest}`"
            raise DataError(problem, source=source, remedy=remedy)
        made = Published(item, str(raw.get("kind", "")), names(raw))
        self._manifests[item.path, item.stamp] = made
        return made

    def _read_entries(self, folders: list[Folder]) -> None:
        entries = [(folder, folder.entry) for folder in folders if folder.entry is not None]
        new = [item for _, item in entries if (item.path, item.stamp) not in self._entries]
        with ThreadPoolExecutor(16) as pool:
            read = pool.map(lambda item: self.store.backend.get(item.path), new)
            for item, data in track(zip(new, read, strict=True), "entries", len(new)):
                raw = None if data is None else _parsed(data)
                if data is not None and raw is None:
                    log.warning("%s/%s is damaged", self.store.uri, item.path)
                self._entries[item.path, item.stamp] = names(raw)
        for folder, item in entries:
            folder.names = self._entries[item.path, item.stamp]


def _parsed(data: bytes) -> dict[str, Any] | None:
    try:
        raw = json.loads(data)
    except ValueError:
        return None
    return raw if isinstance(raw, dict) else None


def names(value: Any) -> frozenset[str]:
    """Return every string of a JSON value that may name a file, a work or a manifest (`sha256:` cut off)."""
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


def reach(found: Snapshot, start: Iterable[str]) -> set[str]:
    """Return every name that `start` leads to over manifests and entries: paths, keys and digests.

    A path leads to the folder it lies in and to every work that counts it among its files (a video's import); a key
    leads to its folders, a folder to its entry, that to what it read and to its files, a digest to all that its
    manifest names.
    """
    by_name: dict[str, list[Folder]] = {}
    for path, folder in found.folders.items():
        videos = (name for name in folder.names if _VIDEO.fullmatch(name))
        for name in (path.split("/")[1], *(item.path for item in folder.files), *videos):
            by_name.setdefault(name, []).append(folder)
    reached: set[str] = set()
    entries: set[str] = set()
    queue = list(start)
    while queue:
        name = queue.pop()
        if name in reached:
            continue
        reached.add(name)
        if name in found.manifests:
            queue.extend(found.manifests[name].names)
        for folder in by_name.get(name, ()):
            if folder.entry is not None and folder.entry.path not in entries:
                entries.add(folder.entry.path)
                queue.extend([folder.entry.path, *folder.names])
    return reached


@dataclass
class Plan:
    """What is to go: files by folder, in each of the three parts; how much stays; `others` are not the store's own."""

    victims: dict[str, dict[str, list[Listed]]] = field(default_factory=lambda: {part: {} for part in _PARTS})
    oldest: float = 0.0
    published: set[tuple[str, float]] = field(default_factory=set)
    kept_files: int = 0
    kept_bytes: int = 0
    others: int = 0

    def all(self) -> list[Listed]:
        """Return everything that is to go, in the order of deletion."""
        return [item for part in _PARTS for files in self.victims[part].values() for item in files]


class Collector:
    """Plans and deletes in one store.

    Args:
        store: the store.
        older_than: days after its last write that anything is kept.
        drop: digests of manifests to give up; one that is not in the store is a ParameterError.
        now: the clock.
    """

    def __init__(
        self, store: Store, older_than: float, drop: frozenset[str] = frozenset(), now: Callable[[], float] = time.time
    ) -> None:
        self._backend, self._older_than, self._drop, self._now = store.backend, older_than, drop, now
        self._inventory = Inventory(store)
        for digest in sorted(drop):
            if self._backend.size(f"manifests/{digest}.json") is None:
                remedy = "give digests of this store's manifests"
                raise ParameterError(f"no manifest sha256:{digest} in the store", source="--drop", remedy=remedy)

    def plan(self) -> Plan:
        """Return what would go now. Raises DataError: a manifest is damaged."""
        found, oldest = self._inventory.look(self._drop), self._now() - self._older_than * DAY
        manifests, folders = found.manifests, found.folders
        roots = [key for key, item in manifests.items() if item.kind in PRODUCTS or item.file.modified >= oldest]
        roots += [item.entry.path for item in folders.values() if item.entry is not None and item.written >= oldest]
        kept = reach(found, roots)
        listed = [*found.dropped.values(), *(item.file for item in manifests.values())]
        made = Plan(oldest=oldest, published={(item.path, item.modified) for item in listed}, others=found.others)
        unnamed = [item.file for digest, item in manifests.items() if digest not in kept]
        made.victims["manifests"] = {item.path: [item] for item in [*found.dropped.values(), *unnamed]}
        for name, folder in folders.items():
            # of a resume state its mark goes first: a half-deleted one must not look complete
            for item in sorted(folder.files, key=lambda item: not item.path.endswith("/complete.json")):
                if item.path in kept or folder.written >= oldest:
                    made.kept_files, made.kept_bytes = made.kept_files + 1, made.kept_bytes + item.size
                else:
                    made.victims["entries" if item is folder.entry else "files"].setdefault(name, []).append(item)
        return made

    def delete(self) -> list[Listed]:
        """Delete what is planned and still may go when its turn comes; return it."""
        gone = []
        for part in _PARTS:
            plan = self.plan()
            for name in track(list(plan.victims[part]), f"deleting {part}"):
                manifests = {(item.path, item.modified) for item in self._backend.walk("manifests")}
                if not manifests <= plan.published:  # somebody published meanwhile
                    plan = self.plan()
                files = plan.victims[part].get(name, [])
                if files and not self._was_written_since(plan, name, files):
                    for item in files:
                        self._backend.delete(item.path)
                    gone += files
            self._drop = frozenset()  # what is there now was published again
        return gone

    def _was_written_since(self, plan: Plan, name: str, files: list[Listed]) -> bool:
        """Return whether somebody wrote into a folder (or a file by itself) since it was planned to go."""
        times = [item.modified for item in self._backend.walk(name)] or [self._backend.modified(name) or 0.0]
        # a dropped manifest may be young; a server may give thousandths of a second in a listing and not elsewhere
        written = max(times) >= max(plan.oldest, *(item.modified + 1 for item in files))
        if written:
            log.info("%s was written meanwhile and stays", name)
        return written
