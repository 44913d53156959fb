"""Published checkpoints at their pinned commits, from the hub into the models' folder: whole, verified and recorded, or not there at all.

`python -m components.models.fetch`, a Kubernetes Job, takes `MODELS` (names of the registry, blanks between),
`MODELS_DIR` and optionally `HF_TOKEN` and `HF_ENDPOINT` from the environment. Files come into `.partial-<name>`, where
the next try goes on; each is compared with the hash that the hub lists; then the folder is renamed and `.revision.json`
says what it is. No pickle and no code is ever downloaded. Several at once take turns.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from components.core.errors import MotionEnhancerError, ParameterError, TryAgainError
from components.core.job import run_job
from components.core.records import canonical_json
from components.models.family import Checkpoint
from components.models.registry import CHECKPOINTS, RECORD, Fetched, recorded
from components.store.entries import hash_file

log = logging.getLogger(__name__)
_SUFFIXES = {".safetensors", ".json", ".txt", ".model", ".jinja"}
_WAIT_SECONDS, _LOG_SECONDS = 5.0, 30.0


@dataclass(frozen=True)
class HubFile:
    """A file of a repository at a commit: bytes, and its sha256 (large files) or Git's own hash of it."""

    path: str
    size: int
    sha256: str | None
    git: str

    def is_wrong(self, folder: Path) -> bool:
        """Whether the local file is missing or differs from what the hub lists."""
        file = folder / self.path
        if not file.is_file() or file.stat().st_size != self.size:
            return True
        if self.sha256:
            return hash_file(file) != self.sha256
        data = file.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() != self.git


def fetch(name: str, root: Path) -> Path:
    """Bring one checkpoint of the registry into `<root>/<name>`; returns that folder.

    A folder that is whole and of the pinned commit stays as it is, and so does one that was put there by hand.

    Raises:
        ParameterError: no such checkpoint, the hub wants a licence accepted or knows no such commit, or the folder
            cannot be written.
        TryAgainError: the hub does not answer, the disk is full, or a file arrived damaged.
    """
    if name not in CHECKPOINTS:
        remedy = f"one of: {', '.join(CHECKPOINTS)} (tiny-… are made where they are used)"
        raise ParameterError(f"no checkpoint {name!r} in the registry", source="models fetch", remedy=remedy)
    known, target, partial = CHECKPOINTS[name], root / name, root / f".partial-{name}"
    with _told(known, root), _turn(root, name):
        if _settled(name, target):
            return target
        if target.is_dir() and not partial.exists() and (old := recorded(target)) and old.revision == known.revision:
            target.rename(partial)  # damaged: what is whole of it need not come again
        files = _listing(known)
        _require_space(files, partial, root)
        with _heartbeat(name, partial, sum(file.size for file in files)):
            _download(known, files, partial)
        _seal(known, files, partial)
        _swap(partial, target)
    log.info("%s: %s at %s is in %s", name, known.repository, known.revision, target)
    return target


def _settled(name: str, target: Path) -> bool:
    if not target.is_dir():
        return False
    found, known = recorded(target), CHECKPOINTS[name]
    if found is None:
        log.warning(
            "%s was put there by hand: it is left alone, and known by its content instead of the registry's commit",
            target,
        )
        return True
    if (found.repository, found.revision) == (known.repository, known.revision) and not found.wrong(target):
        log.info("%s is there", name)
        return True
    return False


# The hub --------------------------------------------------------------------------------------------------------------


def _prepare() -> None:
    """What the hub's client reads when it is imported."""
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # plain HTTP: a file that broke off goes on where it stopped
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # `_heartbeat` says how far it is


def _listing(known: Checkpoint) -> list[HubFile]:
    """The files we take: weights, configurations, tokenizers, the licence."""
    from huggingface_hub.hf_api import HfApi, RepoFile

    api, found = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None), []
    for item in api.list_repo_tree(known.repository, recursive=True, revision=known.revision):
        if isinstance(item, RepoFile) and _taken(item.path):
            found.append(HubFile(item.path, item.size, item.lfs.sha256 if item.lfs else None, item.blob_id))
    if not any(file.path.endswith(".safetensors") for file in found):
        raise ParameterError(
            f"no safetensors in {known.repository} at {known.revision}",
            source="model hub",
            remedy="pin a commit that has them",
        )
    return found


def _taken(path: str) -> bool:
    parts = PurePosixPath(path)
    hidden = any(part.startswith(".") for part in parts.parts)
    return not hidden and (parts.suffix in _SUFFIXES or parts.name.upper().startswith("LICENSE"))


