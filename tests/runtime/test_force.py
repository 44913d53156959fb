"""A nonce `force…` computes everything once, in every step: a task that dies and its retry together, a third try none.

The computations themselves are counted, and so is what is written: every entry once per nonce.
"""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from pkgutil import resolve_name
from urllib.parse import urlparse

import pytest

from components.core.errors import TryAgainError
from components.kubeflow.tree import ROOT
from components.runtime.declaration import Step, declared
from components.runtime.parameters import SharedParams, UnitParams
from components.runtime.runner import execute, executor_input
from components.store.file import FileBackend
from components.synthetic.scenes import write_set
from tests.chain import SMALL
from tests.comparison import world
from tests.dataset_import.data import own
from tests.infrastructure.faulty import RESET, FaultyProxy
from tests.runner import metrics, run_step
from tests.s3_server import s3_server
from tests.vlm_attention import made

QWEN = "tiny-qwen2.5-vl"
SEEN = {"viewing": made.VIEWING}
PARAMS = {
    **SMALL,
    "dataset_import": {"processes": 1, "allow_subset": True},
    "ddim_inversion": {**SMALL["ddim_inversion"], "pictures": 1},
    "vlm_attention": {**SEEN, "min_coverage": 0.0, "maps_for": "all"},
    "sft": {"global_batch": 2, "max_steps": 1, "held_out": 0.0, "gradient_checkpointing": False},
    "benchmark_eval": SEEN,
    "leakage_check": {"readers": 1},
    "report": {"pictures": 1},
}

# of the trainings, those of the second variant are those of the first: they do not read its change
VARIANTS = [{"name": "aligned"}, {"name": "other heads", "head_ratio": 0.25}, {"name": "plain", "align_weight": 0}]
TRAIN = "components.sft.loop.train"


class Tasks:
    """A whole run on tiny models; every task of it can be started again, on a store of one's own, by its name."""

    def __init__(self, folder):
        self.folder, self.again = folder, {}
        write_set(folder / "scenes", "scenes", 3, seed=8, size=(64, 64), num_frames=17)
        write_set(folder / "bench", "bench", 2, seed=3, size=(64, 64), num_frames=9)
        both = {"vlm": QWEN, "vdm": "tiny-cogvideox", "num_steps": 2, "source": str(folder / "scenes")}
        self.shared = both | {"benchmarks": [f"motionbench={folder / 'bench'}"], "shard": "0/1"}
        self.shared["benchmark"] = self.shared["benchmarks"][0]
        videos = self.first("dataset_import", form="training")["videos"]
        trajectories = self.first("ddim_inversion", videos=videos)["trajectories"]
        captured = self.first("attention_capture", trajectories=trajectories)["maps"]
        heads = self.first("head_selection", maps=[captured])["heads"]
        words = self.first("token_selection", heads=heads)["prior"]
        priors = self.first("prior_set", form="collected", shards=[words])["priors"]
        frozen = self.first("vlm_attention", form="frozen", priors=priors)["maps"]
        model = self.first("sft", maps=[frozen])["model"]
        asked = self.first("benchmark_import", "dataset_import", "benchmark")["videos"]
        self.first("leakage_check", priors=priors, videos=asked)
        before = self.first("baseline_eval", "benchmark_eval", "untouched", videos=asked)["result"]
        after = self.first("tuned_eval", "benchmark_eval", "tuned", videos=asked, model=model)["result"]
        seen = self.first("tuned_attention", "vlm_attention", "tuned", priors=priors, model=model)["maps"]
        self.first("report", untouched=[before], tuned=[after], maps=seen, priors=priors, model=model)
        compared = world.build(folder / "compared", VARIANTS, clips=2, questions=6, seeds=(1,))
        self.again["comparison"] = partial(compared.compare, folder / "out" / "comparison")

    def first(self, task, step="", form="", **inputs):
        """Run a task for the first time; its outputs."""
        step = declared(step or task)
        shared = {name: value for name, value in self.shared.items() if name in step.form(form).shared.model_fields}
        given = {"params": PARAMS.get(step.name, {}), "shared": shared, "inputs": inputs, "form": form, "task": task}
        self.again[task] = partial(run_step, step, self.folder / "out", self.folder / "store", **given)
        return self.again[task]()


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return Tasks(tmp_path_factory.mktemp("force"))


