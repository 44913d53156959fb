"""Which models there are, where their files lie, and what names them: a pinned commit or a digest of their files.

Names are `tiny-…` (random twins of the real classes, made here), `scenes-…` (trained, shipped in this package), a
registry name whose files lie under `MODELS_DIR`, or any folder. A registry's model that `models fetch` put there is
named by its commit, a shipped one by the digest on its card; every other folder by its files' content, which is
remembered by sizes and times, so that no pod hashes 20 GB twice. Names and pins come from the families. Imports no
torch until a twin is made.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from components.core.errors import ParameterError
from components.core.records import Digest, ModelId, Record, canonical_json, sha256
from components.models import video, vlm
from components.models.family import Family
from components.store.entries import Store, WorkFolder, hash_file

FAMILIES: list[Family] = [*video.families(), *vlm.families()]
CHECKPOINTS = {name: checkpoint for family in FAMILIES for name, checkpoint in family.checkpoints.items()}
TINY = {name: family for family in FAMILIES for name in family.tiny}


RECORD = ".revision.json"  # written by `models fetch`, last, into a model's folder


class Fetched(Record):
    """What a fetched folder is: repository and commit, and bytes and sha256 of every file by its path in the folder."""

    repository: str
    revision: str
    files: dict[str, tuple[int, Digest]]

    def wrong(self, folder: Path) -> list[str]:
        """Files that are not there with their size."""
        sizes = {path: (folder / path).stat().st_size for path in self.files if (folder / path).is_file()}
        return [path for path, (size, _) in self.files.items() if sizes.get(path) != size]


@dataclass(frozen=True)
class ResolvedModel:
    """A model's folder and its identity."""

    path: Path
    id: ModelId


def _trained(name: str, folder: str) -> ResolvedModel:
    path = Path(__file__).parents[1] / "synthetic" / folder / "checkpoint"
    card = json.loads((path / "training.json").read_bytes())  # names the files: a new training takes a new digest
    return ResolvedModel(path, ModelId(name=name, digest=card["digest"]))


# small trained models that travel with the code
SHIPPED = {name: _trained(name, folder) for name, folder in (("scenes-cogvideox", "vdm"), ("scenes-qwen2.5-vl", "vlm"))}


def resolve(name: str, store: Store) -> ResolvedModel:
    """Find the folder of a model and its digest.

    A registry name whose folder holds `models fetch`'s record has the pinned commit for its digest, once every recorded
    file is seen with its size. A folder of that name that somebody put there by hand has none and may hold anything: it
    runs, named by its content.

    Raises:
        ParameterError: neither a registry name nor a folder, or the registry's model is not under MODELS_DIR, of
            another commit, or incomplete.
    """
    if name in SHIPPED:
        return SHIPPED[name]
    path, known = _folder(name), CHECKPOINTS.get(name)
    fetched = recorded(path) if known else None
    if known is None or fetched is None:
        digest = _folder_digest(path, store)
    else:
        digest, problem = known.revision, ""
        if (fetched.repository, fetched.revision) != (known.repository, known.revision):
            pinned = f"the registry pins {known.repository} at {known.revision}"
            problem = f"{fetched.repository} at {fetched.revision}, {pinned}"
        elif wrong := fetched.wrong(path):
            problem = f"{len(wrong)} of {len(fetched.files)} files are missing or cut off, {wrong[0]} among them"
        if problem:
            remedy = f"run `motion-enhancer models fetch {name}`"
            raise ParameterError(f"{name}: {problem}", source=str(path), remedy=remedy)
    # of a folder its last part: manifests hold no path of a machine
    public = name if name in CHECKPOINTS or name in TINY else Path(name).name
    return ResolvedModel(path, ModelId(name=public, digest=digest))


def recorded(folder: Path) -> Fetched | None:
    """Read what `models fetch` wrote about a folder; None where it was not at work.

    Raises:
        ParameterError: the record cannot be read.
    """
    file = folder / RECORD
    if not file.is_file():
        return None
    try:
        return Fetched.model_validate_json(file.read_bytes())
    except ValidationError as error:
        remedy = f"remove {folder} and run `motion-enhancer models fetch {folder.name}`"
        raise ParameterError(f"{RECORD} does not validate", source=str(file), remedy=remedy) from error


def _folder(name: str) -> Path:
    if name in TINY:
        return ensure_tiny(name)
    if name in CHECKPOINTS:
        path, known = Path(os.environ.get("MODELS_DIR", "/models")) / name, CHECKPOINTS[name]
        pinned = f"{known.repository} at {known.revision}"
        remedy = f"run `motion-enhancer models fetch {name}` ({pinned}), or set MODELS_DIR"
    else:
        path, remedy = Path(name), f"use a folder or one of: {', '.join([*SHIPPED, *TINY, *CHECKPOINTS])}"
    if not path.is_dir():
        raise ParameterError(f"unknown model {name!r}: no folder {path}", source="vdm / vlm", remedy=remedy)
    return path


def ensure_tiny(name: str) -> Path:
    """Make a tiny twin unless it is there; concurrent makers are safe, the last rename wins."""
    family = TINY[name]
    sources = sorted(Path(inspect.getfile(family.make_tiny)).parent.glob("*.py"))
    recipe = sha256(b"".join(source.read_bytes() for source in sources))[:12]
    root = Path(os.environ.get("TINY_MODELS_DIR", Path(tempfile.gettempdir()) / f"motion-enhancer-{os.getuid()}"))
    target = root / f"{name}-{recipe}"
    if target.is_dir():
        return target
    root.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
    family.make_tiny(temporary, family.tiny[name])
    try:
        temporary.rename(target)
    except OSError:  # another process was first
        shutil.rmtree(temporary)
    return target


def _folder_digest(path: Path, store: Store) -> str:
    files = sorted(_files(path, frozenset()))
    seen = [[file.relative_to(path).as_posix(), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    key = hashlib.sha256(canonical_json([str(path.absolute()), seen])).hexdigest()[:32]
    if (entry := store.entry("model_digests", key, miss_if_damaged=True)) is not None:
        return str(entry.numbers["digest"])
    digest = sha256(canonical_json([[file.relative_to(path).as_posix(), hash_file(file)] for file in files]))
    WorkFolder(store, "model_digests", "1", key).finish(path.name, {}, {"digest": digest})
    return digest


def _files(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """Yield what `from_pretrained` can open: links to folders are followed, as links to files are."""
    above |= {folder.resolve()}
    for item in folder.iterdir():
        if item.name.startswith("."):  # .cache, .git: a downloader's notes of its own
            continue
        if item.is_file():
            yield item
        elif item.is_dir() and item.resolve() not in above:  # a link back up adds no file
            yield from _files(item, above)
