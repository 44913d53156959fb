"""`store check` and `store gc` on both backends: what kept manifests lead to stays, whatever its kind; what nobody names goes."""

import shutil
import time

import pytest

from components.core import artifacts as a
from components.core.artifacts import PriorSet, load_manifest
from components.core.errors import DataError, ParameterError
from components.core.records import canonical_json, sha256
from components.store import gc as module
from components.store.check import check, load, products
from components.store.entries import Store, WorkFolder
from components.store.gc import DAY, Collector, Policy
from components.store.inventory import Inventory
from components.store.transfer import references
from components.synthetic.scenes import write_set
from tests.chain import Chain
from tests.command import motion_enhancer
from tests.s3_server import s3_server

LATER = 40 * DAY  # all written now is older than every age


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


def collector(store, later=LATER, **policy):
    return Collector(
        store, Policy(**{**policy, "drop": frozenset(policy.get("drop", ()))}), now=lambda: time.time() + later
    )


def paths(store):
    return {item.path for item in store.backend.walk()}


def gone(store, **policy):
    """The paths that a gc deletes; what it planned and what it says are the same."""
    before, planned = (
        paths(store),
        {item.path for victim in collector(store, **policy).plan().all() for item in victim.files},
    )
    assert paths(store) == before
    told = {item.path for victim in collector(store, **policy).delete() for item in victim.files}
    assert before - paths(store) == told == planned
    return told


# A store made by hand, with every kind of reference -------------------------------------------------------------------


class Made:
    """Works in the layout of the steps, and manifests over them."""

    def __init__(self, store):
        self.store = store
        self.video_file = self.raw(f"videos/{sha256(b'video')}.mp4", b"video")
        mask = self.work("dataset_import", "mask", {"video": "v"}, mask=b"mask")
        imported = self.open("dataset_import", "video")
        imported.adopt("video", self.video_file)
        imported.adopt("mask", mask.files["mask"])
        imported.finish("clip.mp4", {"video": {"address": "file:///somewhere/clip.mp4"}}, {})
        self.trajectory = self.work("ddim_inversion", "t", {"video": "v"}, scratch=("latents",), latents=b"latents")
        self.maps = self.work(
            "attention_capture", "m", {"trajectory": self.trajectory.key}, maps=b"maps", statistics=b"statistics"
        )
        self.drawn = self.work("attention_capture_pictures", "p", {"maps": self.maps.key}, heads=b"heads")
        self.prior = self.work(
            "token_selection", "n", {"attention": self.maps.key}, prior=b"prior", per_frame=b"per_frame"
        )
        self.words = self.work("vlm_attention", "w", {"prior": self.prior.key}, token_map=b"token_map")
        self.seen = self.work("vlm_attention_maps", "s", {"token_map": self.words.key}, vlm_map=b"vlm_map")
        files = {"model": b"model", "config": b"{}", "aligner": b"aligner", "log": b"log"}
        self.model = self.work("sft", "x", {"lines": [[self.words.key, "0" * 64]]}, **files)
        self.answer = self.work("benchmark_eval", "a", {"video": "v"})

    def raw(self, path, data):
        from components.store.entries import File

        self.store.backend.put(path, data)
        return File(path=path, sha256=sha256(data), bytes=len(data))

    def key(self, name):
        return sha256(f"key of {name}".encode())[:32]

    def open(self, step, name):
        return WorkFolder(self.store, step, "1", self.key(f"{step}/{name}"))

    def work(self, step, name, reads, scratch=(), **files):
        folder = self.open(step, name)
        for role, data in files.items():
            folder.put(role, "bin", data + name.encode(), scratch=role in scratch)
        return folder.finish(name, reads, {})

    def prior_line(self, **fields):
        maps, prior = self.maps, self.prior
        file = a.Ref(**self.video_file.model_dump(), task="dataset_import")
        video = a.Video(file=file, width=1, height=1, rotation=0, duration=1, times=[0])
        sample = a.Sample(id="0" * 16, uid="u", question="q", is_instruction=False, response="r", answer="")
        return {
            "video": video,
            "sample": sample,
            "key": prior.key,
            "grid": a.Grid(times=[(0, 1)], rows=1, cols=1, box=(0, 1, 0, 1)),
            "pieces": [],
            "truncated": 0,
            "heads": [0],
            "statistics": maps.ref("statistics", "attention_capture"),
            "prior": prior.ref("prior", "token_selection"),
            "per_frame": prior.ref("per_frame", "token_selection"),
            "mask": self.store.entry("dataset_import", self.key("dataset_import/video")).ref("mask", "dataset_import"),
            "confidence": a.Confidence(concentration=0, dynamics=0, value=0),
            "pictures": {"heads": self.drawn.ref("heads", "attention_capture")},
            **fields,
        }

    def vlm_line(self):
        seen = self.seen.ref("vlm_map", "vlm_attention")
        line = self.prior_line(
            token_map=self.words.ref("token_map", "vlm_attention"), coverage=1.0, vlm_map=seen, distance=0.0
        )
        return a.VlmLine(**{**line, "key": self.words.key})

    def publish(self, kind, **fields):
        return self.store.publish(kind(kind=kind.KIND, provenance={}, **fields))

    def priors(self, **fields):
        return self.publish(a.PriorSet, lines=[a.PriorLine(**self.prior_line(**fields))], heads=[], saturation={})

    def tuned(self):
        model = self.model
        files = [model.ref(role, "sft") for role in ("model", "config")]
        lines = [self.vlm_line()]
        return self.publish(
            a.TunedModel,
            key=model.key,
            files=files,
            aligner=[model.ref("aligner", "sft")],
            log=model.ref("log", "sft"),
            lines=lines,
        )

    def evaluated(self):
        shared = {name: value for name, value in self.prior_line().items() if name in ("video", "sample", "mask")}
        told = {"reply": "A", "parsed": "A", "rule": "r", "correct": True, "official_correct": True, "frames": [0]}
        return self.publish(
            a.EvalResult,
            protocol="p",
            model="m",
            scores=[],
            lines=[a.ItemResult(**shared, key=self.answer.key, **told)],
        )

    def report(self, **reads):
        page = self.work("report", "page", reads, page=b"page")
        return page, self.publish(a.Report, page=page.ref("page", "report"))