@pytest.fixture
def nonce(request):
    """A nonce that no other test has: they share a store."""
    return f"force-{request.node.name}"


@pytest.fixture
def written(monkeypatch):
    """How often each entry was written."""
    found, put = Counter(), FileBackend.put

    def counted(self, path, data):
        put(self, path, data)
        found.update([path] * path.endswith("/entry.json"))

    monkeypatch.setattr(FileBackend, "put", counted)
    return found


class Computing:
    """Counts a function's calls, and dies instead of the one after `dies_after` others, once."""

    def __init__(self, monkeypatch, name, dies_after=None):
        self.calls, self.dies_after, self.function = 0, dies_after, resolve_name(name)
        monkeypatch.setattr(name, lambda *given, **named: self.call(*given, **named))

    def call(self, *given, **named):
        if self.calls == self.dies_after:
            self.dies_after = None
            raise KeyboardInterrupt
        self.calls += 1
        return self.function(*given, **named)


WORK = {  # by task: what computes a unit, and the number of units
    "dataset_import": ("components.dataset_import.decode.probe", 3),
    "ddim_inversion": ("components.ddim_inversion.video.invert_video", 3),
    "attention_capture": ("components.attention_capture.sample.capture_sample", 3),
    "token_selection": ("components.token_selection.motion_score.motion_prior", 3),
    "vlm_attention": ("components.vlm_attention.maps.map_tokens", 3),
    "tuned_attention": ("components.vlm_attention.maps.map_attention", 3),
    "benchmark_import": ("components.dataset_import.decode.probe", 2),
    "leakage_check": ("components.leakage_check.fingerprint.hashes", 3 + 2),
    "baseline_eval": ("components.models.vlm.model.Vlm.replies", 2),
    "tuned_eval": ("components.models.vlm.model.Vlm.replies", 2),
}


@pytest.mark.parametrize("task", WORK)
def test_a_forced_task_that_dies_goes_on_and_a_finished_one_computes_nothing(tasks, task, nonce, written, monkeypatch):
    function, count = WORK[task]
    start, computing = tasks.again[task], Computing(monkeypatch, function, count - 1)
    with pytest.raises(KeyboardInterrupt):
        start(rerun=nonce)
    assert computing.calls == count - 1
    start(rerun=nonce)
    assert computing.calls == count
    assert set(written.values()) == {1}
    last = start(rerun=nonce)
    assert metrics(last)["share_remembered"] == 1.0
    assert computing.calls == count
    assert set(written.values()) == {1}
    assert metrics(start(rerun=f"{nonce}-again"))["share_remembered"] == 0.0
    assert computing.calls == 2 * count
    assert set(written.values()) == {2}
    assert metrics(start())["share_remembered"] == 1.0
    assert computing.calls == 2 * count


@pytest.mark.parametrize(
    ("task", "function"),
    [("report", "components.pages.page.fit"), ("comparison", "components.pages.page.fit"), ("sft", TRAIN)],
)
def test_a_forced_task_of_one_work_does_it_once(tasks, task, function, nonce, written, monkeypatch):
    start = tasks.again[task]
    Computing(monkeypatch, function, 0)
    with pytest.raises(KeyboardInterrupt):
        start(rerun=nonce)
    for _ in range(2):
        start(rerun=nonce)
        assert list(written.values()) == [1]
    start(rerun=f"{nonce}-again")
    assert list(written.values()) == [2]


@pytest.fixture
def trainings(tasks):
    """Start the trainings of variants, each with two seeds."""
    start = tasks.again["sft"]

    def run(variants=VARIANTS, rerun="0"):
        return start(shared=start.keywords["shared"] | {"variants": variants, "seeds": [1, 2]}, rerun=rerun)

    return run


