"""Faults of a store that heal, and one that stays away: a real S3 server behind a proxy that makes them.

What succeeded is not asked for again; a cut body never counts; the log is calm; the bound is in minutes.
"""

import collections
import itertools
import threading
import time

import pytest

from components.core.errors import ParameterError, TryAgainError
from components.dataset_import import decode
from components.dataset_import.step import STEP
from components.store.address import open_backend
from components.store.retry import Patience, TransientError
from components.synthetic.scenes import write_set
from tests.infrastructure.faulty import (
    GONE,
    HANG,
    HANG_S,
    LOST,
    RESET,
    THROTTLED,
    TRUNCATE,
    UNAVAILABLE,
    UNMEASURED,
    FaultyProxy,
)
from tests.runner import metrics, run_step
from tests.s3_server import s3_error, s3_server, scripted_server

MINUTES = 0.15  # 9 s, of which an answer may take a quarter


@pytest.fixture(scope="module")
def moto():
    with s3_server("main") as client:
        yield client


@pytest.fixture
def proxy(moto, monkeypatch):
    with FaultyProxy(moto._base_url.host) as started:
        monkeypatch.setenv("S3_ENDPOINT", started.endpoint)
        yield started


@pytest.fixture
def uri(tmp_path):
    return f"minio://main/{tmp_path.name}"


