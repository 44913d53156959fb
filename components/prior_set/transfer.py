"""Prior sets and tuned models as folders: export, import, and `read_priors`.

An exported prior set holds `README.md` (the card), `samples.jsonl` (a line a sample), `manifest.json`, and every file under its path in
the store. An exported model is what plain `from_pretrained` opens, with `motion_enhancer/` beside it for import.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from components.core.artifacts import Manifest, PriorLine, PriorSet, TunedModel, parse_manifest
from components.core.errors import DataError, ParameterError
from components.core.progress import track
from components.core.records import Grid, Ref, Sample, ScoredPiece, sha256
from components.core.store import Store, hash_file
from components.models.tensors import unpack
from components.models.tuned import original_name
from components.prior_set.card import card

_INNER = "motion_enhancer"


def references(value: Any) -> Iterator[Ref]:
    """Every file that a manifest names, in order, with repeats."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from references(item)
    elif hasattr(type(value), "model_fields"):
        for name in type(value).model_fields:
            yield from references(getattr(value, name))


def _unique(manifest: Manifest) -> list[Ref]:
    return list({ref.path: ref for ref in references(manifest)}.values())


def _copy_out(store: Store, refs: list[Ref], folder: Path) -> None:
    for ref in track(refs, "export"):
        target = folder / ref.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(store.read(ref))


def _fresh(folder: Path) -> Path:
    if folder.exists() and any(folder.iterdir()):
        raise ParameterError(f"{folder} is not empty", source="export", remedy="give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def export_priors(store: Store, priors: PriorSet, folder: Path, *, videos: bool = True) -> None:
    """Write a prior set with all its files (and videos) into an empty folder."""
    _fresh(folder)
    refs = [ref for ref in _unique(priors) if videos or not ref.path.startswith("videos/")]
    _copy_out(store, refs, folder)
    (folder / "manifest.json").write_bytes(priors.to_bytes())
    (folder / "README.md").write_text(card(priors))
    lines = [json.dumps(line.model_dump(mode="json"), sort_keys=True, ensure_ascii=False) for line in priors.lines]
    (folder / "samples.jsonl").write_text("".join(line + "\n" for line in lines))


def export_model(store: Store, model: TunedModel, folder: Path) -> None:
    """Write a tuned model so that plain `from_pretrained(folder)` opens it; aligner, log and manifest lie in `motion_enhancer/`."""
    _fresh(folder)
    inner = folder / _INNER
    inner.mkdir()
    for ref in model.files:
        (folder / original_name(ref)).write_bytes(store.read(ref))
    for ref in [*model.aligner, model.log]:
        (inner / original_name(ref)).write_bytes(store.read(ref))
    (inner / "manifest.json").write_bytes(model.to_bytes())


def import_priors(folder: Path, store: Store, *, videos: bool = True) -> str:
    """Bring an exported prior set into a store; returns its manifest's digest.

    Raises:
        DataError: a file is missing or damaged; without `videos`, a video that the store does not hold.
    """
    priors = parse_manifest(_manifest_bytes(folder), PriorSet, str(folder / "manifest.json"))
    for ref in track(_unique(priors), "import"):
        if ref.path.startswith("videos/") and not videos:
            if not store.present(ref):
                raise DataError(f"the store has no {ref.path}", source=store.uri, remedy="import with the videos")
            continue
        _copy_in(folder / ref.path, ref, store)
    return store.publish(priors)


def _manifest_bytes(folder: Path) -> bytes:
    file = folder / "manifest.json"
    if not file.is_file():
        raise DataError(f"no {file.name}", source=str(folder), remedy="give a folder that `motion-enhancer export` wrote")
    return file.read_bytes()


def _copy_in(file: Path, ref: Ref, store: Store) -> None:
    if not file.is_file() or hash_file(file) != ref.sha256:
        raise DataError(f"{ref.path} is {'damaged' if file.is_file() else 'missing'}", source=str(file), remedy="export it again")
    if store.backend.size(ref.path) != ref.bytes:
        store.backend.put_file(ref.path, file)


@dataclass(frozen=True)
class Prior:
    """One sample of an exported prior set. `map_TFHW` is A_VDM, density relative to uniform."""

    sample: Sample
    pieces: list[ScoredPiece]
    grid: Grid
    confidence: float
    map_TFHW: Float[Tensor, "T F H W"]
    video: Path


def read_priors(folder: Path | str) -> Iterator[Prior]:
    """Iterate over an exported prior set: each sample's words, scores and maps, verified.

    Raises:
        DataError: the folder is no export, or a file is damaged.
    """
    folder = Path(folder)
    priors = parse_manifest(_manifest_bytes(folder), PriorSet, str(folder))
    for line in priors.lines:
        yield _prior(folder, line)


def _prior(folder: Path, line: PriorLine) -> Prior:
    file = folder / line.prior.path
    data = file.read_bytes() if file.is_file() else b""
    if sha256(data) != line.prior.sha256:
        raise DataError(f"{line.prior.path} is damaged or missing", source=str(folder), remedy="export it again")
    tensors = unpack(data)
    return Prior(line.sample, line.pieces, line.grid, line.confidence.value, tensors["prior"], folder / line.video.file.path)
