"""Any S3 endpoint through the `minio` client. Endpoint and keys come from the environment, never from a parameter.

`S3_ENDPOINT` (URL, http or https), `S3_ACCESS_KEY`, `S3_SECRET_KEY`, optional `S3_REGION`. Transient errors
(connection, 5xx, slow down) are retried inside the process; one that stays is `TryAgainError`; wrong credentials, a
missing bucket or an endpoint that is no S3 server `ParameterError`.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlparse
from xml.etree.ElementTree import ParseError

import tenacity
import urllib3
from minio import Minio
from minio.commonconfig import CopySource
from minio.error import InvalidResponseError, S3Error, ServerError

from components.core.errors import ParameterError, TryAgainError
from components.store.backend import Backend, Listed, disk_error

T = TypeVar("T")

_MISSING = {"NoSuchKey", "NoSuchObject"}
_DENIED = {"AccessDenied", "AccountProblem", "UserSuspended", "InvalidToken", "ExpiredToken"}
_DENIED |= {"InvalidAccessKeyId", "SignatureDoesNotMatch"}
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_LATER = {"RequestTimeout", "SlowDown", "TooManyRequests", "OperationAborted"}
_LATER_STATUS = {408, 429}
_ATTEMPTS = 5
_NO_S3 = "check S3_ENDPOINT (http or https, host, port) and any proxy before it"


class _TransientError(Exception):
    """A fault that the same call may not meet again."""


def _seconds(moment: datetime | None) -> float:
    """Return seconds since 1970; no answer counts as now, so that nothing looks old."""
    return time.time() if moment is None else moment.timestamp()


def _connection() -> Callable[[], Minio]:
    """Return how to make a client for the endpoint and keys of the environment; tried once."""
    scheme, _, place = os.environ["S3_ENDPOINT"].partition("://")
    example = "e.g. https://minio.example:9000"
    if scheme.lower() not in ("http", "https") or not place:
        raise ParameterError("S3_ENDPOINT is no http(s) URL", source="environment", remedy=example)
    if "@" in place:  # not shown: it holds a password
        remedy = f"{example}; keys: S3_ACCESS_KEY, S3_SECRET_KEY"
        raise ParameterError("S3_ENDPOINT holds a user", source="environment", remedy=remedy)
    keys, region = (os.environ["S3_ACCESS_KEY"], os.environ["S3_SECRET_KEY"]), os.environ.get("S3_REGION", "us-east-1")
    times = urllib3.Timeout(connect=10, read=60)

    def connect() -> Minio:
        pool = urllib3.PoolManager(timeout=times, maxsize=16, retries=False)
        return Minio(place, *keys, secure=scheme.lower() == "https", region=region, http_client=pool)

    try:
        connect()
    except ValueError as error:  # a path, a bad port, a bad region
        problem = f"S3_ENDPOINT={scheme}://{place}, region {region}: {error}"
        remedy = f"{example} (S3_REGION: as the server calls it)"
        raise ParameterError(problem, source="environment", remedy=remedy) from error
    return connect


class MinioBackend:
    """One prefix of one bucket."""

    def __init__(self, connect: Callable[[], Minio], bucket: str, prefix: str) -> None:
        self._connect, self.bucket, self.prefix = connect, bucket, prefix
        self.uri = f"minio://{bucket}" + (f"/{prefix}" if prefix else "")
        self._client, self._client_of = connect(), os.getpid()
        self._folder: Path | None = None
        self._folder_of = 0

    @property
    def client(self) -> Minio:
        """The client of this process: a fork that shared connections would read its parent's answers."""
        if self._client_of != os.getpid():
            self._client, self._client_of = self._connect(), os.getpid()
        return self._client

    @property
    def _downloads(self) -> Path:
        """The downloads folder of this process; a fork's lies in its parent's, which goes even if it is killed."""
        if self._folder is None or self._folder_of != os.getpid():
            self._folder = Path(tempfile.mkdtemp(prefix="motion-enhancer-", dir=self._folder))
            self._folder_of = os.getpid()
            # unlike TemporaryDirectory it leaves the folder alone in a forked copy, and runs at the end of a
            # multiprocessing worker
            Finalize(self, shutil.rmtree, (self._folder, True), exitpriority=0)
        return self._folder

    @classmethod
    def from_environment(cls, uri: str) -> MinioBackend:
        """Open `minio://bucket/prefix` with the endpoint and keys of the environment."""
        parsed, source = urlparse(uri), f"store={uri}"
        missing = [name for name in ("S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY") if not os.environ.get(name)]
        if missing:
            problem = f"no {', '.join(missing)} in the environment"
            remedy = "set them (a Kubernetes secret on a cluster)"
            raise ParameterError(problem, source=source, remedy=remedy)
        if not parsed.netloc:
            raise ParameterError("no bucket in the address", source=source, remedy="use minio://bucket/prefix")
        if not _BUCKET.fullmatch(parsed.netloc):
            problem = f"no bucket can be called {parsed.netloc!r}"
            raise ParameterError(problem, source=source, remedy="3 to 63 of a-z, 0-9, . and -")
        return cls(_connection(), parsed.netloc, parsed.path.strip("/"))

    def _name(self, path: str) -> str:
        return f"{self.prefix}/{path}" if self.prefix else path

    def _call(self, what: str, action: Callable[[], T]) -> T | None:
        """Run one request with retries; a missing object is None."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_TransientError),
            stop=tenacity.stop_after_attempt(_ATTEMPTS),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=10),
            reraise=True,
        )
        try:
            return retrying(self._once, what, action)
        except _TransientError as error:
            problem = f"{what} failed {_ATTEMPTS} times: {error}"
            raise TryAgainError(problem, source=self.uri, remedy="run again when the store answers") from error

    def _once(self, what: str, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except S3Error as error:
            if error.code in _MISSING:
                return None
            raise self._refusal(what, error) from error
        except InvalidResponseError as error:
            raise self._bare(what, error._code) from error
        except ServerError as error:
            raise self._bare(what, error.status_code) from error
        except (ParseError, UnicodeDecodeError) as error:
            raise self._wrong(f"{what}: the answer is none of an S3 server", _NO_S3) from error
        except urllib3.exceptions.SSLError as error:
            if error.args and isinstance(error.args[0], (ssl.SSLEOFError, ssl.SSLZeroReturnError)):  # hung up
                raise _TransientError(type(error).__name__) from error
            remedy = f"{_NO_S3}; name an authority of your own in SSL_CERT_FILE"
            raise self._wrong(f"{what}: {error}", remedy) from error
        except (urllib3.exceptions.HTTPError, ConnectionError) as error:
            raise _TransientError(type(error).__name__) from error

    def _wrong(self, problem: str, remedy: str) -> ParameterError:
        return ParameterError(problem, source=self.uri, remedy=remedy)

    def _refusal(self, what: str, error: S3Error) -> Exception:
        """Return the error that S3's own document stands for."""
        if error.code is None:  # a page that happens to be XML
            return self._bare(what, error.response.status)
        if error.code in _DENIED:
            return self._wrong(f"{what}: {error.code}", "check S3_ACCESS_KEY and S3_SECRET_KEY")
        if error.code == "NoSuchBucket":
            return self._wrong(f"bucket {self.bucket!r} does not exist", "create it")
        # a client error stays one however often it is asked, but for the two that mean "later"
        if 400 <= error.response.status < 500 and error.code not in _LATER:
            return self._wrong(f"{what}: {error.code}", "check S3_ENDPOINT, S3_REGION and the bucket")
        return _TransientError(f"{error.code}")

    def _bare(self, what: str, status: int) -> Exception:
        """Return the error of an answer without S3's document: a proxy or another server, unless it means "later"."""
        if status >= 500 or status in _LATER_STATUS:
            return _TransientError(f"HTTP {status}")
        return self._wrong(f"{what}: HTTP {status} without an S3 error", _NO_S3)

    def get(self, path: str) -> bytes | None:
        """Return the object's bytes, or None."""
        return self.read(path, 0, 0)

    def read(self, path: str, offset: int, length: int) -> bytes | None:
        """Return up to `length` bytes (0: all) from `offset` on, or None."""

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
        self.client.fget_object(self.bucket, self._name(path), str(target))
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
        """Yield all objects below `prefix`, sorted."""
        start = self._name(prefix).rstrip("/") + "/" if self._name(prefix) else ""
        list_all = partial(self.client.list_objects, self.bucket, prefix=start, recursive=True)
        found = self._call(f"list {prefix}", lambda: list(list_all()))
        cut = len(self.prefix) + 1 if self.prefix else 0
        for item in sorted(found or [], key=lambda item: str(item.object_name)):
            yield Listed(str(item.object_name)[cut:], int(item.size or 0), str(item.etag), _seconds(item.last_modified))

    def folders(self) -> list[str]:
        """Return the names of the folders at the root."""
        start = self._name("")
        found = self._call("list", lambda: list(self.client.list_objects(self.bucket, prefix=start)))
        return [str(item.object_name)[len(start) : -1] for item in found or [] if item.is_dir]

    def delete(self, path: str) -> None:
        """Remove an object if it is there."""
        self._call(f"delete {path}", lambda: self.client.remove_object(self.bucket, self._name(path)))

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