def told(caplog):
    """What the log says of the store; moto logs as well."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("components")]


def first(count, fault, only=("GET", "PUT", "POST", "HEAD", "DELETE")):
    """A fault for the first so many of each request."""
    met = collections.Counter()

    def ask(number, method, path):
        met[method, path] += method in only
        return fault if method in only and met[method, path] <= count else None

    return ask


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("reset", first(1, RESET)),
        ("503", first(1, UNAVAILABLE)),
        ("429", first(1, THROTTLED)),
        ("lost", first(1, LOST, only=("PUT", "DELETE", "POST"))),
        ("cut", first(1, TRUNCATE, only=("GET",))),
        ("unmeasured", first(1, UNMEASURED, only=("GET",))),
    ],
)
def test_every_call_outlives_a_fault_that_heals(proxy, uri, name, fault):
    proxy.keys = 2  # objects in a page of a listing
    backend = open_backend(f"{uri}/{name}", MINUTES)
    data = {f"a/{k}": bytes([k]) * 1000 for k in range(5)}
    proxy.fault = fault
    for path, content in data.items():
        backend.put(path, content)
    assert {path: backend.get(path) for path in data} == data
    assert backend.local("a/3").read_bytes() == data["a/3"]
    assert backend.read("a/1", 10, 20) == data["a/1"][10:30]
    assert [item.path for item in backend.walk("a")] == list(data)
    assert (backend.folders(), backend.size("a/0"), backend.size("b")) == (["a"], 1000, None)
    assert backend.copy_from(backend, "a/0", "a/9")
    backend.delete("a/0")
    backend.delete_all(["a/1", "a/2", "no"])
    assert [item.path for item in backend.walk("a")] == ["a/3", "a/4", "a/9"]
    assert proxy.made >= 6


def test_a_hang_is_a_fault_that_heals(proxy, uri):
    backend = open_backend(uri, MINUTES)
    backend.put("x", b"1")
    proxy.fault = first(1, HANG)
    began = time.monotonic()
    assert backend.get("x") == b"1"
    assert time.monotonic() - began < HANG_S  # it did not wait for the first answer


def test_a_store_that_refuses_connections_for_a_while(proxy, uri, caplog):
    backend = open_backend(uri, MINUTES)
    backend.put("x", b"1")
    proxy.stop(1.0)
    assert backend.get("x") == b"1"
    failed, healed = told(caplog)
    assert f"{uri}: GET {uri[13:]}/x failed (" in failed
    assert "trying again for up to 0.15 minutes" in failed
    assert f"{uri} answers again after" in healed


def test_a_long_upload_goes_on_with_the_part_that_failed(proxy, uri, tmp_path):
    (tmp_path / "big").write_bytes(b"0123456789abcdef" * (11 * 2**16))  # 11 MiB: three parts
    backend = open_backend(uri, MINUTES)
    proxy.fault = lambda number, method, path: RESET if "partNumber=2" in path and proxy.made < 3 else None
    backend.put_file("big", tmp_path / "big")
    assert proxy.made == 3
    parts = {path: count for (method, path), count in proxy.done.items() if method == "PUT"}
    assert sorted(parts.values()) == [1, 1, 1]
    assert sum(count for (method, _), count in proxy.done.items() if method == "POST") == 2  # begun and ended once
    proxy.fault = first(2, TRUNCATE, only=("GET",))
    assert backend.local("big").read_bytes() == (tmp_path / "big").read_bytes()


def test_an_upload_whose_last_answer_is_lost_is_whole(proxy, uri, tmp_path):
    """A server may remember a finished upload, or know nothing of it: then it begins again."""
    (tmp_path / "big").write_bytes(b"0123456789abcdef" * (6 * 2**16))
    backend, ends = open_backend(uri, MINUTES), []

    def fault(number, method, path):
        if method == "POST" and "uploadId" in path:
            ends.append(path)
            return (LOST, GONE, LOST, None)[len(ends) - 1]
        return None

    proxy.fault = fault
    backend.put_file("big", tmp_path / "big")
    assert [ends.count(path) for path in dict.fromkeys(ends)] == [2, 2]
    assert backend.get("big") == (tmp_path / "big").read_bytes()


def test_an_error_that_comes_with_status_200_is_none_that_succeeded(monkeypatch, moto):
    """S3 answers a copy at once and may fail later."""
    done = s3_error("InternalError").replace(b"<Error>", b'<CopyObjectResult xmlns="x"><ETag>"e"</ETag>')
    done = done.replace(b"</Error>", b"</CopyObjectResult>")
    with scripted_server((200, s3_error("InternalError")), (200, s3_error("SlowDown")), (200, done)) as (url, seen):
        monkeypatch.setenv("S3_ENDPOINT", url)
        backend = open_backend("minio://main/x", MINUTES)
        assert backend.copy_from(backend, "a", "b")
        assert len(seen) == 3
    with scripted_server((200, s3_error("AccessDenied"))) as (url, seen):
        monkeypatch.setenv("S3_ENDPOINT", url)
        backend = open_backend("minio://main/x", MINUTES)
        with pytest.raises(ParameterError, match="AccessDenied"):
            backend.copy_from(backend, "a", "b")


def test_what_a_server_will_never_do_is_not_asked_again(monkeypatch, moto):
    with scripted_server((501, s3_error("NotImplemented"))) as (url, seen):
        monkeypatch.setenv("S3_ENDPOINT", url)
        with pytest.raises(ParameterError, match="NotImplemented"):
            open_backend("minio://main/x", MINUTES).get("x")
        assert len(seen) == 1


@pytest.mark.parametrize(
    ("fault", "last"),
    [
        (UNAVAILABLE, "HTTP 503"),
        (THROTTLED, "HTTP 429"),
        (RESET, "a broken connection"),
        (HANG, "no answer in time"),
        (TRUNCATE, "a cut answer"),
    ],
)
def test_a_store_that_stays_away_ends_in_time_with_one_sentence(proxy, uri, caplog, fault, last):
    open_backend(uri).put("x", b"12")
    proxy.fault = lambda number, method, path: fault
    began = time.monotonic()
    with pytest.raises(TryAgainError) as caught:
        open_backend(uri, 0.03).get("x")
    assert time.monotonic() - began < 0.03 * 60 + 1
    assert caught.value.exit_code == 75
    assert caught.value.problem.startswith("the store did not answer within 0.03 minutes: ")
    assert last in caught.value.problem
    assert "\n" not in caught.value.problem
    assert "store_patience" in caught.value.remedy
    assert len(told(caplog)) == 1


def test_a_failed_upload_frees_its_parts_and_waits_only_once(proxy, uri, moto, tmp_path):
    (tmp_path / "big").write_bytes(bytes(6 * 2**20))
    proxy.fault = lambda number, method, path: UNAVAILABLE if method == "PUT" else None
    began = time.monotonic()
    with pytest.raises(TryAgainError, match="503"):
        open_backend(uri, 0.03).put_file("big", tmp_path / "big")
    assert time.monotonic() - began < 0.03 * 60 + 1
    assert f"{uri[13:]}/big" not in moto._execute("GET", "main", query_params={"uploads": ""}).data.decode()
    asked = []
    proxy.fault = lambda number, method, path: asked.append(method) or (None if method == "POST" else UNAVAILABLE)
    with pytest.raises(TryAgainError, match=r"PUT .* failed"):
        open_backend(uri, 0.03).put_file("big", tmp_path / "big")
    assert asked.count("DELETE") == 1  # what frees the parts is tried once


# The log and the bound, by a clock of the test ------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Time that passes by sleeping alone."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def failing(clock, until):
    def action():
        if clock[0] < until:
            raise TransientError("HTTP 503")
        return "done"

    return action


def test_an_outage_of_ten_minutes_takes_a_few_lines(clock, caplog):
    assert Patience(15, "minio://b/p")("GET x", failing(clock, 1600)) == "done"
    first, *middle, last = told(caplog)
    assert first == "minio://b/p: GET x failed (HTTP 503), trying again for up to 15 minutes"
    assert all("no answer for" in line for line in middle)
    assert 3 <= len(middle) <= 7  # 15 s, then twice as long each time
    assert last.startswith("minio://b/p answers again after 6")


def test_many_short_outages_are_told_once_a_minute(clock, caplog):
    patience = Patience(15, "minio://b/p")
    for _ in range(200):
        assert patience("GET x", failing(clock, clock[0] + 0.1)) == "done"
    assert len(caplog.records) <= 2 * (1 + (clock[0] - 1000) // 60)


def test_the_bound_is_in_minutes_and_tries_are_spread_over_it(clock):
    tried = []

    def action():
        tried.append(clock[0])
        raise TransientError("HTTP 503")

    with pytest.raises(TryAgainError, match=r"within 15 minutes: GET x failed \d+ times, at last with HTTP 503"):
        Patience(15, "minio://b/p")("GET x", action)
    assert 14 * 60 < tried[-1] - tried[0] <= 15 * 60
    assert max(later - earlier for earlier, later in itertools.pairwise(tried)) <= 30
    assert 40 < len(tried) < 200


# A step ---------------------------------------------------------------------------------------------------------------

COUNT = 6


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults") / "set"
    write_set(folder, "scenes", COUNT, seed=5, size=(32, 32), num_frames=9)
    return folder


@pytest.fixture
def decoded(monkeypatch):
    """Which videos were decoded, in order."""
    found, probe = [], decode.probe
    monkeypatch.setattr(decode, "probe", lambda path: found.append(path.name) or probe(path))
    return found


def imported(tmp_path, uri, source, minutes=MINUTES, rerun="0"):
    shared = {"source": str(source), "store_patience": minutes}
    return run_step(STEP, tmp_path, uri, {"processes": 1}, shared, rerun=rerun, form="training")


def after_entries(proxy, count, action):
    """Nothing, until so many entries were written; then what `action` returns."""
    begun = lambda: sum(path.endswith("/entry.json") for method, path in proxy.done if method == "PUT")
    return lambda number, method, path: action() if begun() >= count else None


@pytest.mark.parametrize("rerun", ["0", "force1"])
@pytest.mark.parametrize("fault", ["refuses", RESET, UNAVAILABLE, THROTTLED, HANG, TRUNCATE])
def test_a_step_goes_on_when_the_store_comes_back_and_computes_nothing_twice(
    proxy, uri, source, tmp_path, decoded, fault, rerun
):
    clean = (imported(tmp_path, tmp_path / "folder", source)["videos"] / "manifest.json").read_bytes()
    if rerun != "0":
        imported(tmp_path, uri, source)
    decoded.clear()
    proxy.done.clear()
    made = []

    def outage():
        made.append(time.monotonic())
        if fault == "refuses":
            if len(made) == 1:
                threading.Thread(target=proxy.stop, args=(0.7,)).start()
            return None
        return fault if len(made) <= 2 else None

    proxy.fault = after_entries(proxy, 3, outage)
    outputs = imported(tmp_path, uri, source, rerun=rerun)
    assert (outputs["videos"] / "manifest.json").read_bytes() == clean
    assert made
    assert len(decoded) == len(set(decoded)) == COUNT
    written = [count for (method, path), count in proxy.done.items() if method == "PUT" and "entry.json" in path]
    assert set(written) == {1}
    assert metrics(outputs)["share_remembered"] == 0


def test_a_step_whose_store_stays_away_ends_with_75_and_the_next_try_goes_on(proxy, uri, source, tmp_path, decoded):
    proxy.fault = after_entries(proxy, 3, lambda: UNAVAILABLE)
    with pytest.raises(TryAgainError) as caught:
        imported(tmp_path, uri, source, 0.02)
    assert (caught.value.exit_code, "\n" in caught.value.problem) == (75, False)
    before = len(decoded)
    proxy.fault = lambda number, method, path: None
    outputs = imported(tmp_path, uri, source)
    remembered = round(metrics(outputs)["share_remembered"] * COUNT)
    assert 1 <= remembered < COUNT
    assert before + COUNT - remembered == len(decoded)
    assert len(decoded) <= COUNT + 1  # what was in flight
