"""Both backends of the store (a folder, an S3 server), and what reading, writing and failing must look like on each."""

import errno
import gc
import hashlib
import io
import multiprocessing
import os
import sys

import pytest

from components.core.artifacts import VideoDataset
from components.core.errors import DataError, ParameterError, TryAgainError
from components.core.records import Failure, Ref
from components.store import file as file_module
from components.store.address import open_backend
from components.store.backend import Listed
from components.store.entries import File, WorkFolder, hash_file
from tests.s3_server import KEYS, closed_port, s3_error, scripted_server

KEY = "0" * 32
NOWHERE, BUCKET = "http://127.0.0.1:1", "minio://bucket/x"
GET, LIST = (lambda backend: backend.get("x")), (lambda backend: list(backend.walk()))


@pytest.fixture
def endpoint(monkeypatch):
    """Function that opens a store at the endpoint of an S3 server, with the usual keys and little patience."""
    for name, value in {"S3_ENDPOINT": NOWHERE, **KEYS}.items():
        monkeypatch.setenv(name, value)

    def open_at(url, uri=BUCKET):
        monkeypatch.setenv("S3_ENDPOINT", url)
        return open_backend(uri, patience=0.02)

    return open_at


def digest(data):
    return hashlib.sha256(data).hexdigest()


def ref(path, data, task="attention_capture"):
    return Ref(path=path, sha256=digest(data), bytes=len(data), task=task)


def test_objects_come_back_as_they_were_put(uri, tmp_path):
    backend = open_backend(uri)
    backend.put("b/two.bin", b"two")
    backend.put("b/two.bin", b"second")
    (tmp_path / "local").write_bytes(b"l" * 3_000_000)
    backend.put_file("a.bin", tmp_path / "local")
    assert backend.get("b/two.bin") == b"second"
    assert backend.size("a.bin") == 3_000_000
    assert hash_file(backend.local("a.bin")) == digest(b"l" * 3_000_000)
    assert [(item.path, item.size) for item in backend.walk()] == [("a.bin", 3_000_000), ("b/two.bin", 6)]
    assert [item.path for item in backend.walk("b")] == ["b/two.bin"]
    assert backend.folders() == ["b"]
    backend.delete("b/two.bin")
    assert [item.path for item in open_backend(backend.uri).walk()] == ["a.bin"]


def test_missing_objects_and_a_prefix_that_is_only_the_beginning_of_a_name(uri):
    backend = open_backend(uri)
    assert (backend.get("no"), backend.size("no"), backend.local("no"), list(backend.walk())) == (None, None, None, [])
    backend.delete("no")
    backend.put("step/x", b"1")
    backend.put("step_pictures/x", b"2")
    assert [item.path for item in backend.walk("step")] == ["step/x"]


def test_a_folder_behind_a_link_is_listed_once_for_each_way_to_it(tmp_path):
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    for folder in (source / "own", elsewhere / "deep"):
        folder.mkdir(parents=True)
    (elsewhere / "deep" / "v.mp4").write_bytes(b"v")
    for name, target in {"a": elsewhere, "b": elsewhere, "own/v.mp4": elsewhere / "deep" / "v.mp4"}.items():
        (source / name).symlink_to(target)
    (source / "gone").symlink_to(tmp_path / "no such")
    for name, target in {"self": source / "self", "own/up": source, "a/deep/back": source}.items():  # no endless walk
        (source / name).symlink_to(target)
    listed = list(open_backend(str(source)).walk())
    assert [(item.path, item.size) for item in listed] == [("a/deep/v.mp4", 1), ("b/deep/v.mp4", 1), ("own/v.mp4", 1)]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take no such name")
def test_a_name_that_is_not_utf8_is_left_out_and_said(tmp_path, caplog):
    for name in (b"caf\xe9.mp4", "café.mp4".encode()):
        (tmp_path / os.fsdecode(name)).write_bytes(b"v")
    assert [item.path for item in open_backend(str(tmp_path)).walk()] == ["café.mp4"]
    assert "'caf\\udce9.mp4' left out" in caplog.text


def test_a_stamp_changes_with_the_content(uri):
    backend = open_backend(uri)
    backend.put("x", b"one")
    (before,) = backend.walk()
    backend.put("x", b"two")
    (after,) = backend.walk()
    assert isinstance(before, Listed)
    assert (before.path, before.size) == (after.path, after.size)
    assert before.stamp != after.stamp