def everything_of(*entries):
    return {
        path
        for entry in entries
        for path in (f"{entry.step}/{entry.key}/entry.json", *(file.path for file in entry.files.values()))
    }


def test_nothing_named_is_ever_deleted_whatever_field_names_it(store):
    """A manifest's every reference, the works that these are of, and what those read."""
    made = Made(store)
    priors, model = made.priors(), made.tuned()
    before = paths(store)
    assert gone(store) == everything_of(made.answer)  # the only work that neither leads to
    assert check(store, products(store), content=True).damages == []
    assert before - paths(store) == everything_of(made.answer)
    kinds = {ref.path.split("/")[-1].split("-")[0] for item in products(store) for ref in references(item)} - {
        f"{sha256(b'video')}.mp4"
    }
    assert kinds == {
        "mask",
        "statistics",
        "prior",
        "per_frame",
        "heads",
        "token_map",
        "vlm_map",
        "model",
        "config",
        "aligner",
        "log",
    }
    assert {f"manifests/{priors}.json", f"manifests/{model}.json"} <= paths(store)


@pytest.mark.parametrize(
    ("role", "step"),
    [
        ("mask", "dataset_import"),
        ("statistics", "attention_capture"),
        ("prior", "token_selection"),
        ("per_frame", "token_selection"),
        ("heads", "attention_capture_pictures"),
        ("token_map", "vlm_attention"),
        ("vlm_map", "vlm_attention_maps"),
        ("aligner", "sft"),
        ("log", "sft"),
        ("model", "sft"),
        ("page", "report"),
        ("video", "videos"),
    ],
)
def test_each_reference_alone_keeps_its_file_and_its_work(tmp_path, role, step):
    """A manifest that names this one file and nothing else, no key and no other reference."""
    store = Store(str(tmp_path))
    made = Made(store)
    made.report()
    (path,) = [item for item in paths(store) if item.split("/")[0] == step and (role == "video" or f"/{role}-" in item)]
    data = canonical_json({"kind": "PriorSet", "lines": [{"field": {"path": path, "task": "t"}}]})
    store.backend.put(f"manifests/{sha256(data)}.json", data)
    collector(store, drop=[item.digest for item in products_of(store, "Report")]).delete()
    assert path in paths(store)
    assert step == "videos" or any(item.startswith(path.rsplit("/", 1)[0] + "/entry.json") for item in paths(store))


def products_of(store, kind):
    for item in store.backend.walk("manifests"):
        if f'"kind":"{kind}"' in store.backend.get(item.path).decode():
            yield load(store, item.path.split("/")[1].removesuffix(".json"))


