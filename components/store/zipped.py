"""Files inside zip files of a source, read without unpacking them: each counts as lying where `unzip` would put it.

A zip file may be split into parts that follow each other (`videos.zip.001`, `videos.zip.002`, …). Of an archive only
the directory and the members that are asked for are read, by ranges.
"""

from __future__ import annotations

import io
import logging
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

from components.core.errors import DataError
from components.store.address import open_backend
from components.store.backend import PATIENCE, Backend, Listed, disk_error

log = logging.getLogger(__name__)

_PART = re.compile(r"(.+\.zip)\.(?:\d+|[a-z]{2,3})|(.+)\.z01", re.IGNORECASE)
# what `zipfile` raises for a damaged archive; a wrong encoding and a wrong place in the file are ValueErrors
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError, RuntimeError)
_BLOCK = 1 << 24  # bytes of a request for a member's content
_JUNK = "__MACOSX/"  # what macOS adds for its own use
_AGAIN = "download the archive again, or unpack it yourself"


@dataclass(frozen=True)
class Archive:
    """A zip file: the objects that it consists of, in their order."""

    path: str
    parts: tuple[Listed, ...]

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class Packed(Listed):
    """A member of a zip file: where it would lie unpacked, its size unpacked, and why it cannot be read, if so."""

    archive: Archive
    member: str
    problem: str = ""


def packed_files(
    backend: Backend, listed: Iterable[Listed], patience: float = PATIENCE
) -> tuple[dict[str, Packed], list[DataError]]:
    """Return the members of all zip files of a listing, by path, and the errors of the archives that are not read.

    `patience`: as of `open_backend`.
    """
    found: dict[str, Packed] = {}
    refused: list[DataError] = []
    for path, parts in sorted(_archives(listed).items()):
        try:
            archive = Archive(path, _whole(path, parts))
            members = _members(backend.uri, archive, patience)
        except DataError as error:
            log.warning("%s is not read: %s", error.source, error.problem)
            refused.append(error)
            continue
        for file in members:
            twin = found.setdefault(file.path, file)
            if (twin.size, twin.stamp) != (file.size, file.stamp):
                problem = f"two members of that name with other content, in {twin.archive.path} and {path}"
                found[file.path] = replace(twin, problem=problem)
    return found, refused


def extract(backend: Backend, file: Packed, target: Path, patience: float = PATIENCE) -> None:
    """Write a member to `target`; `patience`: as of `open_backend`.

    Raises:
        DataError: it cannot be read, or what comes out is not what its check sum says.
    """
    source = f"{backend.uri}/{file.archive.path}, member {file.member}"
    if file.problem:
        raise DataError(file.problem, source=source, remedy=_AGAIN)
    with target.open("wb") as unpacked:
        for block in _blocks(backend.uri, file, patience, source):
            try:
                unpacked.write(block)
            except OSError as error:
                room = "set TMPDIR to a folder with space"
                raise disk_error(error, target, "unpacked files (TMPDIR)", room) from error


def _blocks(uri: str, file: Packed, patience: float, source: str) -> Iterator[bytes]:
    try:
        with _opened(uri, file.archive, patience).open(file.member) as member:
            while block := member.read(_BLOCK):
                yield block
    except _DAMAGE as error:
        raise DataError(f"the member does not unpack: {error}", source=source, remedy=_AGAIN) from error


def _archives(listed: Iterable[Listed]) -> dict[str, list[Listed]]:
    """Return the objects of each zip file of a listing, by its path: itself, its parts, or both; volumes as well."""
    found: dict[str, list[Listed]] = {}
    for file in listed:
        if file.path.lower().endswith(".zip"):
            found.setdefault(file.path, []).append(file)
        elif part := _PART.fullmatch(file.path):
            found.setdefault(part[1] or f"{part[2]}.zip", []).append(file)
    return found


def _whole(path: str, files: Sequence[Listed]) -> tuple[Listed, ...]:
    """Return what an archive consists of: its file, else its parts in order, from 0, 1, `aa` or `aaa` on."""
    if any(file.path.lower().endswith(".z01") for file in files):
        remedy = "join them: zip -s 0 FILE.zip --out WHOLE.zip"
        raise DataError("a zip file of several volumes (.z01, …)", source=path, remedy=remedy)
    if whole := [file for file in files if file.path == path]:
        return tuple(whole)
    parts = {_place(file.path.rpartition(".")[2]): file for file in files}
    for due, place in enumerate(sorted(parts), start=min(1, *parts)):
        if place != due:
            problem = f"part {due} of the archive is missing, the next one is {parts[place].path}"
            raise DataError(problem, source=path, remedy="download all parts")
    return tuple(parts[place] for place in sorted(parts))


def _place(number: str) -> int:
    if number.isdigit():
        return int(number)
    place = 0
    for letter in number.lower():
        place = place * 26 + ord(letter) - ord("a")
    return place


def _members(uri: str, archive: Archive, patience: float) -> list[Packed]:
    source, folder = f"{uri}/{archive.path}", PurePosixPath(archive.path).parent
    members = []
    for info in _opened(uri, archive, patience).infolist():
        if info.is_dir() or info.filename.startswith(_JUNK):
            continue
        name = PurePosixPath(info.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in info.orig_filename or "\0" in info.orig_filename:
            problem = f"the member {info.orig_filename!r} is no path inside of its folder"
            raise DataError(problem, source=source, remedy="do not use this archive; ask its publisher for another")
        problem = "the member is encrypted" if info.flag_bits & 1 else ""
        stamp = f"crc32:{info.CRC:08x}"
        path = (folder / name).as_posix()
        members.append(Packed(path, info.file_size, stamp, archive=archive, member=info.filename, problem=problem))
    return members


@lru_cache(maxsize=256)
def _opened(uri: str, archive: Archive, patience: float) -> zipfile.ZipFile:
    """Open an archive, once per process: its directory may have many thousand members."""
    source = f"{uri}/{archive.path}"
    try:
        return zipfile.ZipFile(io.BufferedReader(_Joined(open_backend(uri, patience), archive), 1 << 16))
    except _DAMAGE as error:
        problem = f"not a whole zip file: {error}"
        raise DataError(problem, source=source, remedy="download it again, or move it out of the source") from error


class _Joined(io.RawIOBase):
    """The bytes of an archive, over all its parts, read by ranges."""

    def __init__(self, backend: Backend, archive: Archive) -> None:
        self._backend, self._archive, self._at = backend, archive, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._archive.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        offset = self._at
        for part in self._archive.parts:
            if offset < part.size:
                data = self._backend.read(part.path, offset, min(len(buffer), part.size - offset))
                if not data:
                    problem = "the archive is gone, or shorter than it was listed"
                    raise DataError(problem, source=f"{self._backend.uri}/{part.path}", remedy="run again")
                buffer[: len(data)] = data
                self._at += len(data)
                return len(data)
            offset -= part.size
        return 0
