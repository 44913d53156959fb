"""What the names in a store lead to, for a million of them: a name is held as eight bytes, its hash.

A manifest, a part of one or an entry names things by path (a file), by key (a piece of work) or by digest (a manifest,
a part). Names are taken from every string of the JSON, whatever its field: a manifest of another version, or a new
field, keeps its files. Two names of one hash keep what only one of them leads to; nothing goes for it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from array import array
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import compress, islice

import numpy as np
from numpy.typing import NDArray

from components.core.artifacts import PRODUCTS
from components.core.errors import DataError
from components.core.lines import part_path, part_text
from components.core.records import Json
from components.store.backend import Listed
from components.store.entries import Store

log = logging.getLogger(__name__)

MANIFEST = re.compile(r"manifests/([0-9a-f]{64})\.json")
PART = re.compile(r"manifests/parts/([0-9a-f]{64})\.(jsonl\.gz|zip)")
VIDEO = re.compile(r"videos/[0-9a-f]{64}\.[^/]+")
WORK = re.compile(r"([a-z][a-z0-9_]*/([0-9a-f]{32}))/(entry\.json|resume/.+|tensorboard/.+|[^/]+-[0-9a-f]{16}\.[^/]+)")
_NAME = re.compile(  # it begins and ends where a string does: outside of strings JSON has no slash and no quote
    rb'"((?:sha256:)?[0-9a-f]{64}|[0-9a-f]{32}|[^"/\\]+(?:/[^"/\\]+)*/[^"/\\]+(?:\\.[^"/\\]*)*)"', re.DOTALL
)
_PRODUCT = re.compile(rf'"kind":\s*"(?:{"|".join(PRODUCTS)})"'.encode())
_BLOCK = 1 << 22  # bytes that are read at once of a manifest with its lines inline; a head is shorter
_LONGEST = 1 << 12  # bytes of a name
_READ = 1000  # entries that are read in one go


def names(data: bytes) -> Iterator[str]:
    """Yield every string of some JSON that may name a file, a work, a manifest or a part (`sha256:` cut off)."""
    for match in _NAME.finditer(data):
        text = match[1].decode(errors="replace")
        yield (json.loads(f'"{text}"') if "\\" in text else text).removeprefix("sha256:")


def parsed(data: bytes) -> Json | None:
    """Return the JSON object that these bytes are, or None."""
    try:
        raw = json.loads(data)
    except ValueError:
        return None
    return raw if isinstance(raw, dict) else None


def parts_of(head: Json) -> Iterator[str]:
    """Yield the digests of the parts that a manifest's head names, of lines and of their videos."""
    for value in head.values():
        if isinstance(value, dict) and isinstance(parts := value.get("parts"), list):
            for part in parts:
                yield from (file["sha256"] for file in (part["lines"], part["videos"]) if file is not None)


