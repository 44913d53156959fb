"""A prefix of a bucket of any S3 endpoint, through the `minio` client; `connection.py` reads how, from the environment.

Faults that may heal are tried again inside the process (`retry.py`); one that stays is `TryAgainError`. Credentials,
region or certificates that do not fit, a missing bucket or an endpoint that is no S3 server are `ParameterError`. No
message holds a key.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from itertools import islice
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlparse
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.commonconfig import CopySource
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from components.core.errors import ParameterError
from components.store.backend import PATIENCE, Backend, Listed, disk_error
from components.store.connection import Connection, region_of
from components.store.retry import LATER, Patience, TransientError, transient

T = TypeVar("T")

_MAKING = threading.Lock()  # a store's folder of downloads, which threads share
_PAGE = 1000  # objects of a request that lists or deletes
_MISSING = {"NoSuchKey", "NoSuchObject"}
_DENIED = {"AccessDenied", "AccountProblem", "UserSuspended", "InvalidToken", "InvalidAccessKeyId"}
_DENIED |= {"SignatureDoesNotMatch", "UnauthorizedAccess", "AllAccessDisabled"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_SKEWED = {"RequestTimeTooSkewed", "RequestExpired"}
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_EXPECTED = re.compile(r"expecting '([\w-]+)'|<Region>([\w-]+)</Region>|<Endpoint>([\w.-]+)</Endpoint>")
_NO_S3 = "check S3_ENDPOINT (http or https, host, port) and any proxy before it"


def _seconds(moment: datetime | None) -> float:
    """Return seconds since 1970; no answer counts as now, so that nothing looks old."""
    return time.time() if moment is None else moment.timestamp()


class MinioBackend:
    """One prefix of one bucket."""

    def __init__(self, connection: Connection, bucket: str, prefix: str, minutes: float = PATIENCE) -> None:
        self.connection, self.bucket, self.prefix, self.minutes = connection, bucket, prefix, minutes
        self.uri = f"minio://{bucket}" + (f"/{prefix}" if prefix else "")
        self._patience = Patience(minutes, self.uri)
        self._client, self._client_of = self._connect(), os.getpid()
        self._folder: Path | None = None
        self._folder_of = 0

    def _connect(self) -> Minio:
        return self.connection.client(Patience(self.minutes, self.uri))

    @property
    def client(self) -> Minio:
        """The client of this process: a fork that shared connections would read its parent's answers."""
        if self._client_of != os.getpid():
            self._client, self._client_of = self._connect(), os.getpid()
        return self._client

    @property
    def _downloads(self) -> Path:
        """The downloads folder of this process; a fork's lies in its parent's, which goes even if it is killed."""
        with _MAKING:
            if self._folder is None or self._folder_of != os.getpid():
                self._folder = Path(tempfile.mkdtemp(prefix="motion-enhancer-", dir=self._folder))
                self._folder_of = os.getpid()
                # unlike TemporaryDirectory it leaves the folder alone in a forked copy, and runs at the end of a
                # multiprocessing worker
                Finalize(self, shutil.rmtree, (self._folder, True), exitpriority=0)
            return self._folder

    @classmethod
    def from_environment(cls, uri: str, minutes: float = PATIENCE) -> MinioBackend:
        """Open `minio://bucket/prefix` as the environment says; a store that is away is tried for `minutes`."""
        parsed, source = urlparse(uri), f"store={uri}"
        connection = Connection.from_environment()
        if not parsed.netloc:
            raise ParameterError("no bucket in the address", source=source, remedy="use minio://bucket/prefix")
        if not _BUCKET.fullmatch(parsed.netloc):
            problem = f"no bucket can be called {parsed.netloc!r}"
            raise ParameterError(problem, source=source, remedy="3 to 63 of a-z, 0-9, . and -")
        return cls(connection, parsed.netloc, parsed.path.strip("/"), minutes)

    def _name(self, path: str) -> str:
        return f"{self.prefix}/{path}" if self.prefix else path

    def _call(self, what: str, action: Callable[[], T]) -> T | None:
        """Do something with the store, again where its answer was cut; a missing object is None."""
        return self._patience(what, lambda: self._once(what, action))

    def _once(self, what: str, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except (ParseError, UnicodeDecodeError) as error:
            raise self._wrong(f"{what}: the answer is none of an S3 server", _NO_S3) from error
        except (MinioException, urllib3.exceptions.HTTPError, ConnectionError) as error:
            if (reason := transient(error)) is not None:
                raise TransientError(reason) from error
            if isinstance(error, S3Error) and error.code in _MISSING:
                return None
            raise self._refusal(what, error) from error

    def _wrong(self, problem: str, remedy: str) -> ParameterError:
        return ParameterError(problem, source=self.uri, remedy=remedy)

    def _refusal(self, what: str, error: Exception) -> Exception:
        """Return the error that an answer stands for which asking again would not change."""
        if isinstance(error, S3Error) and error.code is not None:
            return self._refused(what, error)
        if isinstance(error, S3Error):  # a page that happens to be XML
            return self._wrong(f"{what}: HTTP {error.response.status} without an S3 error", _NO_S3)
        if isinstance(error, (InvalidResponseError, ServerError)):  # a proxy, or another server
            status = error._code if isinstance(error, InvalidResponseError) else error.status_code
            return self._wrong(f"{what}: HTTP {status} without an S3 error", _NO_S3)
        remedy = f"{_NO_S3}; name an authority of your own in S3_CA_BUNDLE"
        return self._wrong(f"{what}: {error}", remedy)

    def _refused(self, what: str, error: S3Error) -> Exception:
        """Return the error that S3's own document stands for."""
        if (region := _named_region(error)) and region != self.connection.region:
            problem = f"{what}: the bucket is in region {region}, this request was for {self.connection.region}"
            return self._wrong(problem, f"set S3_REGION={region} (key `region` of the secret)")
        if error.code == "NoSuchUpload":  # the end of an upload, tried again after its answer was lost
            return TransientError("the upload is gone")
        return self._refused_code(what, str(error.code))

    def _refused_code(self, what: str, code: str) -> ParameterError:
        """Return the error that a code of S3's stands for."""
        if code in _EXPIRED:
            return self._wrong(f"{what}: {code}, the credentials have expired", self.connection.identity.remedy)
        if code in _DENIED:
            return self._wrong(f"{what}: {code}", self.connection.identity.remedy)
        if code in _SKEWED:
            return self._wrong(f"{what}: {code}", "set the clock of this machine")
        if code == "NoSuchBucket":
            return self._wrong(f"bucket {self.bucket!r} does not exist", "create it")
        return self._wrong(f"{what}: {code}", "check S3_ENDPOINT, S3_REGION, S3_ADDRESSING and the bucket")

    def get(self, path: str) -> bytes | None:
        """Return the object's bytes, or None."""
        return self.read(path, 0, 0)

    def read(self, path: str, offset: int, length: int) -> bytes | None:
        """Return up to `length` bytes (0: all) from `offset` on, or None; a cut answer counts as none."""

        def action() -> bytes:
            response = self.client.get_object(self.bucket, self._name(path), offset=offset, length=length)
            try:
                return bytes(response.read())
            finally:
                response.close()
                response.release_conn()

        return self._call(f"get {path}", action)

    def put(self, path: str, data: bytes) -> None:
        """Write an object; it appears whole."""
        name = self._name(path)
        self._call(f"put {path}", lambda: self.client.put_object(self.bucket, name, io.BytesIO(data), len(data)))

    def put_file(self, path: str, local: Path) -> None:
        """Upload a local file (in parts when large)."""
        self._call(f"put {path}", lambda: self.client.fput_object(self.bucket, self._name(path), str(local)))

    def local(self, path: str) -> Path | None:
        """Download to a folder that lives as long as this process."""
        try:
            target = self._downloads / path
            if not target.is_file() and not self._call(f"get {path}", lambda: bool(self._download(path, target))):
                return None
        except OSError as error:
            raise disk_error(error, Path(path), "downloads (TMPDIR)", "set TMPDIR to a folder with space") from error
        return target

    def _download(self, path: str, target: Path) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        found = self.client.fget_object(self.bucket, self._name(path), str(target))
        if (size := target.stat().st_size) != found.size:
            target.unlink()
            raise TransientError(f"{size} of {found.size} bytes")
        return target

    def release(self, path: str) -> None:
        """Remove the download that `local` made, so that reading a whole data set does not fill the disk."""
        if self._folder_of == os.getpid():
            (self._downloads / path).unlink(missing_ok=True)

    def size(self, path: str) -> int | None:
        """Return the size in bytes, or None."""
        return None if (found := self._stat(path)) is None else int(found.size or 0)

    def modified(self, path: str) -> float | None:
        """Return the time of the last write in seconds since 1970, or None."""
        return None if (found := self._stat(path)) is None else _seconds(found.last_modified)

    def _stat(self, path: str) -> Any:
        return self._call(f"stat {path}", lambda: self.client.stat_object(self.bucket, self._name(path)))

    def walk(self, prefix: str = "") -> Iterator[Listed]:
        """Yield all objects below `prefix`, sorted; a page of the listing is asked for when its first one is."""
        start = self._name(prefix).rstrip("/") + "/" if self._name(prefix) else ""
        cut = len(self.prefix) + 1 if self.prefix else 0
        listing = self.client.list_objects(self.bucket, start, recursive=True)
        # the client tries each page again by itself: a listing that has failed has no more, and must not look complete
        while found := self._once(f"list {prefix}", lambda: list(islice(listing, _PAGE))):
            for item in found:
                name = str(item.object_name)[cut:]
                yield Listed(name, int(item.size or 0), str(item.etag), _seconds(item.last_modified))
            if len(found) < _PAGE:
                return

    def folders(self) -> list[str]:
        """Return the names of the folders at the root."""
        start = self._name("")
        found = self._call("list", lambda: list(self.client.list_objects(self.bucket, prefix=start)))
        return [str(item.object_name)[len(start) : -1] for item in found or [] if item.is_dir]

    def delete(self, path: str) -> None:
        """Remove an object if it is there."""
        self._call(f"delete {path}", lambda: self.client.remove_object(self.bucket, self._name(path)))

    def delete_all(self, paths: Iterable[str]) -> None:
        """Remove the objects that are there, a thousand with each request, in no order among these."""
        rest = iter(paths)
        while batch := [self._name(path) for path in islice(rest, _PAGE)]:
            self._call("delete", partial(self._delete_batch, batch))

    def _delete_batch(self, names: list[str]) -> None:
        """Remove these objects; `names` is left with those that may go when they are tried again."""
        cut = len(self.prefix) + 1 if self.prefix else 0
        errors = list(self.client.remove_objects(self.bucket, [DeleteObject(name) for name in names]))
        for error in errors:
            if error.code not in LATER | _MISSING:
                raise self._refused_code(f"delete {(error.name or '')[cut:]}".rstrip(), error.code)
        if late := [error for error in errors if error.code in LATER]:
            names[:] = [error.name for error in late if error.name] or names
            raise TransientError(f"{late[0].code} for {names[0][cut:]}")

    def copy_from(self, source: Backend, path: str, target: str) -> bool:
        """Copy inside one endpoint without moving bytes through this process; False when that is not possible."""
        if not isinstance(source, MinioBackend):
            return False
        name, origin = self._name(target), CopySource(source.bucket, source._name(path))
        copied = self._call(f"copy {path}", lambda: self.client.copy_object(self.bucket, name, origin))
        return copied is not None

    def make_bucket(self) -> bool:
        """Make the bucket unless it is there (or another process is quicker); whether this call made it."""
        if self._call("look for the bucket", lambda: self.client.bucket_exists(self.bucket)):
            return False

        def action() -> bool:
            try:
                self.client.make_bucket(self.bucket)
            except S3Error as error:
                if error.code != "BucketAlreadyOwnedByYou":
                    raise
                return False
            return True

        return self._call("make the bucket", action) is True


def _named_region(error: S3Error) -> str:
    """Return the region that a refusal names as the bucket's, or nothing."""
    if error.response.status not in (301, 307, 400, 403):
        return ""
    if header := error.response.headers.get("x-amz-bucket-region"):
        return str(header)
    found = _EXPECTED.search((error.response.data or b"").decode(errors="replace"))
    return (found[1] or found[2] or region_of(found[3])) if found else ""