def test_a_prior_set_keeps_what_its_works_read_but_nothing_after_it(store):
    made = Made(store)
    made.priors()
    names = [made.words, made.seen, made.model, made.answer]
    assert gone(store) == everything_of(*names)
    left = paths(store)
    assert everything_of(made.trajectory, made.maps, made.prior, made.drawn) <= left  # the trajectory's latents as well
    assert sum(item.startswith("dataset_import/") for item in left) == 3  # the video's entry, the mask's, the mask


def test_a_report_keeps_the_evaluations_and_manifests_that_it_was_made_of(store):
    made = Made(store)
    evaluated, priors = made.evaluated(), made.priors()
    page, _ = made.report(untouched={"p": evaluated}, priors=priors)
    assert gone(store) == everything_of(made.words, made.seen, made.model)
    assert everything_of(made.answer, page) <= paths(store)
    assert f"manifests/{evaluated}.json" in paths(store)
    released = everything_of(made.trajectory, made.maps, made.prior, made.drawn)
    assert (
        gone(store, drop=[priors]) == {f"manifests/{priors}.json"} | released
    )  # the evaluation still names the video and its mask


def test_other_manifests_stay_for_their_time(store):
    made = Made(store)
    evaluated = made.evaluated()
    assert gone(store, later=29 * DAY, keep_days=30) == set()
    assert f"manifests/{evaluated}.json" in gone(store, later=31 * DAY, keep_days=30)
    assert made.answer.key not in "".join(paths(store))


def test_a_manifest_published_again_is_young_again(tmp_path):
    import os

    store = Store(str(tmp_path))
    made = Made(store)
    old, new = made.evaluated(), made.publish(a.VideoDataset, lines=[])
    for digest in (old, new):
        os.utime(tmp_path / "manifests" / f"{digest}.json", (1e9, 1e9))
    made.publish(a.VideoDataset, lines=[])
    assert gone(store, later=0) == {f"manifests/{old}.json"}  # the works are young


def test_dropping_takes_that_work_and_nothing_else(store):
    made = Made(store)
    first = made.priors()
    other = made.work("token_selection", "other", {"attention": made.maps.key}, prior=b"p2", per_frame=b"f2")
    second = made.priors(
        key=other.key, prior=other.ref("prior", "token_selection"), per_frame=other.ref("per_frame", "token_selection")
    )
    gone(store)
    assert gone(store, drop=[second]) == {f"manifests/{second}.json"} | everything_of(other)
    assert gone(store) == set()
    assert check(store, [load(store, f"sha256:{first}")], content=True).damages == []
    assert f"videos/{sha256(b'video')}.mp4" in paths(store)
    assert f"videos/{sha256(b'video')}.mp4" in gone(store, drop=[first])
    assert paths(store) == set()


def test_dropping_what_is_not_there(store):
    with pytest.raises(ParameterError, match="no manifest sha256:aaaa"):
        collector(store, drop=["a" * 64]).plan()


def test_what_is_young_stays_even_when_dropped(store):
    made = Made(store)
    priors = made.priors()
    assert gone(store, later=0, keep_days=0, drop=[priors]) == {f"manifests/{priors}.json"}
    assert gone(store, later=0, keep_days=0) == set()
    left = paths(store)
    assert gone(store, later=2 * DAY, keep_days=0) == left


def test_what_a_dropped_manifest_named_need_not_wait_for_its_days(store):
    """Unlike work that never was named: that may belong to a run under way."""
    made = Made(store)
    priors = made.priors()
    gone(store)
    waiting = made.work("token_selection", "of a run", {"attention": "gone"}, prior=b"p")
    told = gone(store, later=2 * DAY, drop=[priors])
    assert everything_of(made.prior, made.maps, made.trajectory) <= told
    assert paths(store) == everything_of(waiting)


def test_work_that_no_manifest_names_may_belong_to_a_run_under_way(store):
    """A shard publishes when it is through, after days perhaps, and a failed one publishes nothing."""
    made = Made(store)
    assert gone(store, later=29 * DAY) == set()
    assert everything_of(made.maps) <= gone(store, later=31 * DAY)
    assert paths(store) == set()


def test_files_without_an_entry_and_replaced_files_go(store):
    made = Made(store)
    made.priors()
    killed = made.open("token_selection", "killed")
    killed.put("prior", "bin", b"half")
    replaced = made.open("token_selection", "n")  # the same work, other bytes: an earlier writer's
    replaced.put("prior", "bin", b"earlier")
    stray = made.raw(f"videos/{'f' * 64}.mp4", b"never named")
    alone = made.open("ddim_inversion", "alone")
    alone.put("latents", "bin", b"l", scratch=True)
    wanted = {work._files[role].path for work, role in ((killed, "prior"), (replaced, "prior"), (alone, "latents"))} | {
        stray.path
    }
    assert gone(store, later=0.9 * DAY) == set()
    assert gone(store, later=1.1 * DAY) == wanted