class Kept:
    """Names that lead to each other, and those that roots lead to. It only grows: what was kept once stays kept.

    A path leads to the work it lies in and to every work that counts it among its files (a video's import); a key leads
    to its works, a work to its entry, that to what it read and to its files, a digest to all that its manifest names.

    Args:
        store: whose.
        oldest: what was written since then is a root, in seconds since 1970.
    """

    def __init__(self, store: Store, oldest: float) -> None:
        self._store, self._oldest = store, oldest
        self._leads = array("q")  # source, target, source, target, …
        self._roots: set[int] = set()
        self._seen: set[tuple[str, float]] = set()  # manifests, and when they were written
        self._entries: set[int] = set()  # of their paths and stamps
        self._parts: dict[int, tuple[str, str]] = {}  # digests of parts that were not read, and of manifests with them
        self._reached: NDArray[np.int64] | None = None

    def _lead(self, source: str, targets: Iterable[int]) -> None:
        for target in targets:
            self._leads.extend((hash(source), target))
        self._reached = None

    def _root(self, name: str) -> None:
        if hash(name) not in self._roots:
            self._roots.add(hash(name))
            self._reached = None

    def add_parts(self, listed: Iterable[Listed]) -> None:
        """Take parts into account; one is read when something kept names it."""
        for item in listed:
            if (match := PART.fullmatch(item.path)) is not None:
                self._lead(match[1], [hash(item.path)])
                if match[2] != "zip":
                    self._parts.setdefault(hash(match[1]), (match[1], "…"))

    def ignore(self, manifests: Iterable[Listed]) -> None:
        """Let manifests lead to nothing, unless they are published again."""
        self._seen |= {(item.path, item.modified) for item in manifests}

    def forget(self, manifests: Iterable[Listed]) -> None:
        """Take manifests that were deleted for new ones where they appear again."""
        self._seen -= {(item.path, item.modified) for item in manifests}

    def add_manifests(self, listed: Iterable[Listed], *, roots: bool = False) -> None:
        """Read the manifests among these that were not seen. `roots`: each is one, as it was published meanwhile.

        Raises DataError: one is damaged.
        """
        for item in listed:
            match = MANIFEST.fullmatch(item.path)
            if match is not None and (item.path, item.modified) not in self._seen:
                self._seen.add((item.path, item.modified))
                self._add_manifest(item, match[1], roots)

    def _add_manifest(self, item: Listed, digest: str, root: bool) -> None:
        content, text, found = hashlib.sha256(), b"", set[int]()
        for offset in range(0, item.size, _BLOCK):
            if (block := self._store.backend.read(item.path, offset, _BLOCK)) is None:
                return  # deleted since it was listed
            content.update(block)
            text = text[-_LONGEST:] + block
            root = root or _PRODUCT.search(text) is not None
            found |= _hashes(names(text))
        if content.hexdigest() != digest:
            problem, source = "a manifest is damaged: what it names is unknown", self._store.manifest_place(digest)
            remedy = f"import or publish it again, or `store gc --drop sha256:{digest}`"
            raise DataError(problem, source=source, remedy=remedy)
        if item.size <= _BLOCK:
            self._parts |= {hash(name): (name, digest) for name in parts_of(parsed(text) or {})}
        self._lead(digest, {hash(item.path), *found})
        if root or item.modified >= self._oldest:
            self._root(digest)

    def add_works(self, works: Iterable[tuple[Listed, bool]]) -> None:
        """Read those entries that were not read yet as they are. With each comes whether its work is young, a root."""
        rest = iter(works)
        with ThreadPoolExecutor(16) as pool:
            while some := list(islice(rest, _READ)):
                new = [item for item, _ in some if hash((item.path, item.stamp)) not in self._entries]
                for item, data in zip(new, pool.map(self._store.backend.get, [item.path for item in new]), strict=True):
                    self._add_entry(item, data)
                for item, young in some:
                    if young:
                        self._root(item.path)

    def is_news(self, item: Listed, young: bool) -> bool:
        """Return whether `add_works` would learn something of an entry."""
        is_root = hash(item.path) in self._roots
        return hash((item.path, item.stamp)) not in self._entries or (young and not is_root)

    def _add_entry(self, item: Listed, data: bytes | None) -> None:
        self._entries.add(hash((item.path, item.stamp)))
        if data is not None and parsed(data) is None:
            log.warning("%s/%s is damaged", self._store.uri, item.path)
        named, folder = list(names(data or b"")), item.path.rpartition("/")[0]
        self._lead(item.path, _hashes(named))
        for name in (folder, folder.split("/")[1], *filter(VIDEO.fullmatch, named)):
            self._lead(name, [hash(item.path)])

    def holds(self, paths: Iterable[str]) -> list[bool]:
        """Return of each path whether a root leads to it. Raises DataError: a part is missing or damaged."""
        while self._reached is None:
            self._reached = self._reach()
            for digest, manifest in list(compress(self._parts.values(), self._are(self._parts))):
                self._add_part(digest, manifest)
        return self._are(map(hash, paths))

    def _are(self, hashes: Iterable[int]) -> list[bool]:
        assert self._reached is not None
        found: list[bool] = np.isin(np.fromiter(hashes, np.int64), self._reached).tolist()
        return found

    def _add_part(self, digest: str, manifest: str) -> None:
        try:
            text = part_text(self._store.backend.get(part_path(digest)), digest)
        except ValueError as error:
            problem = f"a part of a manifest is {error}: what it names is unknown"
            remedy = f"import or publish its manifest again, or `store gc --drop sha256:{manifest}`"
            raise DataError(problem, source=f"{self._store.uri}/{part_path(digest)}", remedy=remedy) from error
        del self._parts[hash(digest)]
        self._lead(digest, _hashes(names(text)))

    def _reach(self) -> NDArray[np.int64]:
        """Return what the roots lead to, sorted."""
        leads = np.frombuffer(self._leads, np.int64).reshape(-1, 2)
        order = leads[:, 0].argsort()
        source, target = leads[order, 0], leads[order, 1]
        reached = np.unique(np.fromiter(self._roots, np.int64))
        new = reached
        while new.size:
            last = source.searchsorted(new, "right")
            counts = last - source.searchsorted(new, "left")
            rows = np.repeat(last - counts.cumsum(), counts) + np.arange(counts.sum())
            new = np.setdiff1d(target[rows], reached)
            reached = np.union1d(reached, new)
        return reached


def _hashes(named: Iterable[str]) -> set[int]:
    """Return the names' hashes, and those of the works that paths among them lie in."""
    found = set()
    for name in named:
        found.add(hash(name))
        if (match := WORK.match(name)) is not None:
            found.add(hash(match[1]))
    return found
