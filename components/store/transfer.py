"""Prior sets and tuned models between stores: a folder with every file of the manifest, from export to import.

An exported prior set holds `manifest.json`, `README.md` (the card), its samples as `samples.parquet` and
`samples.jsonl`, and each file under its path in the store. An exported model is what plain `from_pretrained` opens;
everything else lies in its `motion_enhancer/`, laid out in the same way. Names of files and their sha256 come from the
manifest alone, so its digest is the same in every store. Lines are read and written a batch at a time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import ValidationError

from components.core.artifacts import EvalResult, M, PriorLine, PriorSet, TunedModel, parse_manifest
from components.core.errors import DataError, ParameterError
from components.core.lines import Blob, Lines, part_path
from components.core.progress import track
from components.core.records import Ref, ScoredPiece, canonical_json
from components.store.entries import Store, hash_file, unpacked_part
from components.store.model_files import SUFFIXES, check_content, check_model, check_names
from components.store.packed import LOOKUPS
from components.store.sample_table import SampleTable, readme

T = TypeVar("T")

INNER = "motion_enhancer"  # beside a model's own files
_MANIFEST = "manifest.json"
_AGAIN = "export it again from a store that holds it"
_READ = (".safetensors", ".png", ".json")  # what lines name beside videos
_BATCH = 512  # lines or files in memory at once
# as the import names videos and a work folder its files; the group is the (beginning of the) content's sha256
_OWN = re.compile(r"videos/([0-9a-f]{64})\.[^/\0]+|[a-z][a-z0-9_]*/[0-9a-f]{32}/[^/\0]+-([0-9a-f]{16})\.[^/\0]+")


def references(value: Any) -> Iterator[Ref]:
    """Yield every file that a manifest names, in order, with repeats."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from references(item)
    elif isinstance(value, Lines):
        for line in value:
            yield from references(line)
    elif hasattr(type(value), "model_fields"):
        for name in type(value).model_fields:
            yield from references(getattr(value, name))


def original_name(ref: Ref) -> str:
    """Return a file's name without the 16 hex of its sha256: `model-<16 hex>.safetensors` is `model.safetensors`."""
    path = PurePosixPath(ref.path)
    return path.stem.removesuffix(f"-{ref.sha256[:16]}") + path.suffix


def own_path(ref: Ref, source: str) -> str:
    """Return a reference's path if a store gives it to this content: a manifest may come from anywhere.

    Raises DataError: any other path: it may lead out of the folder, or to what a store keeps for another content.
    """
    match = _OWN.fullmatch(ref.path)
    if match is None or not ref.sha256.startswith(match[1] or match[2]):
        problem = f"the manifest names {ref.path!r}, which is no place in a store for sha256 {ref.sha256[:16]}…"
        raise DataError(problem, source=source, remedy=_AGAIN)
    return ref.path


def parse_transferable(data: bytes, source: str) -> PriorSet | TunedModel:
    """Parse a manifest of one of the two kinds that go between stores.

    Raises DataError: another kind, or as `parse_manifest`.
    """
    try:
        raw = json.loads(data)
    except ValueError as error:
        raise DataError(f"not a manifest: {error}", source=source, remedy=_AGAIN) from error
    kind = raw.get("kind") if isinstance(raw, dict) else None
    if kind == TunedModel.KIND:
        return parse_manifest(data, TunedModel, source)
    if kind == PriorSet.KIND:
        return parse_manifest(data, PriorSet, source)
    remedy = f"only {PriorSet.KIND} and {TunedModel.KIND} go between stores"
    if kind == EvalResult.KIND:
        remedy = f"{remedy}; write an evaluation for other tools by `export … --format`"
    raise DataError(f"a manifest of kind {kind!r}", source=source, remedy=remedy)


def export_folder(
    store: Store, manifest: PriorSet | TunedModel, folder: Path, card: str, *, videos: bool = True
) -> None:
    """Write a prior set or a model with all its files (and videos) into an empty folder; the manifest comes last.

    Raises ParameterError: the folder is not empty; DataError: the store lacks a file, or it is damaged.
    """
    check_new(folder)
    inner = folder / _inner(manifest)
    inner.mkdir(parents=True, exist_ok=True)

    def copy(placed: tuple[str, Ref]) -> None:
        place, ref = placed
        if videos or not ref.path.startswith("videos/"):
            target = folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            with store.borrowed(ref) as file:
                shutil.copyfile(file, target)

    _at_once(copy, track(_places(manifest), "export"))
    for blob in manifest.blobs():
        target, data = inner / part_path(blob.sha256), store.backend.get(part_path(blob.sha256))
        unpacked_part(data, blob, store.uri)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data or b"")
    if isinstance(manifest, PriorSet):
        _write_samples(manifest, folder)
        card = readme(card)
    (inner / "README.md").write_text(card)
    (inner / _MANIFEST).write_bytes(manifest.to_bytes())


