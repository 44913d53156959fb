"""Parts of a checkpoint by `from_pretrained`: a folder's safetensors, never a pickle, its own code or the network.

Where a tensor or the vocabulary is missing, the libraries warn and go on with random weights or with `<unk>` for every
word, and the results would be remembered: here that is an error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.core.errors import DataError
from components.store.model_files import INDEX, check_index, refuse_adapter

_REMEDY = "fetch the checkpoint again"
_NAMED = 3  # tensors in a message
_VOCABULARIES = ("tokenizer.json", "spiece.model", "vocab.json")


def read_json(file: Path) -> dict[str, Any] | None:
    """Return the object in a configuration file; None where there is no such file.

    Raises:
        DataError: it holds no JSON object.
    """
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"no JSON: {error}", source=str(file), remedy=_REMEDY) from error
    if not isinstance(content, dict):
        raise DataError(f"no JSON object, but {type(content).__name__}", source=str(file), remedy=_REMEDY)
    return content


def load_part(kind: Any, folder: Path, subfolder: str = "", **options: Any) -> Any:
    """Load a part without weights by `from_pretrained` of `kind`, a class of diffusers or transformers.

    `subfolder` is the part's own folder in the checkpoint's; none where the checkpoint has no parts.

    Raises:
        DataError: a file of the part is missing or cannot be read.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        return kind.from_pretrained(folder, subfolder=subfolder, local_files_only=True, **options)
    except (OSError, ValueError, SafetensorError, StrictDataclassError) as error:
        raise _broken(folder / subfolder, f"cannot be loaded: {error}") from error


def load_weights(kind: Any, folder: Path, subfolder: str = "", **options: Any) -> Any:
    """Load a part with weights; the arguments are those of `load_part`.

    Raises:
        DataError: a file of the part is missing or cannot be read, there are no safetensors, or not every tensor of the
            model is in them with its shape (one that is tied to another need not be); an index names other files than
            safetensors beside it, or an adapter lies there.
    """
    _check_weights(folder, folder / subfolder)
    model, found = load_part(kind, folder, subfolder, use_safetensors=True, output_loading_info=True, **options)
    # diffusers takes an index of shards at its word: what a shard then lacks stays without data
    empty = {name for name, tensor in model.state_dict().items() if tensor.is_meta}
    if lacking := sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])} | empty):
        more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
        problem = f"is not whole, missing or of another shape: {', '.join(lacking[:_NAMED])}{more}"
        raise _broken(folder / subfolder, problem)
    return model


def _check_weights(checkpoint: Path, part: Path) -> None:
    """Refuse what the libraries would open unasked: they take an index at its word, pickles and paths included."""
    refuse_adapter(_names(checkpoint), str(checkpoint))
    refuse_adapter(names := _names(part), str(part))
    for name in sorted(name for name in names if name.endswith(f".safetensors{INDEX}")):
        check_index(part / name, names)


def _names(folder: Path) -> set[str]:
    return {item.name for item in folder.iterdir()} if folder.is_dir() else set()


def load_tokenizer(kind: Any, folder: Path, subfolder: str = "", **options: Any) -> Any:
    """Load a tokenizer; the arguments are those of `load_part`.

    Raises:
        DataError: its files are missing or cannot be read, or its vocabulary is empty.
    """
    where = folder / subfolder
    if not any((where / name).is_file() and (where / name).stat().st_size for name in _VOCABULARIES):
        raise _broken(where, f"has no vocabulary: {', '.join(_VOCABULARIES)} are missing or empty")
    tokenizer = load_part(kind, folder, subfolder, **options)
    control = {token.content for token in tokenizer.added_tokens_decoder.values()}
    if not set(tokenizer.get_vocab()) - control - {"▁"}:
        raise _broken(where, "has an empty vocabulary")
    return tokenizer


def _broken(part: Path, problem: str) -> DataError:
    return DataError(f"the {part.absolute().name} {problem}", source=str(part), remedy=_REMEDY)
