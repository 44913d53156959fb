"""What a place that keeps objects does: the protocol of all backends. Missing objects are `None`, writes are whole."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from components.core.errors import ParameterError, TryAgainError

PATIENCE = 15.0  # minutes that a store which does not answer is asked again


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a listing: path below the root, bytes, a stamp of its content (etag or mtime), its last write.

    `modified` is in seconds since 1970, by the clock of the place that keeps the object.
    """

    path: str
    size: int
    stamp: str
    modified: float = 0.0


class Backend(Protocol):
    """A place that keeps objects. Paths are POSIX, below the root; a missing object is `None`, never an exception.

    `walk` reads on as it is iterated: what is written or deleted meanwhile may be seen or not.
    """

    uri: str

    def get(self, path: str) -> bytes | None: ...
    def read(self, path: str, offset: int, length: int) -> bytes | None: ...
    def put(self, path: str, data: bytes) -> None: ...
    def put_file(self, path: str, local: Path) -> None: ...
    def local(self, path: str) -> Path | None: ...
    def release(self, path: str) -> None: ...
    def size(self, path: str) -> int | None: ...
    def modified(self, path: str) -> float | None: ...
    def walk(self, prefix: str = "") -> Iterator[Listed]: ...
    def folders(self) -> list[str]: ...
    def delete(self, path: str) -> None: ...
    def delete_all(self, paths: Iterable[str]) -> None: ...
    def copy_from(self, source: Backend, path: str, target: str) -> bool: ...


def disk_error(error: OSError, target: Path, source: str, room: str) -> ParameterError | TryAgainError:
    """Return the error of a failed write: try again with space (`room`: how to make some), or another folder."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        problem = f"no space left while writing {target.name}"
        return TryAgainError(problem, source=source, remedy=f"{room}, then run again")
    problem = f"cannot write {target}: {error.strerror}"
    return ParameterError(problem, source=source, remedy="give a folder this user may write")