def test_only_our_own_paths_are_seen(store):
    key = "0" * 32
    others = [
        "v2/artifacts/x/manifest.json",
        "videos/holiday.mp4",
        "manifests/notes.json",
        f"team/{key}/thesis.txt",
        f"Work/{key}/entry.json",
        f"dev-{key}/token_selection/{key}/entry.json",
        f"dev-{key}/videos/{'a' * 64}.mp4",
        "scratch/mine.txt",
        "README.md",
    ]
    for path in others:
        store.backend.put(path, b"{}")
    made = Made(store)
    made.priors()
    plan = collector(store).plan()
    assert plan.others == len(others)
    gone(store, drop=[digest.digest for digest in products(store)])
    assert paths(store) == set(others)


def test_traces_of_a_training(store):
    made = Made(store)
    made.tuned()
    unfinished = f"sft/{'e' * 32}"
    board, resume = (
        f"sft/{made.model.key}/{name}" for name in ("tensorboard/events.0", "resume/step-00000010/complete.json")
    )
    states = [
        f"{unfinished}/resume/step-00000010/{name}" for name in ("aaa.safetensors", "complete.json", "optimizer.bin")
    ]
    for path in (board, resume, *states, f"{unfinished}/tensorboard/events.0"):
        store.backend.put(path, b"x")
    assert gone(store, later=0.5 * DAY) == set()
    assert gone(store, later=2 * DAY) == {resume}
    plan = collector(store, later=31 * DAY).plan()
    assert plan.victims["files"][f"{unfinished}/resume"].files[0].path.endswith("complete.json")
    assert {board, *states, f"{unfinished}/tensorboard/events.0"} <= gone(store, later=31 * DAY)
    assert {f"sft/{made.model.key}/entry.json", *(file.path for file in made.model.files.values())} <= paths(store)


def test_notes_of_plan_and_models_and_pictures_of_nobody_go_with_time(store):
    made = Made(store)
    made.priors(), made.tuned(), made.evaluated()
    notes = [made.work(step, "x", {}) for step in ("plan", "model_digests")]
    notes.append(made.work("ddim_inversion_pictures", "x", {"trajectory": made.trajectory.key}, figure=b"f"))
    assert gone(store, later=29 * DAY) == set()
    assert everything_of(*notes) <= gone(store, later=31 * DAY)
    assert everything_of(made.drawn, made.trajectory) <= paths(store)


def test_scratch_alone(store):
    made = Made(store)
    made.priors()
    latents = made.trajectory.files["latents"].path
    assert gone(store, later=0.5 * DAY, scratch_only=True) == set()
    assert gone(store, later=1.5 * DAY, scratch_only=True) == {latents}
    assert store.damaged(made.trajectory) == []


# While somebody else writes -------------------------------------------------------------------------------------------


def deleting(store, monkeypatch, action, at, **policy):
    """A gc during which `action` runs once, before the `at`-th object is deleted; returns all that it deleted."""
    made, deleted, plain = collector(store, **policy), [], store.backend.delete

    def delete(path):
        if len(deleted) == at:
            action()
        deleted.append(path)
        plain(path)

    monkeypatch.setattr(store.backend, "delete", delete)
    made.delete()
    monkeypatch.undo()
    return deleted


def test_a_run_that_publishes_meanwhile_keeps_what_it_names(store, monkeypatch):
    """The old maps are found remembered by a run whose prior set comes out while their manifest expires."""
    made = Made(store)
    first, evaluated = made.work("a_first", "work", {}, x=b"x"), made.evaluated()
    monkeypatch.setattr(module, "_LOOK_AGAIN", 0.0)
    deleted = deleting(store, monkeypatch, made.priors, at=1, keep_days=1)
    assert deleted[:2] == [f"manifests/{evaluated}.json", f"a_first/{first.key}/entry.json"]
    assert everything_of(made.words, made.model) <= set(deleted)
    assert check(store, products(store), content=True).damages == []
    assert everything_of(made.prior, made.maps, made.trajectory) <= paths(store)


