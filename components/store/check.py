"""`store check`: which files of a run are missing or damaged, and which nonce computes them again.

A reader of the store stops at the first such file; this looks at all that some manifests name, at once. Trajectories
are allowed to be gone (`scratch/` may be emptied at any time).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from components.core.artifacts import PRODUCTS, Manifest, parse_manifest
from components.core.errors import DataError
from components.core.progress import track
from components.core.records import Ref
from components.store.entries import Store
from components.store.gc import MANIFEST
from components.store.transfer import references


@dataclass
class Damage:
    """A file that differs from its manifest: how, of which units, and the task that made it."""

    path: str
    problem: str
    task: str
    units: list[str]


@dataclass
class Findings:
    """What was looked at, and what was wrong. `emptied` are trajectories that are gone, as they may be."""

    files: int = 0
    bytes: int = 0
    emptied: int = 0
    damages: list[Damage] = field(default_factory=list)


def products(store: Store, kinds: Sequence[str] = PRODUCTS) -> Iterator[Manifest]:
    """Yield every prior set, model and report of the store, or of some kinds. Raises DataError: one is damaged."""
    listed = [match[1] for item in store.backend.walk("manifests") if (match := MANIFEST.fullmatch(item.path))]
    for digest in track(listed, "manifests"):
        data = store.manifest_bytes(digest)
        if data is not None and json.loads(data).get("kind") in kinds:
            yield parse_any(data, store.manifest_place(digest)).bind(store.part)


def parse_any(data: bytes, source: str) -> Manifest:
    """Return a manifest of any kind. Raises DataError: not a manifest, of an unknown kind, or as `parse_manifest`."""
    kinds = {kind.KIND: kind for kind in _kinds(Manifest)}
    try:
        named = kinds.get(json.loads(data).get("kind"), Manifest)
    except (ValueError, AttributeError) as error:
        raise DataError("not a manifest", source=source, remedy="run the step that makes it again") from error
    if named is Manifest:
        problem = "a manifest of no kind that this code knows"
        raise DataError(problem, source=source, remedy="use the version that wrote it")
    return parse_manifest(data, named, source)


def _kinds(base: type[Manifest]) -> Iterator[type[Manifest]]:
    for kind in base.__subclasses__():
        yield from ([kind] if hasattr(kind, "KIND") else [])
        yield from _kinds(kind)


def check(store: Store, manifests: Iterable[Manifest], *, content: bool = False) -> Findings:
    """Look at every file that the manifests name: is it there with its size, and with `content` its sha256."""
    refs: dict[str, Ref] = {}
    units: dict[str, dict[str, None]] = {}
    for manifest in manifests:
        for unit, ref in _by_unit(manifest):
            refs.setdefault(ref.path, ref)
            units.setdefault(ref.path, {})[unit] = None
    tops = sorted({path.split("/")[0] for path in refs})  # a listing has a thousand objects per request
    there = {item.path: item.size for top in tops for item in store.backend.walk(top)}
    found = Findings(files=len(refs), bytes=sum(ref.bytes for ref in refs.values()))
    for ref in track(list(refs.values()), "files") if content else refs.values():
        problem = _problem(store, ref, there.get(ref.path), content)
        if problem == "missing" and ref.path.startswith("scratch/"):
            found.emptied += 1
        elif problem:
            found.damages.append(Damage(ref.path, problem, ref.task, list(units[ref.path])))
    found.damages.sort(key=lambda damage: (damage.task, damage.path))
    return found


def _by_unit(manifest: Manifest) -> Iterator[tuple[str, Ref]]:
    for name in type(manifest).model_fields:
        if name != "lines":
            for ref in references(getattr(manifest, name)):
                yield manifest.kind, ref
    for line in getattr(manifest, "lines", []):
        for ref in references(line):
            yield (line.sample.id if hasattr(line, "sample") else line.video.id), ref


def _problem(store: Store, ref: Ref, size: int | None, content: bool) -> str:
    if size is None:
        return "missing"
    if size != ref.bytes:
        return f"{size} bytes, not {ref.bytes}"
    seen = store.content(ref.path) if content else ref.sha256
    return "missing" if seen is None else "" if seen == ref.sha256 else "other content"
