"""The cards of the small models: `README.md` from a template, and `training.json`, the same facts for programs.

The digest names the model's files (all but these two, which cannot name themselves); `read` recomputes it, so that a
card is true or refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from safetensors import safe_open

from components.core.errors import DataError
from components.core.records import Digest, Json, Record, canonical_json, sha256
from components.synthetic.recipe import Optimization

PAGE, RECORD = "README.md", "training.json"
LICENCE = "Apache-2.0"


class BaseCard(Record):
    """What a checkpoint is and how it was made.

    `files` holds bytes and sha256 by path, `parameters` their number by the folder of the weights.
    """

    licence: str
    scene_seed: int
    reserved_seeds: tuple[int, int]
    validation_seed: int
    parameters: dict[str, int]
    files: dict[str, tuple[int, Digest]]
    digest: Digest


C = TypeVar("C", bound=BaseCard)


def write(folder: Path, kind: type[C], page: Callable[[C], str], seeds: range, seed: int, **own: Any) -> C:
    """Describe the model in `folder`, trained on seed number `seed` of the reserved `seeds`; writes both files."""
    files = _files(folder)
    card = kind(
        licence=LICENCE,
        scene_seed=seeds[seed],
        reserved_seeds=(seeds[0], seeds[-1]),
        validation_seed=seeds[-1],
        parameters=_parameters(folder),
        files=files,
        digest=_digest(files),
        **own,
    )
    (folder / RECORD).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (folder / PAGE).write_text(page(card), encoding="utf-8")
    return card


def read(folder: Path | str, kind: type[C], page: Callable[[C], str]) -> C:
    """Return the card of a checkpoint, checked against its files.

    Raises:
        DataError: no card, or one that is not true of the folder: names the first file that differs.
    """
    folder = Path(folder)
    remedy = "train again, or take the checkpoint as it was published"
    try:
        card = kind.model_validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(f"no card: {error}", source=str(folder / RECORD), remedy=remedy) from error
    found = _files(folder)
    for path in sorted({*found, *card.files}):
        if found.get(path) != card.files.get(path):
            problem = f"{path} is {found.get(path, 'missing')}, the card says {card.files.get(path, 'nothing of it')}"
            raise DataError(problem, source=str(folder), remedy=remedy)
    page_file = folder / PAGE
    if card.digest != _digest(found) or not page_file.is_file() or page_file.read_text(encoding="utf-8") != page(card):
        raise DataError("digest or page disagree with the record", source=str(folder), remedy=remedy)
    return card


def facts(card: BaseCard, recipe: Optimization, module: str) -> Json:
    """Return what the pages of all models hold, by the names in their templates; `module` is the training's."""
    changed = recipe.model_dump(exclude_defaults=True)
    options = [f"--{name.replace('_', '-')} {value}" for name, value in changed.items()]
    files = [f"| `{path}` | {size} | `{digest}` |" for path, (size, digest) in sorted(card.files.items())]
    return {
        **recipe.model_dump(),
        **card.model_dump(include={"licence", "digest", "scene_seed", "validation_seed"}),
        "command": " ".join([f"python -m {module} FOLDER", *options]),
        "first_seed": card.reserved_seeds[0],
        "last_seed": card.reserved_seeds[1],
        "parameters": ", ".join(f"{part} {count:,}" for part, count in card.parameters.items()),
        "all_parameters": f"{sum(card.parameters.values()):,}",
        "megabytes": f"{sum(size for size, _ in card.files.values()) / 1e6:.2f}",
        "files": "\n".join(files),
    }


def _files(folder: Path) -> dict[str, tuple[int, str]]:
    """Bytes and sha256 of the model's files: all but the card and hidden ones."""
    found: dict[str, tuple[int, str]] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        if name not in (RECORD, PAGE) and not any(part.startswith(".") for part in file.relative_to(folder).parts):
            data = file.read_bytes()
            found[name] = (len(data), sha256(data))
    return found


def _digest(files: dict[str, tuple[int, str]]) -> str:
    return sha256(canonical_json([[path, digest] for path, (_, digest) in sorted(files.items())]))


def _parameters(folder: Path) -> dict[str, int]:
    """Parameters of each part, counted in its file."""
    counts: dict[str, int] = {}
    for file in sorted(folder.rglob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
        counts[file.parent.name if file.parent != folder else "model"] = sum(map(math.prod, shapes))
    return counts
