"""Store faults during a run, against a real server: retried in the process or ended with their code, nothing lost.

`tests/store/test_patience.py` has the same against moto, in one process and with counts.
"""

import collections
import functools
import io
import itertools
import json
import re
import secrets
import subprocess
import sys
import uuid
from urllib.parse import urlparse

import pytest

from components.kubeflow.tree import ROOT
from components.store.access import check_access
from components.store.address import open_backend
from tests.infrastructure.conftest import BUCKET, motion_enhancer
from tests.infrastructure.faulty import HANG, HANG_S, LOST, RESET, THROTTLED, TRUNCATE, UNAVAILABLE, FaultyProxy

SESSION = uuid.uuid4().hex[:8]  # a server that outlives these tests remembers their work


def arguments(data, store, out, minutes=15):
    uri, patience = f"minio://{BUCKET}/{SESSION}/{store}", f"store_patience={minutes}"
    return ("step", "dataset_import", "--store", uri, "--out", out, "--set", f"source={data}/scenes", "--set", patience)


def imported(data, store, out, minutes=15, **environment):
    """dataset_import as a process, whatever its end; source and store are behind the same endpoint."""
    return motion_enhancer(*arguments(data, store, out, minutes), check=False, **environment)


def manifest(out):
    return (out / "videos" / "manifest.json").read_bytes()


def remembered(out):
    found = json.loads((out / "metrics").read_bytes())
    return round(found["units"] * found["share_remembered"])


@pytest.fixture(scope="module")
def clean(data, tmp_path_factory):
    """What an undisturbed run publishes."""
    out = tmp_path_factory.mktemp("clean")
    done = imported(data, "clean", out)
    assert done.returncode == 0, done.stderr
    return manifest(out)


@pytest.fixture
def proxy(services):
    with FaultyProxy(urlparse(services.s3_endpoint).netloc) as started:
        yield started


def seldom(fault, every, only=("GET", "PUT", "POST", "HEAD", "DELETE")):
    """A fault for every so many of these requests, for the same one at most twice."""
    met, asked = collections.Counter(), itertools.count(1)

    def ask(number, method, path):
        if method not in only or next(asked) % every or met[method, path] == 2:
            return None
        met[method, path] += 1
        return fault

    return ask


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("reset", seldom(RESET, 5)),
        ("unavailable", seldom(UNAVAILABLE, 4)),
        ("throttled", seldom(THROTTLED, 3)),
        ("hang", seldom(HANG, 20)),
        ("lost", seldom(LOST, 4, only=("PUT",))),
        ("slow", lambda number, method, path: 0.1),
        ("truncated", seldom(TRUNCATE, 3, only=("GET",))),
    ],
)
def test_what_heals_heals_inside_the_process(clean, data, proxy, tmp_path, name, fault):
    proxy.fault = fault
    # an answer may take a quarter of the patience, less than a hang lasts
    minutes = HANG_S / 60 if name == "hang" else 5
    done = imported(data, f"heals-{name}", tmp_path, 3 * minutes, S3_ENDPOINT=proxy.endpoint)
    assert done.returncode == 0, done.stderr
    assert proxy.made >= (2 if name == "hang" else 5)
    assert manifest(tmp_path) == clean


def after_entries(count, action):
    """A fault that begins once `count` pieces of work were finished, so that there is something to lose."""
    finished = []

    def fault(number, method, path):
        begun = len(finished) >= count
        if method == "PUT" and path.endswith("/entry.json"):
            finished.append(number)
        return action() if begun else None

    return fault


@pytest.mark.parametrize("fault", [RESET, UNAVAILABLE, THROTTLED, HANG])
def test_a_server_that_stays_away_ends_with_75_and_nothing_is_lost(clean, data, proxy, tmp_path, fault):
    store = f"away-{fault}"
    proxy.fault = after_entries(8, lambda: fault)
    done = imported(data, store, tmp_path, 0.05, S3_ENDPOINT=proxy.endpoint)
    assert done.returncode == 75, done.stderr
    assert done.stderr.count("the store did not answer within 0.05 minutes") == 1
    assert "remedy:" in done.stderr
    assert not (tmp_path / "videos" / "manifest.json").exists()
    again = imported(data, store, tmp_path)
    assert again.returncode == 0, again.stderr
    assert 1 <= remembered(tmp_path) < 8
    assert manifest(tmp_path) == clean


