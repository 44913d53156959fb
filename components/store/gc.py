"""`store gc`: delete what no kept manifest reaches and nobody wrote for some days.

Kept, with all they lead to (files, the works these are of, what those read, and so on): every prior set, model and
report, unless it is given up by `--drop`, and whatever was written in the last `older_than` days, which may belong to a
run that has not published yet. A folder's age is that of the last write into it.

Deletion goes from what names to what is named: manifests, then entries, then files. Stopped at any point it leaves
files that nobody names, never a name without its file. The store is looked at again before each of the three and when a
manifest was published meanwhile, and a folder just before it is deleted: a run under way keeps what it names.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from components.core.errors import ParameterError
from components.core.progress import track
from components.store.backend import Listed
from components.store.entries import Store
from components.store.inventory import PRODUCTS, Inventory, reach

log = logging.getLogger(__name__)
DAY = 86400.0
_PARTS = ("manifests", "entries", "files")


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
        drop: digests of manifests to give up.
        now: the clock.

    Raises:
        ParameterError: a digest to drop is not in the store.
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
        """Return what would go now.

        Raises:
            DataError: a manifest is damaged.
            TryAgainError: the store does not answer.
        """
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
                if self._was_published_since(plan):
                    plan = self.plan()
                files = plan.victims[part].get(name, [])
                if files and not self._was_written_since(plan, name, files):
                    for item in files:
                        self._backend.delete(item.path)
                    gone += files
            self._drop = frozenset()  # what is there now was published again
        return gone

    def _was_published_since(self, plan: Plan) -> bool:
        return any((item.path, item.modified) not in plan.published for item in self._backend.walk("manifests"))

    def _was_written_since(self, plan: Plan, name: str, files: list[Listed]) -> bool:
        """Return whether somebody wrote into a folder (or a file by itself) since it was planned to go."""
        times = [item.modified for item in self._backend.walk(name)] or [self._backend.modified(name) or 0.0]
        # a dropped manifest may be young; a server may give thousandths of a second in a listing and not elsewhere
        written = max(times) >= max(plan.oldest, *(item.modified + 1 for item in files))
        if written:
            log.info("%s was written meanwhile and stays", name)
        return written
