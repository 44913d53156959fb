"""What a model's folder may hold: safetensors, JSON, and the plain text beside them; nothing that runs when it is read.

A model comes from elsewhere: imported, downloaded, or a folder that somebody names. A pickle or code is refused by its
name, and so is JSON that would lead a library to either: an index of shards that names other files than safetensors
beside it, or a configuration that names classes of the folder's own (`auto_map`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from components.core.errors import DataError

SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja", ".md")
INDEX = ".index.json"
ADAPTER = "adapter_config.json"
_TENSORS = "save it as safetensors (`save_pretrained` does), in that folder"
_OURS = "only transformers' and diffusers' own classes are run"


def allowed(name: str) -> bool:
    """Return whether a model may hold a file of this name."""
    path = PurePosixPath(name)
    return path.suffix in SUFFIXES or path.name == "LICENSE"


def check_model(names: Sequence[str], source: str) -> None:
    """Check the names of the files that `from_pretrained` is to open. Raises DataError: as the two checks below."""
    check_names(names, source)
    refuse_adapter(names, source)


def refuse_adapter(names: Container[str], source: str) -> None:
    """Raise DataError where low-rank updates lie beside a model: transformers would lay them over it unasked."""
    if ADAPTER in names:
        problem, remedy = f"{ADAPTER} beside a model's own files", "merge the adapter into the model, or remove it"
        raise DataError(problem, source=source, remedy=remedy)


def check_names(names: Sequence[str], source: str, suffixes: Sequence[str] = ()) -> None:
    """Check the names of a model's files, or of others that have one of `suffixes`.

    Raises DataError: a name of another kind, or one that two files have.
    """
    wrong = [name for name in names if not (name.endswith(tuple(suffixes)) if suffixes else allowed(name))]
    if wrong:
        known = ", ".join(suffixes or (*SUFFIXES, "LICENSE"))
        remedy = f"only {known} belong here: save weights as safetensors, and leave out pickles and code"
        raise DataError(f"{', '.join(wrong)}: refused by name", source=source, remedy=remedy)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"two files called {', '.join(twice)}", source=source, remedy="keep the one that belongs there")


def check_content(file: Path, beside: Container[str]) -> None:
    """Check that a model's file is what its name says, and leads to nothing else.

    Args:
        file: where it lies, under its own name.
        beside: the names of the files that lie with it.

    Raises:
        DataError: safetensors or JSON that is none; an index as in `check_index`; a configuration that names code.
    """
    name = file.name
    if name.endswith(".safetensors"):
        check_safetensors(file)
    elif name.endswith(INDEX):
        check_index(file, beside)
    elif name.endswith(".json"):
        found = _json(file)
        if "config" in name and (code := sorted(set(named_code(found)))):
            problem = f"{name} names code: {', '.join(code)}"
            raise DataError(problem, source=str(file), remedy=f"remove it: {_OURS}")


def check_safetensors(file: Path) -> None:
    """Check a file's header against its size. Raises DataError: it is no safetensors file."""
    try:
        with safe_open(file, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file.name} is no safetensors file: {error}", source=str(file), remedy=_TENSORS) from error


def check_index(file: Path, beside: Container[str]) -> None:
    """Check the shards that an index names: safetensors that lie beside it.

    Raises DataError: no index, or it names anything else: a pickle, a file elsewhere, one that is not there.
    """
    found = _json(file)
    shards = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(shards, dict):
        raise DataError(f"{file.name} has no weight_map", source=str(file), remedy="save the model again")
    named = sorted({str(name) for name in shards.values()})
    if wrong := [name for name in named if not name.endswith(".safetensors") or name not in beside]:
        problem = f"{file.name} names {', '.join(wrong)}, not safetensors beside it"
        raise DataError(problem, source=str(file), remedy=_TENSORS)


def named_code(value: Any) -> Iterator[str]:
    """Yield what a configuration names of code that is not the libraries' own, at any depth."""
    items: Iterable[Any] = value if isinstance(value, list) else ()
    if isinstance(value, dict):
        if "auto_map" in value:
            yield "auto_map"
        parent = value.get("parent_library")  # peft imports it
        if isinstance(parent, str) and parent.partition(".")[0] != "transformers":
            yield f"parent_library {parent!r}"
        items = value.values()
    for item in items:
        yield from named_code(item)


def without_code(value: Any) -> Any:
    """Return a configuration without any `auto_map`."""
    if isinstance(value, dict):
        return {name: without_code(item) for name, item in value.items() if name != "auto_map"}
    return [without_code(item) for item in value] if isinstance(value, list) else value


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file.name} is no JSON: {error}", source=str(file), remedy="save the model again") from error
