"""An empty store on each backend: a folder, and a prefix of an S3 bucket."""

import pytest

from components.store.entries import Store
from tests.s3_server import s3_server


@pytest.fixture(scope="module")
def server():
    with s3_server("main", "other") as client:
        yield client


@pytest.fixture(params=["file", "s3"])
def uri(request, tmp_path):
    if request.param == "file":
        return (tmp_path / "a store").as_uri()
    request.getfixturevalue("server")
    return f"minio://main/{tmp_path.name}/deep"


@pytest.fixture
def store(uri):
    return Store(uri)
