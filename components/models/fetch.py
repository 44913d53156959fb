"""Published checkpoints at their pinned commits, from the hub into the models' folder: whole and verified, or absent.

`python -m components.models.fetch`, a Kubernetes Job, takes `MODELS` (names of the registry, blanks between),
`MODELS_DIR` and optionally `HF_TOKEN` and `HF_ENDPOINT` from the environment. The hub's own client downloads into
`.partial-<name>`, where a retry continues, and compares every file with the hub's hash; then the folder is renamed.
`.revision.json` records what it is. No pickle and no code is ever downloaded. Several at once take turns.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from components.core.errors import MotionEnhancerError, ParameterError, TryAgainError
from components.core.job import run_job
from components.core.records import canonical_json
from components.core.units import readable_bytes
from components.models.family import Checkpoint
from components.models.registry import CHECKPOINTS, RECORD, Fetched, recorded
from components.store.entries import hash_file

log = logging.getLogger(__name__)
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "LICENSE", "*/LICENSE", "LICENSE*.md"]
_HIDDEN = [".*", "*/.*"]
_LOG_SECONDS = 30.0


def fetch(name: str, root: Path) -> Path:
    """Bring one checkpoint of the registry into `<root>/<name>` and return that folder.

    A folder that is whole and of the pinned commit stays as it is, and so does one that was put there by hand.

    Raises:
        ParameterError: no such checkpoint, the hub wants a licence accepted or knows no such commit, or the folder
            cannot be written.
        TryAgainError: the hub does not answer, the disk is full, or a file arrived damaged.
    """
    if name not in CHECKPOINTS:
        remedy = f"one of: {', '.join(CHECKPOINTS)} (tiny-… are made where they are used)"
        raise ParameterError(f"no checkpoint {name!r} in the registry", source="models fetch", remedy=remedy)
    known, target = CHECKPOINTS[name], root / name
    partial, earlier = root / f".partial-{name}", root / f".old-{name}"
    with _hub_errors(known, root):
        from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined] # exported on first use

        root.mkdir(parents=True, exist_ok=True)
        # one fetch of a model at a time, also between pods that share the volume
        with WeakFileLock(root / f".lock-{name}"):
            if _settled(name, target):
                log.info("%s is there", name)
                return target
            if not partial.exists() and (old := recorded(target)) and old.revision == known.revision:
                target.rename(partial)  # damaged: what is whole of it need not come again
            _download(known, partial, root)
            _verify(known, partial)
            shutil.rmtree(earlier, ignore_errors=True)
            if target.exists():  # another commit
                target.rename(earlier)
            partial.rename(target)
            shutil.rmtree(earlier, ignore_errors=True)
    log.info("%s: %s at %s is in %s", name, known.repository, known.revision, target)
    return target


def _settled(name: str, target: Path) -> bool:
    if not target.is_dir():
        return False
    found, known = recorded(target), CHECKPOINTS[name]
    if found is None:
        log.warning("%s was put there by hand: it stays, and its content names it instead of the pinned commit", target)
        return True
    return (found.repository, found.revision) == (known.repository, known.revision) and not found.wrong(target)


def _download(known: Checkpoint, partial: Path, root: Path) -> None:
    """Download what is missing, after a look at the space it takes; remove what does not belong."""
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {
        "repo_id": known.repository,
        "revision": known.revision,
        "local_dir": partial,
        "allow_patterns": _WANTED,
        "ignore_patterns": _HIDDEN,
        "endpoint": os.environ.get("HF_ENDPOINT") or None,
        "tqdm_class": None if sys.stderr.isatty() else _LogProgress,
    }
    listed = {item.filename: item for item in snapshot_download(**options, dry_run=True)}
    if not any(path.endswith(".safetensors") for path in listed):
        problem = f"no safetensors in {known.repository} at {known.revision}"
        raise ParameterError(problem, source="model hub", remedy="pin a commit that has them")
    needed, free = sum(item.file_size for item in listed.values() if item.will_download), shutil.disk_usage(root).free
    if needed > free:
        problem = f"{readable_bytes(needed)} to come, {readable_bytes(free)} free"
        raise TryAgainError(problem, source=str(root), remedy="free or enlarge it, then run again")
    snapshot_download(**options)
    shutil.rmtree(partial / ".cache", ignore_errors=True)  # the client's notes
    for path in _files(partial).keys() - listed.keys():
        (partial / path).unlink()  # of an earlier commit


def _verify(known: Checkpoint, partial: Path) -> None:
    """Compare every file with the hub's hash, and write the record."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    found = api.verify_repo_checksums(known.repository, revision=known.revision, local_dir=partial)
    if wrong := [item["path"] for item in found.mismatches]:
        for path in wrong:
            (partial / path).unlink()
        problem = f"{len(wrong)} files of {known.repository} arrived damaged, {wrong[0]} among them"
        raise TryAgainError(problem, source=str(partial), remedy="run again: they come anew")
    hashes = {path: (size, hash_file(partial / path)) for path, size in sorted(_files(partial).items())}
    record = Fetched(repository=known.repository, revision=known.revision, files=hashes)
    (partial / RECORD).write_bytes(canonical_json(record.model_dump(mode="json")))


