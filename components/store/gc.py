"""`store gc`: which works, videos and manifests of a store nobody needs any more, and their deletion.

Kept, with all they name (files, the works these are of, what those read, and so on): every prior set, model and report,
unless it is dropped by name; any other manifest for `keep_days` after its last write. Work that no manifest names at
all belongs to a run under way or to one that failed, and stays for `keep_days` as well. Nothing younger than
`min_age_hours` is deleted, but dropped manifests.

Deletion goes from what names to what is named: manifests, then works (`entry.json` first), then files. Killed at any
point it leaves files that nobody names, never a name without its file. The store is looked at again before each part,
and at least every minute, so that a run that publishes meanwhile keeps what it names.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from components.core.errors import ParameterError
from components.core.progress import track
from components.store.backend import Listed
from components.store.entries import Store
from components.store.inventory import PRODUCTS, Inventory, Reached, Snapshot, Work, reach

log = logging.getLogger(__name__)
DAY = 86400.0
_LOOK_AGAIN = 60.0  # seconds
_PARTS = ("manifests", "works", "files")


@dataclass(frozen=True)
class Policy:
    """What is kept, for how long."""

    keep_days: float = 30.0
    min_age_hours: float = 24.0
    drop: frozenset[str] = frozenset()
    scratch_only: bool = False


@dataclass(frozen=True)
class Victim:
    """A manifest, a work (its entry first) or a file that is to go, with the step or folder that it is counted under."""

    name: str
    group: str
    files: tuple[Listed, ...]


@dataclass
class Plan:
    """What is to go, by part and name, and how much stays: works, files and their bytes; `others` are files of somebody else."""

    victims: dict[str, dict[str, Victim]] = field(default_factory=lambda: {part: {} for part in _PARTS})
    kept_works: int = 0
    kept_bytes: int = 0
    others: int = 0

    def add(self, part: str, name: str, group: str, files: Iterable[Listed]) -> None:
        """Let something go."""
        self.victims[part][name] = Victim(name, group, tuple(files))

    def all(self) -> list[Victim]:
        """Everything that is to go, in the order of deletion."""
        return [victim for part in _PARTS for victim in self.victims[part].values()]


class Collector:
    """Plans and deletes in one store under one policy.

    Raises:
        ParameterError: a digest to drop is not in the store.
        DataError: a manifest is damaged.
        TryAgainError: the store does not answer.
    """

    def __init__(self, store: Store, policy: Policy, now: Callable[[], float] = time.time) -> None:
        self.store, self.policy, self.now = store, policy, now
        self._inventory = Inventory(store)
        self._dropped: dict[str, str] | None = None  # digest to stamp: one that is published again is not dropped again
        self._released: set[str] = set()
        self._looked = 0.0

    def plan(self) -> Plan:
        """What would go now."""
        found = self._inventory.look(self.policy.drop)
        self._looked = time.monotonic()
        if self._dropped is None:
            self._dropped = _stamps(found, self.policy.drop)
        made = Plan(others=found.others)
        if self.policy.scratch_only:
            for item in found.scratch:
                if self._old(item):
                    made.add("files", item.path, "scratch", [item])
            return made
        self._released |= reach(found, found.manifests).works  # works that some manifest named when we came
        kept = self._kept(found)
        for digest, manifest in found.manifests.items():
            if digest not in kept.manifests:
                made.add("manifests", digest, "manifests", [manifest.file])
        self._works(found, kept, made)
        loose = [("scratch", item) for item in found.scratch] + [("videos", item) for item in found.videos]
        for group, item in loose:
            self._file(made, kept, group, item)
        return made

    def _kept(self, found: Snapshot) -> Reached:
        roots = [
            digest
            for digest, manifest in found.manifests.items()
            if manifest.kind in PRODUCTS or not self._expired(manifest.file)
        ]
        under_way = [
            work.entry.path for folder, work in found.works.items() if work.entry and self._stays(folder, work)
        ]
        return reach(found, [*roots, *under_way], lambda digest: self._is_dropped(found, digest))

    def _is_dropped(self, found: Snapshot, digest: str) -> bool:
        return (self._dropped or {}).get(digest) == found.manifests[digest].file.stamp + str(
            found.manifests[digest].file.modified
        )

    def _stays(self, folder: str, work: Work) -> bool:
        """Whether a work stays though no kept manifest names it."""
        young = any(not self._old(item) for item in work)
        return young or (folder not in self._released and work.entry is not None and not self._expired(work.entry))

    def _old(self, item: Listed) -> bool:
        return item.modified < self.now() - self.policy.min_age_hours * 3600

    def _expired(self, item: Listed) -> bool:
        return item.modified < self.now() - self.policy.keep_days * DAY

    def _works(self, found: Snapshot, kept: Reached, made: Plan) -> None:
        for folder, work in found.works.items():
            step = folder.split("/")[0]
            if work.entry is not None and folder not in kept.works:
                made.add("works", folder, step, work)
                continue
            if work.entry is not None:
                made.kept_works += 1
                made.kept_bytes += work.entry.size
            for item in work.files:  # written by a run that was killed, or replaced by a later run's
                self._file(made, kept, step, item)
            for part, files, gone in (
                ("resume", work.resume, work.entry is not None),
                ("tensorboard", work.board, False),
            ):
                last = max(files, key=lambda item: item.modified, default=None)
                if last is not None and self._old(last) and (gone or self._expired(last)):
                    made.add("files", f"{folder}/{part}", f"{step}: {part}", files)

    def _file(self, made: Plan, kept: Reached, group: str, item: Listed) -> None:
        if item.path in kept.names:
            made.kept_bytes += item.size
        elif self._old(item):
            made.add("files", item.path, group, [item])

    # -- deletion -----------------------------------------------------------------------------------------------------

    def delete(self) -> list[Victim]:
        """Delete what is planned and what still may go when its turn comes; returns it."""
        gone = []
        for part in _PARTS:
            current = self.plan()
            for name in track(list(current.victims[part]), f"deleting {part}"):
                if time.monotonic() - self._looked > _LOOK_AGAIN:
                    current = self.plan()
                if (victim := current.victims[part].get(name)) is not None and self._unchanged(victim, part):
                    for item in victim.files:
                        self.store.backend.delete(item.path)
                    gone.append(victim)
        return gone

    def _unchanged(self, victim: Victim, part: str) -> bool:
        """Whether nobody wrote since the plan: into a work's folder, or the files themselves."""
        backend = self.store.backend
        if part == "works":
            now = {item.path: item.modified for item in backend.walk(victim.name)}
        else:
            now = {item.path: when for item in victim.files if (when := backend.modified(item.path)) is not None}
        planned = {item.path: item.modified for item in victim.files}
        # a server may tell thousandths in a listing and whole seconds elsewhere
        if written := [path for path, when in now.items() if path not in planned or when > planned[path] + 1]:
            log.info("%s was written meanwhile: %s stays", written[0], victim.name)
        return not written


def _stamps(found: Snapshot, drop: frozenset[str]) -> dict[str, str]:
    if unknown := drop - set(found.manifests):
        raise ParameterError(
            f"no manifest sha256:{min(unknown)} in the store",
            source="--drop",
            remedy="give digests of this store's manifests",
        )
    return {digest: found.manifests[digest].file.stamp + str(found.manifests[digest].file.modified) for digest in drop}