@pytest.mark.parametrize("name", ["with space", "50%25", "a#b", "q?x"])
def test_odd_folder_names_as_paths_and_as_addresses(tmp_path, name):
    backend = open_backend(str(tmp_path / name))
    backend.put("x", b"1")
    assert (tmp_path / name / "x").read_bytes() == b"1"
    assert open_backend(backend.uri).root == tmp_path / name


def test_release_gives_back_a_download_but_never_a_file_itself(uri):
    backend = open_backend(uri)
    backend.put("x", b"1")
    path = backend.local("x")
    backend.release("x")
    backend.release("never downloaded")
    assert path.exists() is uri.startswith("file")
    assert backend.local("x").read_bytes() == b"1"


def test_copies_inside_one_endpoint_and_not_between_kinds(server, tmp_path):
    source, target = open_backend("minio://other/from"), open_backend("minio://main/to")
    source.put("x", b"bytes")
    assert target.copy_from(source, "x", "y") is True
    assert target.get("y") == b"bytes"
    assert target.copy_from(source, "no such", "z") is False
    folder = open_backend(str(tmp_path))
    assert folder.copy_from(source, "x", "y") is False
    assert target.copy_from(folder, "x", "y") is False


def test_work_is_remembered_by_its_entry_alone(store):
    folder = WorkFolder(store, "step", "3", KEY)
    folder.put("maps", "safetensors", b"maps")
    folder.put("latents", "safetensors", b"latents", scratch=True)
    folder.adopt("video", File(path="videos/v.mp4", sha256=digest(b"v"), bytes=1))
    assert store.entry("step", KEY) is None
    written = folder.finish("unit", {"video": "v"}, {"score": 0.5})
    entry = store.entry("step", KEY)
    assert entry == written
    assert (entry.version, entry.unit, entry.numbers) == ("3", "unit", {"score": 0.5})
    assert entry.files["maps"].path == f"step/{KEY}/maps-{digest(b'maps')[:16]}.safetensors"
    assert entry.files["latents"].path == f"scratch/{KEY}/latents-{digest(b'latents')[:16]}.safetensors"
    assert store.read(entry.ref("maps", "step")) == b"maps"
    assert entry.ref("video", "t") == Ref(path="videos/v.mp4", sha256=digest(b"v"), bytes=1, task="t")


def test_damaged_names_missing_and_changed_files_but_not_cleaned_scratch(store):
    folder = WorkFolder(store, "step", "1", KEY)
    for role in ("kept", "gone", "changed"):
        folder.put(role, "bin", role.encode())
    folder.put("cleaned", "bin", b"c", scratch=True)
    folder.put("spoilt", "bin", b"s", scratch=True)
    entry = folder.finish("u", {}, {})
    assert store.damaged(entry) == []
    store.backend.delete(entry.files["gone"].path)
    store.backend.put(entry.files["changed"].path, b"chanGed")
    store.backend.delete(entry.files["cleaned"].path)
    store.backend.put(entry.files["spoilt"].path, b"S")
    assert sorted(store.damaged(entry)) == sorted(entry.files[role].path for role in ("gone", "changed", "spoilt"))


def test_a_damaged_entry_is_an_error_and_a_miss_only_where_that_is_asked(store, caplog):
    store.backend.put(f"step/{KEY}/entry.json", b'{"step": "step", "ver')
    for task, named in (("", "rerun_step "), ("the_task", "rerun_the_task ")):
        with pytest.raises(DataError, match=named) as caught:
            store.entry("step", KEY, task=task)
        assert f"step/{KEY}/entry.json" in caught.value.source
    assert store.entry("step", KEY, miss_if_damaged=True) is None
    assert f"step/{KEY}/entry.json is damaged" in caplog.text


def test_nan_never_becomes_an_entry(store):
    with pytest.raises(DataError, match="NaN or infinity"):
        WorkFolder(store, "step", "1", KEY).finish("u", {}, {"score": float("nan")})
    assert store.entry("step", KEY) is None


def test_reading_what_is_there(store):
    wanted = ref("x.bin", b"data")
    assert store.present(wanted) is False
    store.backend.put("x.bin", b"data")
    assert store.present(wanted) is True
    assert store.read(wanted) == store.fetch(wanted).read_bytes() == b"data"


