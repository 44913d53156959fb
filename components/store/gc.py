"""`store gc`: delete what no kept manifest reaches and nobody wrote for some days.

Kept, with all they lead to (files, the works these are of, what those read, and so on): every prior set, model and
report, unless it is given up by `--drop`, and whatever was written in the last `older_than` days, which may belong to a
run that has not published yet. A folder's age is that of the last write into it. What leads to what: `names.py`.

Only paths of exactly the store's own form are listed: whatever else lies in the bucket is left alone.

What failed tasks of a cluster wrote about themselves (`failures/`) goes by its age alone. Copies of a step's entries
(`indexes/<step>/`) go whenever some of these entries do, whatever their age.

Deletion goes from what names to what is named: manifests, their parts, copies of entries, entries, files. Stopped at
any point it leaves files that nobody names, never a name without its file. It goes by batches of some thousand objects.
The manifests are listed again just before each, and for entries and files the store, on the way from one to the next:
a run under way keeps what it names. Each of the two costs one listing of the store, however much is deleted.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, takewhile

from components.core.errors import ParameterError
from components.core.progress import track
from components.store.backend import Listed
from components.store.entries import Store
from components.store.failures import FAILURE
from components.store.names import MANIFEST, PART, VIDEO, WORK, Kept

log = logging.getLogger(__name__)
DAY = 86400.0
_PARTS = ("manifests", "parts", "indexes", "entries", "files")
BATCH = 1000  # objects that are deleted between two looks at the manifests
LOOKED = 25_000  # objects that are listed before those to be deleted among them are, however few

_BELOW = "manifests/parts/"
_INDEX = re.compile(r"indexes/([a-z][a-z0-9_]*)/[0-9a-f]{32}\.zip")
# of a resume state they go first: a half-deleted one must not look complete
_MARK = re.compile(r"/resume/.+/(?:mark-[^/]+|complete\.json)$")

Folder = tuple[Listed, ...]  # the files of `<step>/<key>` or `scratch/<key>`, or one by itself (a video, a manifest)


def folders(listed: Iterable[Listed]) -> Iterator[Folder]:
    """Yield the folders of a listing, and whatever is not the store's own, object by object."""
    for home, items in groupby(listed, lambda item: _home(item.path)):
        if home:
            yield tuple(items)
        else:
            yield from zip(items)


def _home(path: str) -> str:
    """Return the folder that a file is of, itself where it is one by itself; nothing of what is not the store's own."""
    if (match := WORK.fullmatch(path)) is not None:
        return match[1]
    return path if any(form.fullmatch(path) for form in (VIDEO, MANIFEST, PART, _INDEX, FAILURE)) else ""


def _part(path: str) -> str:
    """Return in which part of a plan a file goes."""
    if path.startswith("manifests/"):
        return "parts" if path.startswith(_BELOW) else "manifests"
    return "indexes" if path.startswith("indexes/") else "entries" if _is_entry(path) else "files"


def _is_entry(path: str) -> bool:
    return (match := WORK.fullmatch(path)) is not None and match[3] == "entry.json"


def _written(folder: Folder) -> float:
    """Return the time of the last write into a folder."""
    return max(item.modified for item in folder)


def _works(found: Iterable[Folder], oldest: float) -> Iterator[tuple[Listed, bool]]:
    """Yield the entries of folders, and whether these are young."""
    for folder in found:
        yield from ((item, _written(folder) >= oldest) for item in folder if _is_entry(item.path))


