"""What lies in a store at one moment, and what of it a set of names reaches: the basis of `store gc`.

A manifest or an entry names things by path (a file), by key (a piece of work) or by digest (a manifest). Names are
taken from every string of the JSON, whatever its field: a manifest of another version, or a new field, keeps its files.
Only paths of exactly the store's own form are listed: whatever else lies in the bucket is left alone.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
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
    """`<step>/<key>`, `scratch/<key>`, or a video by itself: its files, its entry among them, and what that names."""

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
        """Take a snapshot.

        Args:
            drop: digests of manifests that are given up: they are not read, and may be damaged.

        Raises:
            DataError: another manifest is damaged, so that its names are unknown.
        """
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
            elif _VIDEO.fullmatch(item.path):
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
            raise DataError(
                "a manifest is damaged: what it names is unknown",
                source=f"{self.store.uri}/{item.path}",
                remedy=f"import or publish it again, or `store gc --drop sha256:{digest}`",
            )
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