def test_work_that_is_written_again_meanwhile_stays(store, monkeypatch):
    made = Made(store)
    priors = made.priors()
    clock = time.time()

    def modified(path, found=store.backend.modified):
        return clock + LATER if path == f"videos/{sha256(b'video')}.mp4" else found(path)

    walk = store.backend.walk

    def walked(prefix=""):
        for item in walk(prefix):
            again = item.path.startswith("token_selection/") and prefix != ""  # the look just before deletion
            yield type(item)(item.path, item.size, item.stamp, clock + LATER) if again else item

    monkeypatch.setattr(store.backend, "walk", walked)
    monkeypatch.setattr(store.backend, "modified", modified)
    told = {item.path for victim in collector(store, drop=[priors]).delete() for item in victim.files}
    monkeypatch.undo()
    assert everything_of(made.prior) | {f"videos/{sha256(b'video')}.mp4"} <= paths(store)
    assert everything_of(made.maps) <= told


@pytest.mark.parametrize("at", range(1, 15, 3))
def test_killed_at_any_point_no_entry_lacks_a_file(store, monkeypatch, at):
    made = Made(store)
    priors = made.priors()

    def die():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deleting(store, monkeypatch, die, at=at, drop=[priors])
    monkeypatch.undo()
    for path in paths(store):
        if path.endswith("entry.json"):
            step, key, _ = path.split("/")
            assert store.damaged(store.entry(step, key)) == []
    gone(store)
    assert paths(store) == set()


def test_a_damaged_manifest_stops_everything_until_it_is_dropped(store):
    made = Made(store)
    priors, before = made.priors(), paths(store)
    store.backend.put(f"manifests/{priors}.json", b'{"kind": "PriorSet"}')
    with pytest.raises(DataError, match="nobody can say what it names") as caught:
        collector(store).delete()
    assert f"--drop sha256:{priors}" in caught.value.remedy
    assert paths(store) == before
    assert gone(store, drop=[priors]) == before


def test_an_entry_written_again_is_read_again(store):
    made = Made(store)
    looking = Inventory(store)
    folder = f"token_selection/{made.prior.key}"
    assert made.maps.key in looking.look().works[folder].names
    made.work("token_selection", "n", {"attention": "0" * 32}, prior=b"prior", per_frame=b"per_frame")
    assert "0" * 32 in looking.look().works[folder].names


def test_a_damaged_entry_keeps_its_named_files(store, caplog):
    made = Made(store)
    made.priors()
    store.backend.put(f"token_selection/{made.prior.key}/entry.json", b"{")
    gone(store)
    assert "is damaged" in caplog.text
    assert everything_of(made.prior, made.maps) <= paths(store)


# The real chain -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chain_run(tmp_path_factory):
    """An extraction of two clips, twice: with half of the words and with all."""
    folder = tmp_path_factory.mktemp("chain")
    write_set(folder / "clips", "scenes", 2, seed=3, size=(64, 64), num_frames=17)
    found = {}
    for ratio in (0.5, 1.0):
        chain = Chain(
            folder / f"run-{ratio}", (folder / "store").as_uri(), folder / "clips", shards=1, token_ratio=ratio
        )
        found[ratio] = load_manifest(chain.priors(), PriorSet)
    return folder, found


@pytest.fixture
def ran(chain_run, tmp_path):
    """The same in a store of the test's own, and a way to run it again."""
    folder, found = chain_run
    shutil.copytree(folder / "store", tmp_path / "store")
    store = Store((tmp_path / "store").as_uri())

    def again(ratio):
        chain = Chain(
            tmp_path / f"again-{ratio}-{time.monotonic_ns()}", store.uri, folder / "clips", shards=1, token_ratio=ratio
        )
        assert load_manifest(chain.priors(), PriorSet) == found[ratio]
        return chain.counts

    return store, found, again


def test_after_gc_an_unchanged_run_computes_nothing(ran):
    store, _, again = ran
    assert gone(store)  # the manifests in between
    assert {item.path.split("/")[0] for item in store.backend.walk()} >= {
        "videos",
        "scratch",
        "ddim_inversion",
        "attention_capture",
    }
    for ratio in (0.5, 1.0):
        assert set(again(ratio).values()) == {0}


def test_after_dropping_a_prior_set_only_its_own_step_runs_again(ran):
    store, found, again = ran
    gone(store)
    told = gone(store, drop=[found[1.0].digest])
    assert {path.split("/")[0] for path in told} == {"manifests", "token_selection"}
    assert set(again(0.5).values()) == {0}
    counts = again(1.0)
    assert {name for name, count in counts.items() if count} == {"token_selection"}


