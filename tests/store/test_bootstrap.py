"""The bucket and its one expiry rule: made once, changed when asked, and nobody else's rule touched."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from components.core.errors import ParameterError, TryAgainError
from components.store.address import open_backend
from components.store.bootstrap import bootstrap, with_expiry
from components.store.s3 import MinioBackend
from tests.s3_server import KEYS, closed_port, s3_error, s3_server, scripted_server

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = b"""<LifecycleConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<Rule><ID>logs</ID><Status>Enabled</Status><Filter><And><Prefix>logs/</Prefix><ObjectSizeGreaterThan>500</ObjectSizeGreaterThan></And></Filter>
<NoncurrentVersionExpiration><NoncurrentDays>3</NoncurrentDays><NewerNoncurrentVersions>2</NewerNoncurrentVersions></NoncurrentVersionExpiration>
</Rule></LifecycleConfiguration>"""


@pytest.fixture(scope="module")
def server():
    with s3_server("theirs") as client:
        yield client


def rules(bucket):
    document = MinioBackend.from_environment(f"minio://{bucket}").lifecycle()
    found = {}
    for rule in [] if document is None else ElementTree.fromstring(document).findall("{*}Rule"):
        found[rule.findtext("{*}ID")] = (
            rule.findtext(".//{*}Prefix"),
            rule.findtext(".//{*}Days"),
            rule.findtext("{*}Status"),
        )
    return found


def logs(document):
    """The rule of somebody else, in one spelling."""
    (rule,) = [rule for rule in ElementTree.fromstring(document).findall("{*}Rule") if rule.findtext("{*}ID") == "logs"]
    return ElementTree.canonicalize(ElementTree.tostring(rule), strip_text=True)


def test_the_bucket_is_made_once_and_holds_a_store(server):
    environment = {"STORE": "minio://new-one/deep/store"}
    bootstrap(environment)
    open_backend("minio://new-one/deep/store").put("x", b"1")
    bootstrap(environment)
    assert open_backend("minio://new-one/deep/store").get("x") == b"1"
    assert rules("new-one") == {}


@pytest.mark.parametrize(
    ("where", "prefix"), [("minio://expiring/deep/store", "deep/store/scratch/"), ("minio://whole", "scratch/")]
)
def test_scratch_expires_and_nothing_else(server, where, prefix):
    for days in ("30", "30", "7"):
        bootstrap({"STORE": where, "EXPIRE_SCRATCH_DAYS": days})
        assert rules(where.split("/")[2]) == {f"motion-enhancer: {prefix}": (prefix, days, "Enabled")}
    bootstrap({"STORE": where})
    assert len(rules(where.split("/")[2])) == 1


def test_other_rules_stay_to_the_letter(server):
    backend = MinioBackend.from_environment("minio://theirs/store")
    backend.set_lifecycle(FOREIGN)
    before, spelled = rules("theirs"), logs(backend.lifecycle())
    bootstrap({"STORE": "minio://theirs/store", "EXPIRE_SCRATCH_DAYS": "30"})
    bootstrap({"STORE": "minio://theirs/other", "EXPIRE_SCRATCH_DAYS": "5"})
    added = {
        f"motion-enhancer: {name}/scratch/": (f"{name}/scratch/", days, "Enabled")
        for name, days in (("store", "30"), ("other", "5"))
    }
    assert rules("theirs") == before | added
    assert logs(backend.lifecycle()) == spelled
    assert "NoncurrentDays>3<" in spelled


def test_what_is_sent_keeps_elements_that_nobody_here_knows():
    made = with_expiry(FOREIGN, "store/scratch/", 30)
    assert logs(made) == logs(FOREIGN)
    assert [item.text for item in ElementTree.fromstring(made).findall("{*}Rule/{*}Filter/{*}Prefix")] == [
        "store/scratch/"
    ]
    assert with_expiry(made, "store/scratch/", 30) is None
    assert len(ElementTree.fromstring(with_expiry(made, "store/scratch/", 31)).findall("{*}Rule")) == 2


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "STORE=''"),
        ({"STORE": "file:///folder"}, "is no bucket"),
        *[
            ({"STORE": "minio://new-one/x", "EXPIRE_SCRATCH_DAYS": days}, "EXPIRE_SCRATCH_DAYS")
            for days in ("0", "-1", "1.5", "a month")
        ],
    ],
)
def test_wrong_environments(server, environment, said):
    with pytest.raises(ParameterError, match=said):
        bootstrap(environment)


def test_a_store_that_refuses_and_one_that_is_not_there(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with scripted_server((404, s3_error("NoSuchBucket")), (403, s3_error("AccessDenied"))) as (url, _):
        monkeypatch.setenv("S3_ENDPOINT", url)
        with pytest.raises(ParameterError):
            bootstrap({"STORE": "minio://bucket/x"})
    monkeypatch.setenv("S3_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(TryAgainError):
        bootstrap({"STORE": "minio://bucket/x"})


def test_as_the_job_runs_it(server):
    def run(**more):
        environment = {**os.environ, **more, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-m", "components.store.bootstrap"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    answer = run(STORE="minio://by-the-job/store", EXPIRE_SCRATCH_DAYS="30")
    assert answer.returncode == 0, answer.stderr
    assert rules("by-the-job") == {"motion-enhancer: store/scratch/": ("store/scratch/", "30", "Enabled")}
    assert KEYS["S3_SECRET_KEY"] not in answer.stdout + answer.stderr
    answer = run(STORE="")
    assert (answer.returncode, "remedy" in answer.stderr, "Traceback" in answer.stderr) == (2, True, False)