@pytest.mark.parametrize("how", ["read", "fetch"])
@pytest.mark.parametrize(
    ("there", "said"), [(None, "is missing"), (b"mapz", "other content"), (b"map", "other content"), (b"", "0 bytes")]
)
def test_reading_verifies_and_names_the_object_and_the_nonce(store, how, there, said):
    wanted = ref("step/k/maps.bin", b"maps")
    if there is not None:
        store.backend.put(wanted.path, there)
    before = list(store.backend.walk())
    with pytest.raises(DataError, match=said) as caught:
        getattr(store, how)(wanted)
    assert caught.value.exit_code == 3
    assert "step/k/maps.bin" in caught.value.source
    assert "rerun_attention_capture" in caught.value.remedy
    assert list(store.backend.walk()) == before


def test_manifests_by_digest(store):
    left_out = [Failure(unit="é", task="t", reason="r")]
    manifest = VideoDataset(kind="VideoDataset", provenance={}, lines=[], left_out=left_out)
    name = store.publish(manifest)
    assert name == digest(store.backend.get(f"manifests/{name}.json"))
    assert store.publish(manifest) == name
    assert store.manifest(f"sha256:{name}", VideoDataset) == store.manifest(name, VideoDataset) == manifest
    with pytest.raises(DataError, match="no manifest ffff"):
        store.manifest("ffff", VideoDataset)
    store.backend.put(f"manifests/{name}.json", b"{}")
    with pytest.raises(DataError, match="differs from its name"):
        store.manifest(name, VideoDataset)


class Full(io.FileIO):
    """A file on a disk that has no space left."""

    def write(self, _):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("size", [10, 1_000_000], ids=["seen at close", "seen at write"])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, size):
    backend = open_backend(str(tmp_path / "store"))
    backend.put("a/x", b"old")
    (tmp_path / "local").write_bytes(b"n" * size)
    monkeypatch.setattr(file_module.os, "fdopen", lambda descriptor, mode: io.BufferedWriter(Full(descriptor, mode)))
    for write in (lambda: backend.put("a/x", b"n" * size), lambda: backend.put_file("a/x", tmp_path / "local")):
        with pytest.raises(TryAgainError, match="no space left") as caught:
            write()
        assert caught.value.exit_code == 75
    monkeypatch.undo()
    assert backend.get("a/x") == b"old"
    assert [path.name for path in (tmp_path / "store" / "a").iterdir()] == ["x"]


def test_a_folder_that_cannot_be_written_is_a_parameter(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ParameterError, match="cannot write"):
        open_backend(str(tmp_path / "file")).put("x", b"1")


def test_an_interrupted_write_leaves_the_old_object(tmp_path):
    backend = open_backend(str(tmp_path))
    backend.put("x", b"old")

    def interrupted():
        with backend._target("x") as handle:
            handle.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (backend.get("x"), [path.name for path in tmp_path.iterdir()]) == (b"old", ["x"])


@pytest.mark.parametrize("left_out", ["S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY"])
def test_no_credentials(endpoint, monkeypatch, left_out):
    monkeypatch.setenv(left_out, "")  # as an empty key of a secret
    with pytest.raises(ParameterError, match=left_out):
        open_backend(BUCKET)


@pytest.mark.parametrize(
    ("url", "uri", "said"),
    [
        (NOWHERE, "minio:///x", "no bucket"),
        (NOWHERE, "minio://Not_A_Bucket/x", "Not_A_Bucket"),
        (NOWHERE, "ftp://host/x", "unknown scheme 'ftp'"),
        ("localhost:9000", BUCKET, "S3_ENDPOINT.*no http"),
        ("http://host:abc", BUCKET, "S3_ENDPOINT.*invalid port"),
        ("http://host:9000/s3", BUCKET, "S3_ENDPOINT.*path"),
        ("http://[host", BUCKET, "S3_ENDPOINT.*IPv6"),
        ("http://me:secret@host:9000", BUCKET, "S3_ENDPOINT.*holds a user"),
    ],
)
def test_bad_addresses_and_endpoints(endpoint, url, uri, said):
    with pytest.raises(ParameterError, match=said) as caught:
        endpoint(url, uri)
    assert "secret@" not in str(caught.value)
    assert KEYS["S3_SECRET_KEY"] not in str(caught.value)