def test_credentials_revoked_end_with_2_and_nothing_is_lost(clean, data, proxy, tmp_path):
    # a second key of the user, so that no other test loses its own
    access, secret = secrets.token_hex(10), secrets.token_hex(20)

    def key(what, *given):
        command = f"radosgw-admin --name=client.rgw key {what} --uid=ci --key-type=s3 --access-key={access}".split()
        command += given
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    key("create", f"--secret-key={secret}")
    proxy.fault = after_entries(8, functools.cache(lambda: key("rm")))
    done = imported(data, "revoked", tmp_path, S3_ENDPOINT=proxy.endpoint, S3_ACCESS_KEY=access, S3_SECRET_KEY=secret)
    assert done.returncode == 2, done.stderr
    assert re.search(r"S3_ACCESS_KEY|credentials", done.stderr)
    assert secret not in done.stderr
    again = imported(data, "revoked", tmp_path)
    assert again.returncode == 0, again.stderr
    assert 1 <= remembered(tmp_path) < 8
    assert manifest(tmp_path) == clean


def test_wrong_credentials_and_a_missing_bucket_end_with_2(data, services, tmp_path):
    wrong = imported(data, "wrong", tmp_path, S3_SECRET_KEY="not-the-key")
    assert wrong.returncode == 2, wrong.stderr
    command = [*arguments(data, "", tmp_path)]
    command[3] = "minio://no-such-bucket/store"
    missing = motion_enhancer(*command, check=False)
    assert missing.returncode == 2, missing.stderr
    assert "no-such-bucket" in missing.stderr


def test_a_truncated_object_stops_its_reader_and_the_named_rerun_heals_it(clean, data, s3, tmp_path):
    store, out = "cut", tmp_path / "import"
    assert imported(data, store, out).returncode == 0
    path = next(s3.list_objects(BUCKET, f"{SESSION}/{store}/videos/")).object_name
    content = s3.get_object(BUCKET, path).read()
    s3.put_object(BUCKET, path, io.BytesIO(content[:-100]), len(content) - 100)

    def invert():
        params = json.dumps({"height": 64, "width": 64, "num_frames": 17, "dtype": "float32"})
        given = ["--set", "vdm=tiny-cogvideox", "--set", "num_steps=1", "--set", "shard=0/1"]
        places = ("--store", f"minio://{BUCKET}/{SESSION}/{store}", "--out", tmp_path / "invert")
        given += [*places, "--in", f"videos={out / 'videos'}", "--params", params]
        return motion_enhancer("step", "ddim_inversion", *given, check=False)

    stopped = invert()
    assert stopped.returncode == 3, stopped.stderr
    assert path.removeprefix(f"{SESSION}/{store}/") in stopped.stderr
    assert "rerun_dataset_import" in stopped.stderr
    assert s3.stat_object(BUCKET, path).size == len(content) - 100  # a reader never repairs
    healed = motion_enhancer(*arguments(data, store, out), "--rerun", "1", check=False)
    assert healed.returncode == 0, healed.stderr
    assert s3.get_object(BUCKET, path).read() == content
    assert invert().returncode == 0
    assert manifest(out) == clean


def test_two_runs_that_write_the_same_work_at_once_are_both_right(clean, data, tmp_path):
    outs = [tmp_path / "one", tmp_path / "other"]
    command = [sys.executable, "-m", "components.cli"]
    started = [subprocess.Popen([*command, *map(str, arguments(data, "twice", out))], cwd=ROOT) for out in outs]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    assert [manifest(out) for out in outs] == [clean, clean]
    third = tmp_path / "third"
    assert imported(data, "twice", third).returncode == 0
    assert remembered(third) == 8


def test_a_long_upload_that_loses_answers_is_whole(proxy, s3, tmp_path, monkeypatch):
    monkeypatch.setenv("S3_ENDPOINT", proxy.endpoint)
    (tmp_path / "big").write_bytes(content := secrets.token_bytes(11 * 2**20))  # three parts
    backend = open_backend(f"minio://{BUCKET}/{SESSION}/long", 1)
    met = collections.Counter()

    def lose(number, method, path):
        met[method, path] += 1
        return LOST if met[method, path] == 1 and method in ("PUT", "POST") else None

    proxy.fault = lose
    backend.put_file("big", tmp_path / "big")
    assert proxy.made >= 5  # the beginning, each part, the end
    assert backend.get("big") == content
    assert check_access(backend)[-1] == f"put, get, list and delete work under {backend.uri}"
