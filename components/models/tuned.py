"""A tuned VLM between a folder that plain `from_pretrained` opens and the store's files, named after their content.

`model.safetensors` is stored as `model-<16 hex>.safetensors`; the name comes back by cutting the hash out again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from components.core.errors import DataError
from components.core.records import Ref
from components.store.entries import Store, WorkFolder
from components.store.model_files import check_names
from components.store.transfer import original_name


def stow(folder: Path, work: WorkFolder) -> list[str]:
    """Write a folder's files into a piece of work, one at a time, and return their roles in order of name.

    Raises:
        DataError: two files differ in their extension only, or one has none, so that a role would not name one file.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file())
    roles = [file.stem for file in files]
    if len(set(roles)) != len(roles) or any(not file.suffix for file in files):
        problem = f"file names that a role cannot tell apart: {[file.name for file in files]}"
        raise DataError(problem, source=folder.name, remedy="rename or remove the extra file")
    for file in files:
        work.put(file.stem, file.suffix[1:], file.read_bytes())
    return roles


def configuration(files: Sequence[Ref], store: Store) -> Path:
    """Return a verified copy of the model's `config.json`; DataError where it is missing or damaged."""
    found = next((ref for ref in files if original_name(ref) == "config.json"), None)
    if found is None:
        raise DataError("no config.json", source="the tuned model's manifest", remedy="import or train the model again")
    return store.fetch(found)


def materialize(files: Sequence[Ref], store: Store, folder: Path) -> Path:
    """Put verified files under their original names into `folder`, as links where possible, and return the folder.

    Raises:
        DataError: a file that no model has, by its name, or two of one name; one is missing or damaged.
    """
    check_names([original_name(ref) for ref in files], "the tuned model's manifest")
    folder.mkdir(parents=True, exist_ok=True)
    for ref in files:
        source, target = store.fetch(ref), folder / original_name(ref)
        try:
            target.symlink_to(source.absolute())
        except OSError:  # a file system without links
            shutil.copyfile(source, target)
    return folder