def _download(known: Checkpoint, files: list[HubFile], partial: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(
        known.repository,
        revision=known.revision,
        local_dir=partial,
        allow_patterns=[file.path for file in files],
        endpoint=os.environ.get("HF_ENDPOINT") or None,
    )


@contextmanager
def _told(known: Checkpoint, root: Path) -> Iterator[None]:
    """Errors of the hub and of the disk as what a person can do about them. No message holds the token."""
    _prepare()
    import httpx
    from huggingface_hub import errors

    page = f"https://huggingface.co/{known.repository}"
    again = "run again when the hub answers: it goes on where it stopped"
    try:
        yield
    except MotionEnhancerError:
        raise
    except errors.OfflineModeIsEnabled as error:
        raise ParameterError(
            "HF_HUB_OFFLINE forbids downloads", source="environment", remedy="set HF_HUB_OFFLINE=0"
        ) from error
    except errors.RevisionNotFoundError as error:
        problem = f"the hub has no commit {known.revision} of {known.repository}"
        raise ParameterError(
            problem, source=page, remedy="put the model's files under MODELS_DIR by hand, or pin another commit"
        ) from error
    except errors.HfHubHTTPError as error:
        raise _refused(known, page, again, error.response.status_code) from error
    except (errors.LocalEntryNotFoundError, errors.FileMetadataError, httpx.HTTPError) as error:
        raise _unanswered(known, page, again, error) from error
    except OSError as error:
        raise _disk(error, root, again) from error


def _refused(known: Checkpoint, page: str, again: str, status: int) -> MotionEnhancerError:
    if status in (401, 403, 404):  # a private or unknown repository is a 401 for who shows no token
        remedy = f"accept the licence at {page} and give the token of that account as HF_TOKEN"
        return ParameterError(
            f"the hub does not give out {known.repository} (status {status})", source=page, remedy=remedy
        )
    if status == 429 or status >= 500:
        return TryAgainError(f"the hub answered {status}", source=page, remedy=again)
    return ParameterError(f"the hub answered {status}", source=page, remedy="check HF_ENDPOINT")


def _unanswered(known: Checkpoint, page: str, again: str, error: Exception) -> MotionEnhancerError:
    """What stopped a file: the hub's own refusal if the client met one, else that it was not reached."""
    cause = error.__cause__
    if (response := getattr(cause, "response", None)) is not None:
        return _refused(known, page, again, response.status_code)
    return TryAgainError(f"the hub did not answer: {type(cause or error).__name__}", source=page, remedy=again)


def _disk(error: OSError, root: Path, again: str) -> MotionEnhancerError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TryAgainError("no space left", source=str(root), remedy="free or enlarge it, then run again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        problem = f"cannot write {error.filename or root}: {error.strerror}"
        return ParameterError(problem, source="MODELS_DIR", remedy="give a folder that this user may write")
    return TryAgainError(
        f"{type(error).__name__}: {error.strerror or 'the connection broke'}", source=str(root), remedy=again
    )


# The disk -------------------------------------------------------------------------------------------------------------


@contextmanager
def _turn(root: Path, name: str) -> Iterator[None]:
    """One fetch of a model at a time, also between pods that share the volume (NFS and CephFS carry such locks)."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / f".lock-{name}").open("w") as handle:
        waited = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    log.info("%s: another fetch is at work on it, waiting", name)
                waited = True
                time.sleep(_WAIT_SECONDS)
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                log.warning("%s has no locks: let no second fetch run beside this one", root)
                break
        yield


def _require_space(files: list[HubFile], partial: Path, root: Path) -> None:
    needed, free = sum(file.size for file in files) - _size(partial), shutil.disk_usage(root).free
    if needed > free:
        problem = f"{needed / 1e9:.1f} GB to come, {free / 1e9:.1f} GB free"
        raise TryAgainError(problem, source=str(root), remedy="free or enlarge it, then run again")


def _size(folder: Path) -> int:
    """Bytes below a folder; files may come and go meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_size
            except FileNotFoundError:
                continue
    return total


@contextmanager
def _heartbeat(name: str, partial: Path, total: int) -> Iterator[None]:
    """A log line every 30 s: how much is there, how fast, how long it will take."""
    ended, start, before = threading.Event(), time.monotonic(), _size(partial)

    def beat() -> None:
        while not ended.wait(_LOG_SECONDS):
            done = _size(partial)
            rate = max(1.0, (done - before) / (time.monotonic() - start))
            log.info(
                "%s: %.1f/%.1f GB, %.0f MB/s, %.0f s left",
                name,
                done / 1e9,
                total / 1e9,
                rate / 1e6,
                (total - done) / rate,
            )

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _seal(known: Checkpoint, files: list[HubFile], partial: Path) -> None:
    """Compare every file with the hub's hash, remove what does not belong, and write the record."""
    if wrong := [file.path for file in files if file.is_wrong(partial)]:
        for path in wrong:  # without its notes the client takes it anew
            (partial / path).unlink(missing_ok=True)
            (partial / ".cache/huggingface/download" / f"{path}.metadata").unlink(missing_ok=True)
        problem = f"{len(wrong)} files of {known.repository} arrived damaged, {wrong[0]} among them"
        raise TryAgainError(problem, source=str(partial), remedy="run again: only they come anew")
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    wanted = {file.path for file in files}
    for file in [
        item for item in partial.rglob("*") if item.is_file() and item.relative_to(partial).as_posix() not in wanted
    ]:
        file.unlink()  # of an earlier commit
    hashes = {file.path: (file.size, file.sha256 or hash_file(partial / file.path)) for file in files}
    record = Fetched(repository=known.repository, revision=known.revision, files=dict(sorted(hashes.items())))
    (partial / RECORD).write_bytes(canonical_json(record.model_dump(mode="json")))


def _swap(partial: Path, target: Path) -> None:
    """The new folder under the model's name; one of another commit goes."""
    old = target.with_name(f".old-{target.name}")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    """All models of the environment's `MODELS`.

    Raises:
        ParameterError: none are named, or as `fetch`.
        TryAgainError: as `fetch`.
    """
    names = os.environ.get("MODELS", "").split()
    if not names:
        raise ParameterError("MODELS names no model", source="environment", remedy=f"some of: {' '.join(CHECKPOINTS)}")
    for name in names:
        fetch(name, Path(os.environ.get("MODELS_DIR") or "/models"))


if __name__ == "__main__":
    sys.exit(run_job("models fetch", main))