def _files(folder: Path) -> dict[str, int]:
    """Return size in bytes of every file below a folder, by path."""
    files = (item for item in folder.rglob("*") if item.is_file())
    return {item.relative_to(folder).as_posix(): item.stat().st_size for item in files}


class _LogProgress(tqdm):  # type: ignore[type-arg]
    """The hub client's bar of bytes as log lines, at most one per 30 s."""

    logged = float("-inf")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "file": io.StringIO()})

    def display(self, *_: Any, **__: Any) -> None:
        """Log the bar instead of drawing it."""
        if self.unit == "B" and self.n and time.monotonic() - _LogProgress.logged >= _LOG_SECONDS:
            _LogProgress.logged = time.monotonic()
            log.info("%s", str(self))


@contextmanager
def _hub_errors(known: Checkpoint, root: Path) -> Iterator[None]:
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # plain HTTP: a file that broke off goes on where it stopped
    import httpx

    try:
        yield
    except MotionEnhancerError:
        raise
    except (OSError, httpx.HTTPError) as error:
        raise _explained(error, known, root) from error


def _explained(error: Exception, known: Checkpoint, root: Path) -> MotionEnhancerError:
    """Turn an error of the hub or of the disk into what a person can do about it. No message holds the token."""
    import httpx
    from huggingface_hub import errors

    page = f"https://huggingface.co/{known.repository}"
    again = "run again when the hub answers: it goes on where it stopped"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return ParameterError("HF_HUB_OFFLINE forbids downloads", source="environment", remedy="set HF_HUB_OFFLINE=0")
    if isinstance(error, errors.RevisionNotFoundError):
        problem = f"the hub has no commit {known.revision} of {known.repository}"
        remedy = "put the model's files under MODELS_DIR by hand, or pin another commit"
        return ParameterError(problem, source=page, remedy=remedy)
    # the client may wrap a refusal into an error of its own
    refusal = error if isinstance(error, errors.HfHubHTTPError) else error.__cause__
    if (response := getattr(refusal, "response", None)) is not None:
        status = response.status_code
        if status in (401, 403, 404):  # a private or unknown repository is a 401 for who shows no token
            problem = f"the hub does not give out {known.repository} (status {status})"
            remedy = f"accept the licence at {page} and give the token of that account as HF_TOKEN"
            return ParameterError(problem, source=page, remedy=remedy)
        if status == 429 or status >= 500:
            return TryAgainError(f"the hub answered {status}", source=page, remedy=again)
        return ParameterError(f"the hub answered {status}", source=page, remedy="check HF_ENDPOINT")
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.FileMetadataError, httpx.HTTPError)):
        problem = f"the hub did not answer: {type(error.__cause__ or error).__name__}"
        return TryAgainError(problem, source=page, remedy=again)
    assert isinstance(error, OSError)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TryAgainError("no space left", source=str(root), remedy="free or enlarge it, then run again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        problem = f"cannot write {error.filename or root}: {error.strerror}"
        return ParameterError(problem, source="MODELS_DIR", remedy="give a folder that this user may write")
    problem = f"{type(error).__name__}: {error.strerror or 'the connection broke'}"
    return TryAgainError(problem, source=str(root), remedy=again)


def main() -> None:
    """Fetch all models of the environment's `MODELS`; raises as `fetch`, and where none are named."""
    names = os.environ.get("MODELS", "").split()
    if not names:
        raise ParameterError("MODELS names no model", source="environment", remedy=f"some of: {' '.join(CHECKPOINTS)}")
    for name in names:
        fetch(name, Path(os.environ.get("MODELS_DIR") or "/models"))


if __name__ == "__main__":
    sys.exit(run_job("models fetch", main))
