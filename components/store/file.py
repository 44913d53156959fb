"""A folder as a store or a source (`file:///…`). Writes are atomic: a temporary file, then a rename."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from components.store.backend import Backend, Listed, disk_error

log = logging.getLogger(__name__)


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
        """Yield all files below `prefix`, sorted; links to folders are followed."""
        for file in sorted(_files(self.root / prefix)):
            path = file.relative_to(self.root).as_posix()
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

    def copy_from(self, source: Backend, path: str, target: str) -> bool:
        """Return False: nothing is faster than an ordinary copy here."""
        return False


def _files(base: Path) -> Iterator[Path]:
    """Files below a folder, through links as well, but for a link that leads back to a folder that it lies in."""
    above: dict[str, tuple[tuple[int, int], ...]] = {}
    for top, folders, names in os.walk(base, followlinks=True):
        try:
            stat = os.stat(top)
        except FileNotFoundError:  # deleted by another process since
            continue
        here, chain = (stat.st_dev, stat.st_ino), above.get(os.path.dirname(top), ())
        if here in chain:
            folders.clear()
            continue
        above[top] = (*chain, here)
        yield from (file for name in names if not name.startswith(".tmp-") and (file := Path(top, name)).is_file())
