"""From an address to its backend: `file:///path`, a plain path, or `minio://bucket/prefix`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlparse

from components.core.errors import ParameterError
from components.store.backend import PATIENCE, Backend
from components.store.file import FileBackend


def open_backend(uri: str, patience: float = PATIENCE) -> Backend:
    """Open a store; one that does not answer is tried again for `patience` minutes.

    Raises ParameterError: another scheme, no bucket, or an environment that no S3 server can be reached with.
    """
    if "://" not in uri:  # a plain path may hold '#', '?' and '%'
        return FileBackend(Path(uri).absolute())
    parsed = urlparse(uri)
    if parsed.scheme == "file":
        return FileBackend(Path(unquote(parsed.path)).absolute())
    if parsed.scheme == "minio":
        from components.store.s3 import MinioBackend

        return MinioBackend.from_environment(uri, patience)
    remedy = "use file:///folder or minio://bucket/prefix"
    raise ParameterError(f"unknown scheme {parsed.scheme!r}", source=f"store={uri}", remedy=remedy)