# Check ----------------------------------------------------------------------------------------------------------------


def test_check_names_file_unit_task_and_nonce(store, capsys):
    made = Made(store)
    digest, maps, video = made.priors(), made.maps.files, f"videos/{sha256(b'video')}.mp4"
    assert motion_enhancer("store", "check", "--store", store.uri) == 0
    assert "1 manifests, 6 files" in capsys.readouterr().out
    store.backend.delete(maps["statistics"].path)
    store.backend.put(video, b"videos")
    store.backend.put(made.prior.files["prior"].path, b"pRiorn")
    assert motion_enhancer("store", "check", "--store", store.uri, f"sha256:{digest}") == 3
    said = capsys.readouterr().out
    assert "made by attention_capture: set rerun_attention_capture" in said
    assert any(maps["statistics"].path in line and "missing" in line and "0" * 16 in line for line in said.splitlines())
    assert any(video in line and "6 bytes, not 5" in line for line in said.splitlines())
    assert "token_selection" not in said  # the size is right
    before = paths(store)
    assert motion_enhancer("store", "check", "--content", "--store", store.uri) == 3
    said = capsys.readouterr().out
    assert any(made.prior.files["prior"].path in line and "other content" in line for line in said.splitlines())
    assert "3 missing or damaged" in said
    assert paths(store) == before


def test_check_of_a_model_sees_its_own_files(store, capsys):
    made = Made(store)
    made.tuned()
    for role in ("log", "aligner", "model"):
        store.backend.delete(made.model.files[role].path)
    assert motion_enhancer("store", "check", "--store", store.uri) == 3
    said = capsys.readouterr().out
    assert "set rerun_sft" in said
    assert [line.split()[-1] for line in said.splitlines() if line.startswith("  sft/")] == ["TunedModel"] * 3


def test_check_of_an_artifact_with_emptied_scratch(store, tmp_path, capsys):
    made = Made(store)
    line = made.prior_line()
    shared = {name: line[name] for name in ("video", "mask", "grid")}
    latents = made.trajectory.ref("latents", "ddim_inversion")
    found = a.Trajectories(
        kind="Trajectories",
        provenance={},
        shard="0/1",
        lines=[
            a.TrajectoryLine(**shared, samples=[], key=made.trajectory.key, frames=[0], latents=latents, residual=0)
        ],
    )
    (tmp_path / "trajectories").mkdir()
    (tmp_path / "trajectories" / "manifest.json").write_bytes(found.to_bytes())
    store.backend.delete(latents.path)
    assert motion_enhancer("store", "check", tmp_path / "trajectories", "--store", store.uri) == 0
    assert "1 trajectories are gone" in capsys.readouterr().out
    store.backend.put(latents.path, b"damaged")
    assert motion_enhancer("store", "check", tmp_path / "trajectories", "--store", store.uri) == 3
    assert "rerun_ddim_inversion" in capsys.readouterr().out


def test_check_of_nothing_and_of_damaged_manifests(store, capsys):
    made = Made(store)
    digest = made.priors()
    assert motion_enhancer("store", "check", "sha256:" + "0" * 64, "--store", store.uri) == 2
    store.backend.put(f"manifests/{digest}.json", b"{}")
    for arguments in ((), (digest,)):
        assert motion_enhancer("store", "check", *arguments, "--store", store.uri) == 3
        assert "differs from its name" in capsys.readouterr().err


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_says_first_and_deletes_when_told(store, capsys):
    made = Made(store)
    digest, before = made.priors(), paths(store)
    ages = ("--keep-days", 0, "--min-age-hours", 0, "--store", store.uri)
    time.sleep(1.1)  # S3 tells whole seconds
    assert motion_enhancer("store", "gc", *ages) == 0
    said = capsys.readouterr().out
    assert "nothing is deleted yet" in said
    assert any(line.split()[:3] == ["sft", "1", "5"] for line in said.splitlines()), said
    assert paths(store) == before
    assert motion_enhancer("store", "gc", "--delete", "--list", *ages) == 0
    said = capsys.readouterr().out
    assert f"sft/{made.model.key}\n" in said
    assert "nothing is deleted yet" not in said
    assert before - paths(store) == everything_of(made.words, made.seen, made.model, made.answer)
    assert motion_enhancer("store", "gc", "--delete", "--drop", f"sha256:{digest}", *ages) == 0
    assert paths(store) == set()
    assert motion_enhancer("store", "gc", "--drop", f"sha256:{digest}", *ages) == 2
