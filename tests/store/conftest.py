"""An empty store on each backend: a folder, and a prefix of an S3 bucket."""

import pytest

from components.store.entries import Store
from tests.s3_server import s3_server


@pytest.fixture(scope="module")
def server():
    with s3_server("main") as client:
        yield client


@pytest.fixture(params=["file", "s3"])
def store(request, tmp_path):
    if request.param == "file":
        return Store((tmp_path / "store").as_uri())
    request.getfixturevalue("server")
    return Store(f"minio://main/{tmp_path.name}/deep")
