"""A bucket in memory behind the S3 backend: it counts the requests that it would take, a thousand objects with each."""

import collections
import hashlib
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from types import SimpleNamespace
from unittest.mock import patch

from components.store.entries import Store
from components.store.s3 import MinioBackend
from tests.s3_server import KEYS

PAGE = 1000


class Bucket:
    """Stands in for the minio client. `age`: days since whatever is put was written."""

    def __init__(self, age=0):
        self.objects, self.requests, self.age = {}, collections.Counter(), age

    def put_object(self, bucket, name, data, length):
        self.requests["put"] += 1
        self.put(name, data.read())

    def put(self, name, data):
        self.objects[name] = data, time.time() - self.age * 86400

    def get_object(self, bucket, name, offset=0, length=0):
        self.requests["get"] += 1
        data = self.objects[name][0][offset:]
        data = data[:length] if length else data
        return SimpleNamespace(read=lambda: data, close=lambda: None, release_conn=lambda: None)

    def stat_object(self, bucket, name):
        self.requests["stat"] += 1
        return self._listed(name)

    def list_objects(self, bucket, prefix, recursive):
        assert recursive
        names = sorted(name for name in self.objects if name.startswith(prefix))
        for start in range(0, max(1, len(names)), PAGE):
            self.requests["list"] += 1
            yield from [self._listed(name) for name in names[start : start + PAGE] if name in self.objects]

    def _listed(self, name):
        data, written = self.objects[name]
        when = datetime.fromtimestamp(written, timezone.utc)
        etag = hashlib.sha256(data).hexdigest()[:32]
        return SimpleNamespace(object_name=name, size=len(data), etag=etag, last_modified=when)

    def remove_objects(self, bucket, objects):
        assert len(objects) <= PAGE
        self.requests["delete"] += 1
        for one in objects:
            self.objects.pop(one.name, None)
        return iter(())


@contextmanager
def counted(age=0):
    """A store in such a bucket, and the bucket."""
    bucket = Bucket(age)
    keys = {**KEYS, "S3_ENDPOINT": "http://127.0.0.1:1"}
    with patch.dict("os.environ", keys), patch.object(MinioBackend, "_connect", lambda self: bucket):
        yield Store("minio://bucket"), bucket