def test_forced_trainings_of_variants_are_done_once_each(trainings, nonce, written, monkeypatch):
    computing = Computing(monkeypatch, TRAIN, 1)
    with pytest.raises(KeyboardInterrupt):
        trainings(rerun=nonce)
    trainings(rerun=nonce)
    assert metrics(trainings(rerun=nonce))["cases"] == 2 * 2
    trainings()
    assert computing.calls == 2 * 2
    assert list(written.values()) == [1] * 4


def test_a_variant_whose_trainings_are_forced_leaves_the_others(trainings, nonce, written, monkeypatch):
    before = trainings()
    computing = Computing(monkeypatch, TRAIN)
    trainings(VARIANTS[-1:], nonce)
    again = trainings()
    assert computing.calls == 2
    assert list(written.values()) == [1] * 2
    manifests = [sorted(one["model"].rglob("manifest.json")) for one in (before, again)]
    assert len(manifests[0]) == 3 * 2
    # what follows reads the same manifests, so it has nothing to compute
    assert [file.read_bytes() for file in manifests[0]] == [file.read_bytes() for file in manifests[1]]
    trainings(rerun=nonce)
    assert computing.calls == 2 + 2


def test_a_forced_task_that_dies_while_it_draws_keeps_its_results(tasks, nonce, written, monkeypatch):
    start = partial(tasks.again["attention_capture"], params=SMALL["attention_capture"] | {"pictures": 2})
    capturing = Computing(monkeypatch, "components.attention_capture.sample.capture_sample")
    Computing(monkeypatch, "components.attention_capture.pictures.head_thumbnails", 1)
    with pytest.raises(KeyboardInterrupt):
        start(rerun=nonce)
    assert capturing.calls == 3
    for _ in range(2):
        start(rerun=nonce)
        assert capturing.calls == 3 + 1  # the second picture shows a capture again; its maps are remembered
        works = Counter(path.partition("/")[0] for path in written.elements())
        assert works == {"attention_capture": 3, "attention_capture_pictures": 2}


def test_the_shards_of_a_task_share_its_nonce(tasks, nonce, monkeypatch):
    start = tasks.again["token_selection"]
    shards = [partial(start, shared=start.keywords["shared"] | {"shard": f"{k}/2"}, rerun=nonce) for k in range(2)]
    computing = Computing(monkeypatch, WORK["token_selection"][0])
    for shard in (*shards, *shards, partial(start, rerun=nonce)):
        shard()
    assert computing.calls == 3


class Pod:
    """`dataset_import` of five clips as its container runs it, on an S3 store behind a proxy."""

    def __init__(self, proxy, root, out):
        self.proxy, self.store, self.written, self.process = proxy, "minio://main/store", Counter(), None
        shared = {"store": self.store, "store_patience": 15, "source": str(root), "params": {"processes": 1}}
        self.request = lambda rerun: executor_input(declared("dataset_import"), out, {**shared, "rerun": rerun}, {})

    def run(self, rerun, dies_at=None):
        """Start it and return how it ended; kill it as it wants to write the entry after `dies_at` others."""
        before = sum(self.written.values())

        def fault(number, method, path):
            if method != "PUT" or not path.endswith("/entry.json"):
                return None
            if sum(self.written.values()) - before == dies_at:
                self.process.kill()
                return RESET
            self.written[path] += 1
            return None

        self.proxy.fault = fault
        command = [sys.executable, "-m", "components", "dataset_import", "dataset_import"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "S3_ENDPOINT": self.proxy.endpoint}
        self.process = subprocess.Popen([*command, json.dumps(self.request(rerun))], env=environment)
        return self.process.wait()