def _write_samples(manifest: PriorSet, folder: Path) -> None:
    """Write the samples of an exported set, whose files are there, for other tools: as a table and as JSON Lines."""
    lines = track(manifest.lines, "samples", len(manifest.lines))
    with (folder / "samples.jsonl").open("wb") as samples, SampleTable(folder) as table:
        for batch in _batches(lines):
            found = [pieces_of(line, folder) for line in batch]
            table.write(zip(batch, found, strict=True))
            for line, pieces in zip(batch, found, strict=True):
                whole = {**line.model_dump(mode="json"), "pieces": [piece.model_dump() for piece in pieces]}
                samples.write(canonical_json(whole) + b"\n")


def pieces_of(line: PriorLine, folder: Path) -> list[ScoredPiece]:
    """Return the pieces of a sample's text out of an exported folder. Raises DataError: their file is damaged."""
    if not isinstance(line.pieces, Ref):
        return line.pieces
    file = folder / own_path(line.pieces, str(folder))
    if not _is_whole(file, line.pieces):
        raise _damaged(file, line.pieces)
    try:
        return line.parse_pieces(file.read_bytes())
    except ValidationError as error:
        raise DataError(f"{line.pieces.path} holds no pieces: {error}", source=str(file), remedy=_AGAIN) from error


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    left = iter(items)
    while batch := list(islice(left, _BATCH)):
        yield batch


def _at_once(do: Callable[[T], None], items: Iterable[T]) -> None:
    """Do something with each item, several at a time; the first error in their order comes out."""
    with ThreadPoolExecutor(LOOKUPS) as pool:
        for batch in _batches(items):
            for _ in pool.map(do, batch):
                pass


def check_new(folder: Path) -> None:
    """Raise ParameterError if there is anything in a folder already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ParameterError(f"{folder} is not empty", source="export", remedy="give a new folder")


def _inner(manifest: PriorSet | TunedModel) -> str:
    return INNER if isinstance(manifest, TunedModel) else ""


def _places(manifest: PriorSet | TunedModel) -> Iterator[tuple[str, Ref]]:
    """Yield every file with its place in the folder: its path in the store, or a model file's original name.

    Raises DataError: a path as in `own_path`, or a file of a kind that a manifest's field does not have.
    """
    if isinstance(manifest, TunedModel):
        yield from _model_places(manifest)
    seen, inner = set[str](), f"{INNER}/" if isinstance(manifest, TunedModel) else ""
    for line in manifest.lines:
        refs = {own_path(ref, manifest.kind): ref for ref in references(line)}
        check_names([path for path in refs if not path.startswith("videos/")], _MANIFEST, _READ)
        yield from ((f"{inner}{path}", ref) for path, ref in refs.items() if path not in seen)
        seen.update(path for path in refs if path.startswith("videos/"))  # all else is of one line alone


def _model_places(manifest: TunedModel) -> Iterator[tuple[str, Ref]]:
    """Yield what a model's manifest names beside its lines, as `_places` does."""
    beside = [*manifest.aligner, *manifest.adapter, manifest.log]
    for ref in (*manifest.files, *beside):
        own_path(ref, manifest.kind)
    check_model([original_name(ref) for ref in manifest.files], _MANIFEST)
    check_names([original_name(ref) for ref in beside], _MANIFEST, ("log.jsonl", *SUFFIXES))
    yield from ((original_name(ref), ref) for ref in manifest.files)
    yield from ((f"{INNER}/{original_name(ref)}", ref) for ref in beside)


def exported_manifest(folder: Path, kind: type[M]) -> M:
    """Return the manifest of an exported folder. Raises DataError: no exported folder, or of another kind."""
    file = _manifest_file(folder)
    return parse_manifest(file.read_bytes(), kind, str(file)).bind(partial(_part, file.parent))


def _part(folder: Path, blob: Blob) -> bytes:
    """Return the text of a part beside an exported manifest. Raises DataError: it is missing or damaged."""
    file = folder / part_path(blob.sha256)
    return unpacked_part(file.read_bytes() if file.is_file() else None, blob, str(file))


