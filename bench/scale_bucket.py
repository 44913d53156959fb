"""Folders as the buckets of an S3 endpoint: each request is answered from files, and counted.

What the store's client asks for: get with ranges, head, put (in parts as well), copy, delete of one and of many,
listings. No signature is checked. `GET /-/counts` returns the requests and bytes by kind since the last time.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import formatdate
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

_PAGE = 1000  # objects in a page of a listing


class Request(NamedTuple):
    """What a client asks for."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


class Answer(NamedTuple):  # of a HEAD the headers hold the length
    """What it gets."""

    status: int
    body: bytes = b""
    headers: tuple[str, ...] = ()


class Buckets:
    """The folders below `root`, each a bucket."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.counts: Counter[str] = Counter()
        self._listings: dict[str, list[str]] = {}
        self._uploads: dict[str, dict[int, bytes]] = {}  # parts by number

    def answer(self, request: Request) -> Answer:
        """Do what a request asks for, and count it."""
        if request.path == "-/counts":
            counts, self.counts = self.counts, Counter()
            return Answer(200, json.dumps(counts).encode())
        bucket, _, key = request.path.partition("/")
        kind = request.method if key else "LIST" if request.method == "GET" else request.method
        found = self._answer(request, bucket, key)
        self.counts[kind] += 1
        self.counts["bytes in"] += len(request.body)
        self.counts["bytes out"] += 0 if request.method == "HEAD" else len(found.body)
        return found

    def _answer(self, request: Request, bucket: str, key: str) -> Answer:
        file = self.root / bucket / key
        if request.method == "GET" and not key:
            return self._list(bucket, request.query)
        if request.method == "POST" and "delete" in request.query and not key:
            return self._delete(bucket, request.body)
        if "uploads" in request.query or "uploadId" in request.query:
            return self._upload(request, bucket, key)
        if request.method in ("GET", "HEAD") and key:
            return _read(file, request)
        if request.method == "PUT" and key and not request.query:
            if origin := unquote(request.headers.get("x-amz-copy-source", "")).lstrip("/"):
                _write(file, (self.root / origin).read_bytes())
                return _xml("CopyObjectResult", _changed(file.stat()))
            _write(file, request.body)
            return Answer(200, headers=(f"ETag: {_etag(file.stat())}",))
        if request.method == "DELETE" and key:
            file.unlink(missing_ok=True)
            return Answer(204)
        return _error(501, "NotImplemented")

    def _upload(self, request: Request, bucket: str, key: str) -> Answer:
        """Begin an upload in parts, take a part, join them, or forget them."""
        names = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key>"
        if "uploads" in request.query:
            name = str(len(self._uploads) + 1)
            self._uploads[name] = {}
            return _xml("InitiateMultipartUploadResult", f"{names}<UploadId>{name}</UploadId>")
        name = request.query["uploadId"]
        if request.method == "PUT":
            self._uploads[name][int(request.query["partNumber"])] = request.body
            return Answer(200, headers=("ETag: part",))
        parts, file = self._uploads.pop(name, {}), self.root / bucket / key
        if request.method == "DELETE":
            return Answer(204)
        _write(file, b"".join(part for _, part in sorted(parts.items())))
        return _xml("CompleteMultipartUploadResult", f"{names}<ETag>{_etag(file.stat())}</ETag>")

    def _delete(self, bucket: str, body: bytes) -> Answer:
        for item in ElementTree.fromstring(body).iter():
            if item.tag.rpartition("}")[2] == "Key":
                (self.root / bucket / str(item.text)).unlink(missing_ok=True)
        return _xml("DeleteResult", "")

    def _list(self, bucket: str, query: Mapping[str, str]) -> Answer:
        """Return a page of a listing; the folder is read for the first page alone."""
        prefix, place = query.get("prefix", ""), query.get("continuation-token", "")
        start = int(place) if place else 0
        if query.get("delimiter"):
            base = self.root / bucket / prefix
            names = sorted(item.name for item in base.iterdir() if item.is_dir()) if base.is_dir() else []
            folders = [f"<Prefix>{escape(prefix + name)}/</Prefix>" for name in names]
            found = "".join(f"<CommonPrefixes>{folder}</CommonPrefixes>" for folder in folders)
            return _listing(bucket, prefix, f"<IsTruncated>false</IsTruncated>{found}")
        if not place:
            self._listings[f"{bucket}/{prefix}"] = sorted(_keys(self.root / bucket, prefix))
        keys = self._listings[f"{bucket}/{prefix}"]
        page = [_listed(self.root / bucket, key) for key in keys[start : start + _PAGE]]
        more = start + _PAGE < len(keys)
        token = f"<NextContinuationToken>{start + _PAGE}</NextContinuationToken>" if more else ""
        head = f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}<EncodingType>url</EncodingType>"
        return _listing(bucket, prefix, head + "".join(page))


def _listing(bucket: str, prefix: str, content: str) -> Answer:
    return _xml("ListBucketResult", f"<Name>{bucket}</Name><Prefix>{quote(prefix)}</Prefix>{content}")


def _read(file: Path, request: Request) -> Answer:
    try:
        stat = file.stat()
        data = b"" if request.method == "HEAD" else file.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return _error(404, "NoSuchKey")
    common = (f"ETag: {_etag(stat)}", f"Last-Modified: {formatdate(stat.st_mtime, usegmt=True)}")
    if request.method == "HEAD":
        return Answer(200, headers=(*common, f"Content-Length: {stat.st_size}"))
    first, _, last = request.headers.get("range", "").removeprefix("bytes=").partition("-")
    if not first:
        return Answer(200, data, common)
    part = data[int(first) : int(last) + 1 if last else None]
    return Answer(206, part, (*common, f"Content-Range: bytes {first}-{int(first) + len(part) - 1}/{len(data)}"))


def _write(file: Path, data: bytes) -> None:
    """Write a new file in the old one's place: the old one may have further names elsewhere."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=file.parent)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(data)
    Path(name).chmod(0o644)
    Path(name).replace(file)


def _keys(folder: Path, prefix: str) -> list[str]:
    top = folder / prefix.rpartition("/")[0]
    found = (os.path.relpath(os.path.join(base, name), folder) for base, _, names in os.walk(top) for name in names)
    return [key for key in found if key.startswith(prefix)]


def _listed(folder: Path, key: str) -> str:
    stat = (folder / key).stat()
    return f"<Contents><Key>{quote(key)}</Key>{_changed(stat)}<Size>{stat.st_size}</Size></Contents>"


def _changed(stat: os.stat_result) -> str:
    moment = datetime.fromtimestamp(int(stat.st_mtime), timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return f"<LastModified>{moment}</LastModified><ETag>{_etag(stat)}</ETag>"


def _etag(stat: os.stat_result) -> str:
    return f"{stat.st_mtime_ns:x}-{stat.st_size:x}"


def _xml(root: str, content: str, status: int = 200) -> Answer:
    space = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    text = f'<?xml version="1.0" encoding="UTF-8"?><{root}{"" if root == "Error" else space}>{content}</{root}>'
    return Answer(status, text.encode(), ("Content-Type: application/xml",))


def _error(status: int, code: str) -> Answer:
    rest = "<Message>m</Message><Resource>/</Resource><RequestId>1</RequestId><HostId>1</HostId>"
    return _xml("Error", f"<Code>{code}</Code>{rest}", status)