def test_a_pod_that_is_killed_and_its_retry_write_every_entry_once(tmp_path):
    rows = [{"id": f"u{k}", "video": f"{k}.mp4", "response": f"It goes {k}."} for k in range(5)]
    with s3_server("main"), FaultyProxy(urlparse(os.environ["S3_ENDPOINT"]).netloc) as proxy:
        pod = Pod(proxy, own(tmp_path / "data", rows), tmp_path / "out")
        assert pod.run("0") == 0
        assert (pod.run("force1", dies_at=3), sum(pod.written.values())) == (-signal.SIGKILL, 5 + 3)
        assert (pod.run("force1"), pod.run("force1")) == (0, 0)
        assert list(pod.written.values()) == [2] * 5


# What counts under a nonce --------------------------------------------------------------------------------------------


@pytest.fixture
def task(tmp_path):
    """Start a task with two units on a store; how many it computed."""

    def start(rerun="0", task="demo", count=2):
        def run(context):
            units = [str(k) for k in range(count)]
            compute = lambda unit, folder: folder.put("file", "bin", unit.encode()) or {}
            context.each(units, name=str, reads=lambda unit: {"unit": unit}, compute=compute)
            found.append(context.counts["computed"])

        found = []
        step = Step("demo", "1", "Demo", "thing", "cpu", run, UnitParams, SharedParams)
        given = {"store": str(tmp_path / "store"), "store_patience": 15, "rerun": rerun}
        execute(step, task, executor_input(step, tmp_path / "out", given, {}))
        return found[0]

    return start


def entries(tmp_path):
    return sorted((tmp_path / "store").rglob("entry.json"))


def test_work_of_no_nonce_or_of_another_does_not_count(task):
    assert [task(rerun) for rerun in ("0", "force1", "force1", "0", "1", "force2", "force1")] == [2, 2, 0, 0, 0, 2, 2]


def test_work_that_is_not_forced_says_nothing_of_nonces(task, tmp_path):
    task()
    before = [entry.read_bytes() for entry in entries(tmp_path)]
    assert not any(b"force" in data for data in before)  # as it was written before there was such a field
    task("force1")
    assert [json.loads(entry.read_bytes())["forced"] for entry in entries(tmp_path)] == [{"demo": "force1"}] * 2
    assert [entry.parent.name for entry in entries(tmp_path)] == [json.loads(data)["key"] for data in before]


def test_one_more_unit_under_the_same_nonce_is_one(task):
    assert [task("force1"), task("force1", count=3)] == [2, 1]


@pytest.mark.parametrize("spoilt", ["entry.json", "file-*.bin"])
def test_what_is_damaged_does_not_count(task, tmp_path, spoilt):
    task("force1")
    next((tmp_path / "store" / "demo").glob(f"*/{spoilt}")).write_bytes(b"{")
    assert [task("force1"), task("force1")] == [1, 0]


@pytest.mark.parametrize("rerun", ["0", "force1"])
def test_a_store_that_goes_away_costs_the_unit_in_flight(task, written, monkeypatch, rerun):
    with monkeypatch.context() as away:

        def put(self, path, data, put=FileBackend.put):
            if sum(written.values()) == 3:
                raise TryAgainError("503", source="the store", remedy="run again")
            put(self, path, data)

        away.setattr(FileBackend, "put", put)
        with pytest.raises(TryAgainError):
            task(rerun, count=5)
    assert task(rerun, count=5) == 5 - 3
    assert list(written.values()) == [1] * 5


def test_each_of_two_tasks_that_share_work_computes_it_once(task):
    """As the import of a clip that is in the training source and in a benchmark; the other's nonce is not lost."""
    forced = [("force1", "one"), ("force1", "two"), ("force1", "one"), ("force1", "two"), ("force2", "one")]
    assert [task(*one) for one in forced] == [2, 2, 0, 0, 2]
    assert task("force1", "two") == 0


def test_a_finished_task_says_why_it_computed_nothing(task, caplog):
    caplog.set_level("INFO")
    task("force1")
    assert "a new nonce" not in caplog.text
    task("force1")
    assert "2 were computed under force1 before; a new nonce computes them again" in caplog.text
