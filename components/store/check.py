"""`store check`: which files of a run are missing or damaged, and which nonce computes them again.

A reader of the store stops at the first such file; this looks at all that some manifests name, at once. Trajectories
are allowed to be gone (`scratch/` may be emptied at any time). One line is held at a time: of a file that is right
nothing stays but the hash of its path and its size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from components.core.artifacts import PRODUCTS, Manifest, parse_manifest
from components.core.errors import DataError
from components.core.lines import part_path, part_text
from components.core.progress import track
from components.core.records import Ref
from components.store.backend import Backend
from components.store.entries import Store
from components.store.names import MANIFEST
from components.store.transfer import references


@dataclass
class Damage:
    """A file that differs from its manifest: how, of which units, and the task that made it.

    It is unknown which task made a part of a manifest.
    """

    path: str
    problem: str
    task: str
    units: list[str]


@dataclass
class Findings:
    """What was looked at, and what was wrong. `emptied` are trajectories that are gone, as they may be."""

    manifests: int = 0
    files: int = 0
    bytes: int = 0
    emptied: int = 0
    damages: list[Damage] = field(default_factory=list)


def products(store: Store, kinds: Sequence[str] = PRODUCTS) -> Iterator[Manifest]:
    """Yield every prior set, model and report of the store, or of some kinds. Raises DataError: one is damaged."""
    listed = [match[1] for item in store.backend.walk("manifests") if (match := MANIFEST.fullmatch(item.path))]
    named = re.compile(rf'"kind":\s*"(?:{"|".join(kinds)})"'.encode())  # not parsed: it may be hundreds of megabytes
    for digest in track(listed, "manifests"):
        data = store.manifest_bytes(digest)
        if data is not None and named.search(data):
            found = parse_any(data, store.manifest_place(digest), store)
            yield from [found] if found.kind in kinds else []


def parse_any(data: bytes, source: str, store: Store) -> Manifest:
    """Return a manifest of any kind, whose parts lie in the store.

    Raises DataError: not a manifest, of an unknown kind, or as `parse_manifest`.
    """
    kinds = {kind.KIND: kind for kind in _kinds(Manifest)}
    try:
        named = kinds.get(json.loads(data).get("kind"), Manifest)
    except (ValueError, AttributeError) as error:
        raise DataError("not a manifest", source=source, remedy="run the step that makes it again") from error
    if named is Manifest:
        problem = "a manifest of no kind that this code knows"
        raise DataError(problem, source=source, remedy="use the version that wrote it")
    return parse_manifest(data, named, source).bind(store.part)


def _kinds(base: type[Manifest]) -> Iterator[type[Manifest]]:
    for kind in base.__subclasses__():
        yield from ([kind] if hasattr(kind, "KIND") else [])
        yield from _kinds(kind)


def check(store: Store, manifests: Iterable[Manifest], *, content: bool = False) -> Findings:
    """Look at every file that the manifests name: is it there with its size, and with `content` its sha256.

    The parts of a manifest are read; where one is damaged, what the lines name is not looked at.
    """
    found, sizes, parts, seen = Findings(), _Sizes(store.backend), _Parts(store.backend), set[int]()
    damaged: dict[str, tuple[Damage, dict[str, None]]] = {}
    for manifest in manifests:
        found.manifests += 1
        broken = parts.broken(manifest)
        for path, problem in broken.items():
            damaged.setdefault(path, (Damage(path, problem, "", []), {}))[1][manifest.kind] = None
        for unit, ref in track(_by_unit(manifest, with_lines=not broken), "files"):
            if hash(ref.path) not in seen:
                seen.add(hash(ref.path))
                found.files, found.bytes = found.files + 1, found.bytes + ref.bytes
                problem = _problem(store, ref, sizes.of(ref.path), content)
                if problem == "missing" and ref.path.startswith("scratch/"):
                    found.emptied += 1
                elif problem:
                    damaged[ref.path] = Damage(ref.path, problem, ref.task, []), {}
            if ref.path in damaged:
                damaged[ref.path][1][unit] = None
    for damage, units in damaged.values():
        damage.units += units
        found.damages.append(damage)
    found.damages.sort(key=lambda damage: (damage.task, damage.path))
    return found


class _Sizes:
    """What the store's files weigh, by the hash of their paths; a folder at the root is listed when it is needed."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._listed: set[str] = set()
        self._sizes: dict[int, int] = {}

    def of(self, path: str) -> int | None:
        """Return a file's bytes, or None."""
        if (top := path.split("/")[0]) not in self._listed:  # a listing has a thousand objects per request
            self._listed.add(top)
            self._sizes |= {hash(item.path): item.size for item in self._backend.walk(top)}
        return self._sizes.get(hash(path))


class _Parts:
    """The parts that manifests' lines lie in, each of which is read once."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._problems: dict[str, str] = {}

    def broken(self, manifest: Manifest) -> dict[str, str]:
        """Return what is wrong with the manifest's parts, by path; nothing of those that are right."""
        digests = [blob.sha256 for blob in manifest.blobs()]
        for digest in digests:
            if digest not in self._problems:
                self._problems[digest] = self._problem(digest)
        return {part_path(digest): self._problems[digest] for digest in digests if self._problems[digest]}

    def _problem(self, digest: str) -> str:
        try:
            part_text(self._backend.get(part_path(digest)), digest)
        except ValueError as error:
            return str(error)
        return ""


def _by_unit(manifest: Manifest, *, with_lines: bool) -> Iterator[tuple[str, Ref]]:
    listed = manifest.listed()
    for name in type(manifest).model_fields:
        for ref in references(getattr(manifest, name)) if name not in listed else ():
            yield manifest.kind, ref
    for line in chain.from_iterable(lines for lines in listed.values() if with_lines):
        for ref in references(line):
            yield (line.sample.id if hasattr(line, "sample") else line.video.id), ref


def _problem(store: Store, ref: Ref, size: int | None, content: bool) -> str:
    if size is None:
        return "missing"
    if size != ref.bytes:
        return f"{size} bytes, not {ref.bytes}"
    seen = store.content(ref.path) if content else ref.sha256
    return "missing" if seen is None else "" if seen == ref.sha256 else "other content"