def _manifest_file(folder: Path) -> Path:
    found = [file for file in (folder / _MANIFEST, folder / INNER / _MANIFEST) if file.is_file()]
    if not found:
        problem = f"no {_MANIFEST} and no {INNER}/{_MANIFEST}"
        raise DataError(problem, source=str(folder), remedy="give a folder that `motion-enhancer export` finished")
    return found[0]


def import_folder(folder: Path, store: Store, *, videos: bool = True) -> str:
    """Bring an exported prior set or model into a store; returns its manifest's digest, which is the one it had before.

    Every file is verified before it is copied, and one that the store holds already is kept if its content is right.
    The manifest is published last.

    Without `videos`, and where the folder was exported without, the store must hold them.

    Raises DataError: a file is missing or damaged, a video is in neither place, the folder holds another kind, or,
    before anything is stored, a file that is neither safetensors nor JSON nor the text beside it (`model_files`).
    """
    file = _manifest_file(folder)
    manifest = parse_transferable(file.read_bytes(), str(file)).bind(partial(_part, file.parent))
    if file.parent != folder / _inner(manifest):
        problem = f"a {manifest.kind} where none belongs"
        raise DataError(problem, source=str(file), remedy="give the folder that `export` wrote")
    _check(folder, manifest, file, videos=videos)

    def copy(placed: tuple[str, Ref]) -> None:
        place, ref = placed
        if _travels(folder / place, ref, videos):
            _copy_in(folder / place, ref, store)
        elif store.backend.size(ref.path) != ref.bytes:
            remedy = "export and import with the videos"
            raise DataError(f"the store has no {ref.path}", source=store.uri, remedy=remedy)

    _at_once(copy, track(_places(manifest), "import"))
    for blob in manifest.blobs():
        store.backend.put_file(part_path(blob.sha256), file.parent / part_path(blob.sha256))
    return store.publish(manifest)


def _travels(file: Path, ref: Ref, videos: bool) -> bool:
    return not ref.path.startswith("videos/") or (videos and file.is_file())


def _check(folder: Path, manifest: PriorSet | TunedModel, file: Path, *, videos: bool) -> None:
    """Look at everything before anything is stored: what lies where, and what it would lead to once it is opened.

    Raises DataError: a link that leads out of the folder, a part that is missing or damaged, a file that no model has,
    or content as in `check_content`.
    """
    home = folder.resolve()
    _check_link(file, folder, home)
    for blob in manifest.blobs():
        _check_link(file.parent / part_path(blob.sha256), folder, home)
        _part(file.parent, blob)
    beside: dict[Path, set[str]] = {}
    if isinstance(manifest, TunedModel):
        check_model(sorted(_model_files(folder)), str(folder))
        for place, _ in _model_places(manifest):
            beside.setdefault((folder / place).parent, set()).add(PurePosixPath(place).name)
    for place, ref in track(_places(manifest), "check"):
        if _travels(one := folder / place, ref, videos):
            _check_link(one, folder, home)
            _check_file(one, ref, beside.get(one.parent, set()))
    for line in manifest.lines if isinstance(manifest, PriorSet) else ():
        pieces_of(line, folder)


def _check_link(file: Path, folder: Path, home: Path) -> None:
    if file.exists() and not file.resolve().is_relative_to(home):
        problem, remedy = f"{file.relative_to(folder)} is a link out of the folder", "copy the folder by `cp -rL`"
        raise DataError(problem, source=str(file), remedy=remedy)


def _check_file(file: Path, ref: Ref, beside: set[str]) -> None:
    if file.is_file():
        try:
            check_content(file, beside)
        except DataError as error:
            if not _is_whole(file, ref):
                raise _damaged(file, ref) from error
            raise


def _model_files(folder: Path) -> Iterator[str]:
    """Yield the paths of a model's own files, hidden ones aside; a link to a folder is not followed."""
    for top, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != INNER and not name.startswith(".")]
        yield from (Path(top, name).relative_to(folder).as_posix() for name in names if not name.startswith("."))


def _is_whole(file: Path, ref: Ref) -> bool:
    return file.is_file() and file.stat().st_size == ref.bytes and hash_file(file) == ref.sha256


def _damaged(file: Path, ref: Ref) -> DataError:
    problem = f"{ref.path} is {'damaged' if file.is_file() else 'missing'}"
    return DataError(problem, source=str(file), remedy=_AGAIN)


def _copy_in(file: Path, ref: Ref, store: Store) -> None:
    """Copy a verified file, unless the store has it with the right content (a disk may have damaged it)."""
    if not _is_whole(file, ref):
        raise _damaged(file, ref)
    if store.backend.size(ref.path) != ref.bytes or store.content(ref.path) != ref.sha256:
        store.backend.put_file(ref.path, file)
