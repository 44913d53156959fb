"""`motion-enhancer cluster-smoke` where every submitted run is really executed, against the S3 server."""

import re
import shutil

import pytest

from tests.infrastructure.conftest import BUCKET, motion_enhancer
from tests.infrastructure.executing_kfp import LocalKfp
from tests.kubeflow.conftest import IMAGE
from tests.kubeflow.kubeflow_server import Server, serve


@pytest.fixture
def kfp(tmp_path):
    with serve(Server(LocalKfp(tmp_path))) as server:
        yield server


def cluster_smoke(server, data, out, *more):
    """Exit code, states by check, and all that was printed."""
    places = ("--store", f"minio://{BUCKET}/acceptance", "--source", f"{data}/scenes", "--output", out / "report")
    given = ("--benchmark", f"motionbench={data}/bench", "--image", IMAGE, "--every", 2)
    done = motion_enhancer("cluster-smoke", "--host", server.url, *places, *given, *more, check=False)
    rows = re.findall(r"^(ok|failed|\?|not run) +(.+?)  ", done.stdout, re.MULTILINE)
    return done.returncode, {what: state for state, what in rows}, done.stdout + done.stderr


def test_it_holds(kfp, data, tmp_path, capsys):
    code, states, said = cluster_smoke(kfp, data, tmp_path)
    assert (code, set(states.values()), len(states)) == (0, {"ok"}, 13), said + "".join(kfp.answer.said)
    (page,) = tmp_path.glob("report/*/report.html")
    assert page.stat().st_size > 100_000
    with capsys.disabled():
        print(f"\n{said}")


def test_a_kfp_that_caches_nothing_is_told_from_a_store_that_forgets(kfp, data, tmp_path):
    """KFP executes all tasks of the second run again; they find every piece of their work in the store."""

    def forget(number):
        if number == 1:
            shutil.rmtree(tmp_path / "cache")

    kfp.answer.before = forget
    shorter = ("--set", "num_steps=1", "--set", "params_sft.epochs=1")
    code, states, said = cluster_smoke(kfp, data, tmp_path, *shorter)
    failed = {what for what, state in states.items() if state == "failed"}
    assert (code, failed) == (1, {"same again: executes plan alone", "same again: the others from KFP's cache"}), said
    assert states["same again: computes nothing"] == "ok"
