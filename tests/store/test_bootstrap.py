"""The store's bucket: made once, nobody else's rules touched."""

import pytest

from components.core.errors import ParameterError, TryAgainError
from components.store.address import open_backend
from components.store.bootstrap import bootstrap
from tests.command import python
from tests.s3_server import KEYS, closed_port, s3_error, s3_server, scripted_server


@pytest.fixture(scope="module")
def server():
    with s3_server("theirs") as client:
        yield client


def test_the_bucket_is_made_once_and_holds_a_store(server):
    environment = {"STORE": "minio://new-one/deep/store"}
    bootstrap(environment)
    open_backend("minio://new-one/deep/store").put("x", b"1")
    bootstrap(environment)
    assert open_backend("minio://new-one/deep/store").get("x") == b"1"
    assert server.get_bucket_lifecycle("new-one") is None


@pytest.mark.parametrize("environment", [{}, {"STORE": "file:///folder"}])
def test_wrong_environments(environment):
    with pytest.raises(ParameterError, match="is no bucket"):
        bootstrap(environment)


def test_a_store_that_refuses_and_one_that_is_not_there(monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with scripted_server((404, s3_error("NoSuchBucket")), (403, s3_error("AccessDenied"))) as (url, _):
        monkeypatch.setenv("S3_ENDPOINT", url)
        with pytest.raises(ParameterError):
            bootstrap({"STORE": "minio://bucket/x"})
    monkeypatch.setenv("S3_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(TryAgainError):
        bootstrap({"STORE": "minio://bucket/x"}, patience=0.01)


def test_as_the_job_runs_it(server):
    def run(store):
        return python("-m", "components.store.bootstrap", code=None, STORE=store)

    answer = run("minio://by-the-job/store")
    assert answer.returncode == 0, answer.stderr
    assert server.bucket_exists("by-the-job")
    assert "credentials: keys S3_ACCESS_KEY and S3_SECRET_KEY\n" in answer.stderr
    assert "put, get, list and delete work under minio://by-the-job/store" in answer.stderr
    assert not list(server.list_objects("by-the-job", recursive=True))
    assert KEYS["S3_SECRET_KEY"] not in answer.stdout + answer.stderr
    answer = run("")
    assert (answer.returncode, "remedy" in answer.stderr, "Traceback" in answer.stderr) == (2, True, False)
