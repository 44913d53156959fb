"""The code that steps run, as one digest: the image of a local run, and the part of a store for uncommitted code."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from components.core.errors import ParameterError
from components.core.records import canonical_json, sha256

ROOT = Path(__file__).resolve().parents[2]


def tree_digest(root: Path) -> str:
    """Return the digest of the code that steps run (`components/` and `pipeline.py`), 64 hex."""
    names = sorted([*(root / "components").rglob("*"), root / "pipeline.py"])
    parts = [
        [path.relative_to(root).as_posix(), sha256(path.read_bytes())]
        for path in names
        if path.is_file() and "__pycache__" not in path.parts
    ]
    return sha256(canonical_json(parts))


def tree_is_dirty(root: Path) -> bool:
    """Return whether git sees uncommitted changes in the code that steps run; not in an image, or without git.

    Raises ParameterError: there is a checkout, but git does not look at it.
    """
    command = ["git", "-C", str(root), "status", "--porcelain", "--", "components", "pipeline.py"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    except FileNotFoundError:
        return False
    if answer.returncode and "not a git repository" not in answer.stderr:
        problem = f"git cannot see whether the code was edited: {answer.stderr.strip()}"
        remedy = f"run as the owner of the checkout, or `git config --global --add safe.directory {root}`"
        raise ParameterError(problem, source=str(root), remedy=remedy)
    return bool(answer.stdout.strip())


def own_part(uri: str) -> str:
    """Return where a store keeps the results of this code while it has uncommitted changes."""
    return f"{uri}/dev-{tree_digest(ROOT)[:16]}"


def run_store(uri: str) -> str:
    """Return the store of this tree. Uncommitted code works in a part of its own: it meets no stale result."""
    return own_part(uri) if tree_is_dirty(ROOT) else uri
