"""A folder as a store or a source (`file:///…`). Writes are atomic: a temporary file, then a rename."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeAlias

from components.store.backend import Backend, Listed, disk_error

log = logging.getLogger(__name__)
DirEntry: TypeAlias = "os.DirEntry[str]"


class FileBackend:
    """A folder (`file:///…`). Writes are atomic: a temporary file, then a rename."""

    def __init__(self, root: Path) -> None:
        self.root, self.uri = root, root.as_uri()

    def get(self, path: str) -> bytes | None:
        """Return the object's bytes, or None."""
        return None if (file := self.local(path)) is None else file.read_bytes()

    def read(self, path: str, offset: int, length: int) -> bytes | None:
        """Return up to `length` bytes from `offset` on, or None."""
        if (file := self.local(path)) is None:
            return None
        with file.open("rb") as handle:
            handle.seek(offset)
            return handle.read(length)

    def put(self, path: str, data: bytes) -> None:
        """Write atomically; a full disk is `TryAgainError`."""
        with self._target(path) as handle:
            handle.write(data)

    def put_file(self, path: str, local: Path) -> None:
        """Copy a local file in."""
        with self._target(path) as handle, local.open("rb") as source:
            shutil.copyfileobj(source, handle, 1 << 20)

    @contextmanager
    def _target(self, path: str) -> Iterator[BinaryIO]:
        """Open a file that appears whole or not at all."""
        target, temporary = self.root / path, None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=target.parent)
            temporary = Path(name)
            with os.fdopen(descriptor, "wb") as handle:
                yield handle
            temporary.chmod(0o644)
            temporary.replace(target)
        except BaseException as error:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise disk_error(error, target, f"store={self.uri}", "free space (`store gc`)") from error
            raise

    def local(self, path: str) -> Path | None:
        """Return the file itself, or None."""
        file = self.root / path
        return file if file.is_file() else None

    def release(self, path: str) -> None:
        """Do nothing: `local` is the file itself."""

    def size(self, path: str) -> int | None:
        """Return the size in bytes, or None."""
        return None if (file := self.local(path)) is None else file.stat().st_size

    def modified(self, path: str) -> float | None:
        """Return the time of the last write in seconds since 1970, or None."""
        try:
            return (self.root / path).stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None

    def walk(self, prefix: str = "") -> Iterator[Listed]:
        """Yield all files below `prefix`, folder by folder in the order of names; links to folders are followed."""
        inside = PurePosixPath(prefix)
        for path, file in _files(self.root / inside, "" if inside == PurePosixPath() else f"{inside}/"):
            try:
                path.encode()
                stat = file.stat()
            except UnicodeEncodeError:  # no annotation and no manifest can name it
                log.warning("%s: %r left out, the name is not UTF-8", self.uri, path)
                continue
            except FileNotFoundError:  # deleted by another process since
                continue
            yield Listed(path, stat.st_size, str(stat.st_mtime_ns), stat.st_mtime)

    def folders(self) -> list[str]:
        """Return the names of the folders at the root."""
        return [path.name for path in self.root.glob("*") if path.is_dir()]

    def delete(self, path: str) -> None:
        """Remove an object if it is there."""
        (self.root / path).unlink(missing_ok=True)

    def delete_all(self, paths: Iterable[str]) -> None:
        """Remove the objects that are there, one after another."""
        for path in paths:
            self.delete(path)

    def copy_from(self, source: Backend, path: str, target: str) -> bool:
        """Return False: nothing is faster than an ordinary copy here."""
        return False


def _files(folder: str | Path, inside: str, above: tuple[tuple[int, int], ...] = ()) -> Iterator[tuple[str, DirEntry]]:
    """Yield the files below a folder, their paths beginning with `inside`; it is read as the files are asked for.

    Links are followed, but for one that leads back to a folder that it lies in (`above`, by device and inode).
    """
    try:
        stat, entries = os.stat(folder), sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # deleted since, no folder, or another user's
        return
    if (here := (stat.st_dev, stat.st_ino)) in above:
        return
    for entry in entries:
        linked = entry.is_symlink()
        if os.path.isdir(entry) if linked else entry.is_dir():
            yield from _files(entry.path, f"{inside}{entry.name}/", (*above, here))
        elif not entry.name.startswith(".tmp-") and (os.path.isfile(entry) if linked else entry.is_file()):
            yield f"{inside}{entry.name}", entry
