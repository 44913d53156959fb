"""Listings and deletions of many objects: a thousand with each request, as far as they are asked for."""

from pathlib import Path

import pytest
from minio.deleteobjects import DeleteError

from components.core.errors import ParameterError
from components.store import s3
from components.store.address import open_backend
from tests.infrastructure.faulty import RESET, UNAVAILABLE, FaultyProxy
from tests.s3_server import KEYS, scripted_server

MINUTES = 0.15


@pytest.fixture
def proxy(server, monkeypatch):
    with FaultyProxy(server._base_url.host) as started:
        monkeypatch.setenv("S3_ENDPOINT", started.endpoint)
        yield started


def filled(uri, count):
    backend = open_backend(uri, MINUTES)
    for number in range(count):
        backend.put(f"a/{number}", b"x")
    return backend


def test_all_that_are_named_go_and_nothing_else(uri, monkeypatch):
    monkeypatch.setattr(s3, "_PAGE", 2)
    backend = filled(uri, 6)
    backend.delete_all(f"a/{number}" for number in (0, 2, 3, 4, 9))  # the last one is not there
    assert [item.path for item in backend.walk()] == ["a/1", "a/5"]
    backend.delete_all([])


def test_a_request_takes_as_many_as_it_may(proxy, tmp_path, monkeypatch):
    monkeypatch.setattr(s3, "_PAGE", 2)
    backend = filled(f"minio://main/{tmp_path.name}", 5)
    proxy.done.clear()
    backend.delete_all(f"a/{number}" for number in range(5))
    assert sum(proxy.done.values()) == 3
    assert list(backend.walk()) == []


@pytest.mark.parametrize("fault", [RESET, UNAVAILABLE])
def test_a_listing_goes_on_behind_its_last_page(proxy, tmp_path, monkeypatch, fault):
    monkeypatch.setattr(s3, "_PAGE", 2)
    proxy.keys = 2
    backend = filled(f"minio://main/{tmp_path.name}", 7)
    proxy.done.clear()
    failed = set()
    proxy.fault = lambda number, method, path: (path not in failed and not failed.add(path) and fault) or None
    assert [item.path for item in backend.walk()] == [f"a/{number}" for number in range(7)]
    assert sum(proxy.done.values()) == 4
    assert proxy.made >= 4


def test_a_page_is_asked_for_when_it_is_needed(proxy, tmp_path, monkeypatch):
    monkeypatch.setattr(s3, "_PAGE", 2)
    proxy.keys = 2
    backend = filled(f"minio://main/{tmp_path.name}", 7)
    proxy.done.clear()
    listing = backend.walk("a")
    assert [next(listing).path for _ in range(3)] == ["a/0", "a/1", "a/2"]
    assert sum(proxy.done.values()) == 2


def test_an_object_that_is_not_deleted_is_named(monkeypatch):
    refused = "<Error><Key>x/b</Key><Code>AccessDenied</Code><Message>m</Message></Error>"
    document = f'<?xml version="1.0"?><DeleteResult xmlns="{{}}">{refused}</DeleteResult>'
    document = document.format("http://s3.amazonaws.com/doc/2006-03-01/").encode()
    with scripted_server((200, document)) as (url, seen):
        for name, value in {**KEYS, "S3_ENDPOINT": url}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ParameterError, match="delete b: AccessDenied"):
            open_backend("minio://bucket/x", MINUTES).delete_all(["a", "b"])
        assert len(seen) == 1


def test_objects_that_may_go_later_are_tried_again_alone(monkeypatch):
    for name, value in {**KEYS, "S3_ENDPOINT": "http://127.0.0.1:1"}.items():
        monkeypatch.setenv(name, value)
    backend, asked = open_backend("minio://bucket/x", MINUTES), []

    def remove_objects(bucket, objects):
        asked.append([one.name for one in objects])
        late = [name for name in asked[-1] if name != "x/a"] if len(asked) == 1 else []
        return iter([DeleteError("SlowDown", "m", name, None) for name in late])

    monkeypatch.setattr(backend.client, "remove_objects", remove_objects)
    backend.delete_all("abc")
    assert asked == [["x/a", "x/b", "x/c"], ["x/b", "x/c"]]


def test_a_folder_is_listed_in_the_order_of_its_paths(tmp_path):
    names = ["a/x", "a-b/x", "a.b", "a/b/x", "a/b-c", "b", "A", "é/ü", "a/.tmp-half", ".hidden"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    backend = open_backend(str(tmp_path))
    wanted = [path.as_posix() for path in sorted(map(Path, names)) if not path.name.startswith(".tmp-")]
    assert [item.path for item in backend.walk()] == wanted
    assert [item.path for item in backend.walk("a/")] == [name for name in wanted if name.startswith("a/")]
    assert list(backend.walk("b")) == list(backend.walk("none")) == []