@pytest.mark.parametrize("call", [GET, lambda b: b.put("x", b"1"), LIST])
def test_a_bucket_that_is_not_there(server, call):
    with pytest.raises(ParameterError, match="'nowhere' does not exist"):
        call(open_backend("minio://nowhere/x"))


SLOW, BROKEN = (503, s3_error("SlowDown")), (500, s3_error("InternalError"))


@pytest.mark.parametrize("faults", [(SLOW, BROKEN), ((429, b"slower"), (502, b"bad gateway"))], ids=["S3", "a proxy"])
def test_a_fault_that_heals_is_retried_here(endpoint, faults):
    with scripted_server(*faults, (200, b"data")) as (url, seen):
        assert endpoint(url).get("x") == b"data"
        assert len(seen) == 3


def test_a_fault_that_does_not_heal_and_an_endpoint_that_does_not_answer(endpoint):
    with scripted_server(SLOW) as (url, seen):
        with pytest.raises(TryAgainError, match=r"within 0.02 minutes: GET x/x failed \d+ times, .* SlowDown"):
            endpoint(url).get("x")
        assert len(seen) >= 2
    with pytest.raises(TryAgainError, match="no connection") as caught:
        endpoint(f"http://127.0.0.1:{closed_port()}").get("x")
    assert caught.value.exit_code == 75


@pytest.mark.parametrize(
    ("answer", "call", "said", "remedy"),
    [
        ((403, s3_error("AccessDenied")), GET, "AccessDenied", "S3_SECRET_KEY"),
        ((403, s3_error("SignatureDoesNotMatch")), GET, "SignatureDoesNotMatch", "S3_SECRET_KEY"),
        ((403, s3_error("InvalidAccessKeyId")), GET, "InvalidAccessKeyId", "S3_SECRET_KEY"),
        # a proxy's answers and another server's
        ((403, b"<html>no</p></html>"), GET, "get x: HTTP 403", "check S3_ENDPOINT"),
        ((403, b'<?xml version="1.0"?><html/>'), GET, "get x: HTTP 403", "check S3_ENDPOINT"),
        ((407, b""), lambda b: b.size("x"), "stat x: HTTP 407", "check S3_ENDPOINT"),
        ((200, b"<!doctype html><html></html>"), LIST, "none of an S3 server", "check S3_ENDPOINT"),
        ((403, b"d\xe9fendu"), GET, "none of an S3 server", "check S3_ENDPOINT"),
    ],
)
def test_an_answer_that_never_changes_is_not_retried(endpoint, answer, call, said, remedy):
    with scripted_server(answer) as (url, seen):
        with pytest.raises(ParameterError, match=said) as caught:
            call(endpoint(url))
        assert len(seen) == 1
        assert remedy in caught.value.remedy


def test_https_where_http_is_spoken(endpoint):
    with scripted_server((200, b"data")) as (url, _), pytest.raises(ParameterError, match=r"SSL.*\n.*\n.*S3_ENDPOINT"):
        endpoint(url.replace("http:", "https:")).get("x")


@pytest.mark.parametrize(
    ("number", "error", "code"), [(errno.ENOSPC, TryAgainError, 75), (errno.EROFS, ParameterError, 2)]
)
def test_a_download_that_cannot_be_written(server, monkeypatch, number, error, code):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    backend = open_backend("minio://main/full")
    backend.put("x", b"1")
    monkeypatch.setattr(backend.client, "fget_object", refuse)
    with pytest.raises(error, match="TMPDIR") as caught:
        backend.local("x")
    assert caught.value.exit_code == code


@pytest.mark.filterwarnings("ignore:.*multi-threaded")
@pytest.mark.parametrize("first", [True, False], ids=["parent has downloads", "parent has none"])
def test_a_forked_process_has_connections_and_downloads_of_its_own(server, first):
    backend = open_backend("minio://main/fork")
    backend.put("x", b"1")
    ours, client = backend.local("x") if first else None, backend.client
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def child():
        backend.release("x")  # nothing of its own yet
        path = backend.local("x")
        sender.send((backend.client is client, path, path.read_bytes()))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    shared, theirs, data = receiver.recv()
    process.join()
    assert (shared, data, backend.client is client) == (False, b"1", True)
    assert not theirs.exists()
    if first:
        assert ours.read_bytes() == b"1"
        assert theirs.is_relative_to(ours.parent)
        del backend
        gc.collect()
        assert not ours.parent.exists()