@dataclass
class Plan:
    """What is to go, in each of the parts, as it was listed; how much stays; `others` are not the store's own."""

    kept: Kept
    oldest: float
    victims: dict[str, list[Listed]] = field(default_factory=lambda: {part: [] for part in _PARTS})
    kept_files: int = 0
    kept_bytes: int = 0
    others: int = 0

    def put(self, part: str, item: Listed, stays: bool) -> None:
        """Count a file as one that stays or goes."""
        if stays:
            self.kept_files, self.kept_bytes = self.kept_files + 1, self.kept_bytes + item.size
        else:
            self.victims[part].append(item)

    def all(self) -> list[Listed]:
        """Return everything that is to go, in the order of deletion."""
        return [item for part in _PARTS for item in self.victims[part]]


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
        self._store, self._backend, self._older_than, self._now = store, store.backend, older_than, now
        self._without_copies: set[str] = set()  # steps of which no copy of entries is left
        self._drop = {f"manifests/{digest}.json" for digest in drop}
        for digest in sorted(drop):
            if self._backend.size(f"manifests/{digest}.json") is None:
                remedy = "give digests of this store's manifests"
                raise ParameterError(f"no manifest sha256:{digest} in the store", source="--drop", remedy=remedy)

    def plan(self) -> Plan:
        """Return what would go now. Manifests to give up are not read, and may be damaged.

        Raises DataError: another manifest is damaged, or a part of one that is kept.
        """
        oldest = self._now() - self._older_than * DAY
        made, found, indexes = Plan(Kept(self._store, oldest), oldest), list[Folder](), list[Listed]()
        for folder in folders(track(self._backend.walk(), "objects")):
            if not _home(folder[0].path):
                made.others += 1
            elif _part(folder[0].path) == "indexes":
                indexes += folder
            else:
                found.append(folder)
        self._read(made, found)
        named = iter(made.kept.holds(item.path for folder in found for item in folder))
        for folder in found:
            young = _written(folder) >= oldest
            for item in folder:
                made.put(_part(item.path), item, (next(named) or young) and item.path not in self._drop)
        steps = {item.path.split("/")[0] for item in made.victims["entries"]}
        for item in indexes:
            made.put("indexes", item, item.path.split("/")[1] not in steps)
        return made

    def _read(self, made: Plan, found: Sequence[Folder]) -> None:
        """Read what names something."""
        alone = [item for folder in found for item in folder if item.path.startswith("manifests/")]
        made.kept.ignore(item for item in alone if item.path in self._drop)
        made.kept.add_parts(alone)
        made.kept.add_manifests(track(alone, "manifests"))
        works = _works(found, made.oldest)
        made.kept.add_works(track(works, "entries"))

    def delete(self, plan: Plan) -> list[Listed]:
        """Delete what is planned and still may go when its turn comes; return it."""
        gone = list[Listed]()
        self._without_copies.clear()
        for part in ("manifests", "parts", "entries", "files"):
            gone += track(self._deleted(plan, part), f"deleting {part}", len(plan.victims[part]))
            if part == "entries":  # a run may have written one while these went
                gone += self._forget_copies(self._without_copies)
        return gone

    def _deleted(self, plan: Plan, part: str) -> Iterator[Listed]:
        """Delete one part, looking at the store again on the way; yield what is gone."""
        doomed = {hash(item.path) for item in plan.victims[part]}
        batch, works, looked = list[Listed](), list[tuple[Listed, bool]](), 0
        for folder in self._again(part) if doomed else ():
            works += (work for work in _works([folder], plan.oldest) if plan.kept.is_news(*work))
            listed = [item for item in folder if hash(item.path) in doomed]
            if listed and part != "manifests" and _written(folder) >= plan.oldest:
                log.info("%s was written meanwhile and stays", _home(folder[0].path))
            else:
                batch += listed
            looked += len(folder)
            if len(batch) >= BATCH or (batch and looked >= LOOKED):
                yield from self._go(plan, part, batch, works)
                batch, works, looked = [], [], 0
        plan.kept.add_works(works)
        yield from self._go(plan, part, batch, works) if batch else ()

    def _again(self, part: str) -> Iterator[Folder]:
        if part == "manifests":
            return folders(self._heads())
        return folders(self._backend.walk("manifests/parts" if part == "parts" else ""))

    def _heads(self) -> Iterator[Listed]:
        """List the manifests, not their parts, which are behind them."""
        return takewhile(lambda item: item.path < _BELOW, self._backend.walk("manifests"))

    def _go(self, plan: Plan, part: str, batch: list[Listed], works: list[tuple[Listed, bool]]) -> Iterator[Listed]:
        """Delete of a batch what nothing names now, with what appeared meanwhile; yield it."""
        plan.kept.add_works(works)
        plan.kept.add_manifests(self._heads(), roots=True)
        held = plan.kept.holds(item.path for item in batch)
        gone = [item for item, is_held in zip(batch, held, strict=True) if not is_held]
        if part == "entries":
            steps = {item.path.split("/")[0] for item in gone} - self._without_copies
            self._without_copies |= steps
            yield from self._forget_copies(steps)
        marks = [item.path for item in gone if _MARK.search(item.path)]
        self._backend.delete_all(marks)
        self._backend.delete_all(item.path for item in gone if not _MARK.search(item.path))
        if part == "manifests":
            plan.kept.forget(gone)
        yield from gone

    def _forget_copies(self, steps: Collection[str]) -> list[Listed]:
        """Delete the copies of these steps' entries; return them."""
        listed = self._backend.walk("indexes") if steps else ()
        gone = [item for item in listed if (match := _INDEX.fullmatch(item.path)) and match[1] in steps]
        self._backend.delete_all(item.path for item in gone)
        return gone
