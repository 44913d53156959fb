"""`store gc` on both backends: what kept manifests lead to stays, whatever names it; the rest goes when it is old."""

import shutil
import time
from pathlib import Path

import pytest

from components.core.artifacts import PriorSet
from components.core.errors import DataError
from components.core.records import canonical_json, sha256
from components.store import gc as gc_module
from components.store.check import check, parse_any, products
from components.store.entries import Store, named_manifest
from components.store.failures import TaskFailure, failure_path, write_failure, write_list
from components.store.gc import DAY, Collector
from components.store.transfer import references
from components.synthetic.scenes import write_set
from tests.chain import Chain
from tests.command import motion_enhancer
from tests.runner import load_manifest
from tests.store.made_store import Made, everything_of, paths

AGE = 30
LATER = 40 * DAY  # all that is written now is old
RUN = "6e703be7-8657-44e3-9690-e36394367b89"  # an id of KFP's


@pytest.fixture
def made(store):
    return Made(store)


def collector(store, *drop, later=LATER):
    return Collector(store, AGE, frozenset(drop), now=lambda: time.time() + later)


def collected(store, *drop, later=LATER):
    """A gc, and what it deleted."""
    made = collector(store, *drop, later=later)
    return made.delete(made.plan())


def gone(store, *drop, later=LATER):
    """The paths that a gc deletes; what it planned and what it returns are the same."""
    before, planned = paths(store), {item.path for item in collector(store, *drop, later=later).plan().all()}
    assert paths(store) == before
    deleted = {item.path for item in collected(store, *drop, later=later)}
    assert before - paths(store) == deleted == planned
    return deleted


def test_nothing_named_is_ever_deleted(store, made):
    """A manifest's every reference, the works that these are of, and what those read."""
    priors, model = made.priors(), made.tuned()
    assert gone(store) == everything_of(made.answer)  # the only work that neither leads to
    assert check(store, products(store), content=True).damages == []
    roles = {Path(ref.path).name.split("-")[0] for item in products(store) for ref in references(item)}
    made_of = {"mask", "statistics", "prior", "per_frame", "heads", "token_map", "vlm_map"}
    assert roles - {f"{sha256(b'video')}.mp4"} == made_of | {"model", "config", "aligner", "log"}
    assert {f"manifests/{priors}.json", f"manifests/{model}.json"} <= paths(store)


REFERENCES = {"mask": "dataset_import", "statistics": "attention_capture", "heads": "attention_capture_pictures"}
REFERENCES |= {"prior": "token_selection", "vlm_map": "vlm_attention_maps", "model": "sft", "page": "report"}


@pytest.mark.parametrize(("role", "step"), [*REFERENCES.items(), ("video", "videos")])
def test_each_reference_alone_keeps_its_file_and_its_work(tmp_path, role, step):
    """A manifest that names this one file in a field nobody knows, no key and no other reference."""
    store = Store(str(tmp_path))
    _, report = Made(store).report()
    (path,) = [item for item in paths(store) if item.split("/")[0] == step and (role == "video" or f"/{role}-" in item)]
    data = canonical_json({"kind": "PriorSet", "lines": [{"field": {"path": path, "task": "t"}}]})
    store.backend.put(f"manifests/{sha256(data)}.json", data)
    collected(store, report)
    assert path in paths(store)
    assert step == "videos" or f"{path.rsplit('/', 1)[0]}/entry.json" in paths(store)


def test_a_prior_set_keeps_what_its_works_read_but_nothing_after_it(store, made):
    made.priors()
    assert gone(store) == everything_of(made.words, made.seen, made.model, made.answer)
    left = paths(store)
    assert everything_of(made.trajectory, made.maps, made.prior, made.drawn) <= left  # the trajectory's latents as well
    assert sum(item.startswith("dataset_import/") for item in left) == 3  # the video's entry, the mask's, the mask


def test_a_report_keeps_the_evaluations_and_manifests_that_it_was_made_of(store, made):
    evaluated, priors = made.evaluated(), made.priors()
    page, _ = made.report(untouched={"p": evaluated}, priors=priors)
    assert gone(store) == everything_of(made.words, made.seen, made.model)
    assert everything_of(made.answer, page) | {f"manifests/{evaluated}.json"} <= paths(store)
    released = everything_of(made.trajectory, made.maps, made.prior, made.drawn)
    # the evaluation still names the video and its mask
    assert gone(store, priors) == {f"manifests/{priors}.json"} | released


def test_what_is_young_stays_with_all_it_leads_to(store, made, monkeypatch):
    """A shard publishes when it is through, after days perhaps; what it found remembered may be old."""
    evaluated = made.evaluated()
    assert gone(store, later=29 * DAY) == set()
    young = {f"token_selection/{made.prior.key}", f"manifests/{evaluated}.json"}
    shift_times(monkeypatch, store, lambda _, path: 0 if path.startswith(tuple(young)) else -LATER)
    expected = everything_of(made.drawn, made.words, made.seen, made.model)
    assert gone(store, later=0) == expected
    assert everything_of(made.prior, made.maps, made.trajectory, made.answer) <= paths(store)


def shift_times(monkeypatch, store, shift):
    """Let a backend list files as written at other times: `shift` takes the listed prefix and a path."""
    walk = store.backend.walk

    def walked(prefix=""):
        for item in walk(prefix):
            yield type(item)(item.path, item.size, item.stamp, item.modified + shift(prefix, item.path))

    monkeypatch.setattr(store.backend, "walk", walked)


def test_dropping_takes_that_work_and_nothing_else(store, made):
    first = made.priors()
    other = made.work("token_selection", "other", {"attention": made.maps.key}, prior=b"p2", per_frame=b"f2")
    own = {role: other.ref(role, "token_selection") for role in ("prior", "per_frame")}
    second = made.priors(key=other.key, **own)
    gone(store)
    assert gone(store, second) == {f"manifests/{second}.json"} | everything_of(other)
    assert gone(store) == set()
    assert check(store, [parse_any(*named_manifest(f"sha256:{first}", store), store)], content=True).damages == []
    assert f"videos/{sha256(b'video')}.mp4" in gone(store, first)
    assert paths(store) == set()


def test_a_dropped_manifest_goes_at_once_and_its_work_when_it_is_old(store, made):
    priors = made.priors()
    assert gone(store, priors, later=0) == {f"manifests/{priors}.json"}
    assert gone(store, later=29 * DAY) == set()
    assert everything_of(made.maps) <= gone(store, later=31 * DAY)
    assert paths(store) == set()


def test_files_without_an_entry_and_replaced_files_go(store, made):
    made.priors()
    gone(store)
    killed = made.open("token_selection", "killed")
    killed.put("prior", "bin", b"half")
    replaced = made.open("token_selection", "n")  # the same work, other bytes: an earlier writer's
    replaced.put("prior", "bin", b"earlier")
    stray = made.raw(f"videos/{'f' * 64}.mp4", b"never named")
    alone = made.open("ddim_inversion", "alone")
    alone.put("latents", "bin", b"l", scratch=True)
    wanted = {work._files[role].path for work, role in ((killed, "prior"), (replaced, "prior"), (alone, "latents"))}
    assert gone(store, later=29 * DAY) == set()
    assert gone(store, later=31 * DAY) == wanted | {stray.path}


def test_only_our_own_paths_are_seen(store, made):
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
    priors = made.priors()
    assert collector(store).plan().others == len(others)
    gone(store, priors)
    assert paths(store) == set(others)


def test_traces_of_a_training_go_when_its_folder_is_old(store, made, monkeypatch):
    made.tuned()
    gone(store)
    step = "resume/step-00000010"
    finished = [f"sft/{made.model.key}/{name}" for name in ("tensorboard/events.0", f"{step}/complete.json")]
    names = [f"{step}/{name}" for name in ("a.safetensors", "complete.json", "index.json", "mark-0000-of-0002")]
    names += [f"{step}/mark-0001-of-0002", "tensorboard/events.0"]
    unfinished = [f"sft/{'e' * 32}/{name}" for name in names]
    for path in (*finished, *unfinished):
        store.backend.put(path, b"x")
    assert gone(store, later=29 * DAY) == set()
    deleted, plain = [], store.backend.delete_all
    monkeypatch.setattr(store.backend, "delete_all", lambda paths: deleted.append(set(paths)) or plain(deleted[-1]))
    assert gone(store) == {*finished, *unfinished}
    marks, rest, *_ = [found for paths in deleted if (found := paths & set(unfinished))]
    # a half-deleted state must not look complete, whatever the code that wrote it
    assert {Path(path).name.partition("-")[0] for path in marks} == {"mark", "complete.json"}
    assert len(rest) == 3


def deleting(store, monkeypatch, action, at, *drop):
    """A gc, one object after another, during which `action` runs once, before the `at`-th one is looked at again.

    Returns all that it deleted.
    """
    made, deleted, plain, looked = collector(store, *drop), [], store.backend.delete_all, []
    plan, go = made.plan(), made._go

    def delete_all(paths):
        paths = list(paths)
        deleted.extend(paths)
        plain(paths)

    def look(*arguments):
        looked.append(arguments)
        if len(looked) == at + 1:
            action()
        return go(*arguments)

    monkeypatch.setattr(gc_module, "BATCH", 1)
    monkeypatch.setattr(store.backend, "delete_all", delete_all)
    monkeypatch.setattr(made, "_go", look)
    made.delete(plan)
    monkeypatch.undo()
    return deleted


def test_a_run_that_publishes_meanwhile_keeps_what_it_names(store, made, monkeypatch):
    """A run finds the old maps remembered, and its prior set comes out while the first entries are deleted."""
    first, evaluated = made.work("a_first", "work", {}, x=b"x"), made.evaluated()
    deleted = deleting(store, monkeypatch, made.priors, 1)
    assert deleted[:2] == [f"manifests/{evaluated}.json", f"a_first/{first.key}/entry.json"]
    assert everything_of(made.words, made.model) <= set(deleted)
    assert check(store, products(store), content=True).damages == []
    assert everything_of(made.prior, made.maps, made.trajectory) <= paths(store)


def test_a_dropped_manifest_that_is_published_again_meanwhile_is_kept(store, made, monkeypatch):
    priors = made.priors()
    deleting(store, monkeypatch, made.priors, 2, priors)
    assert f"manifests/{priors}.json" in paths(store)
    assert check(store, products(store), content=True).damages == []


def test_work_that_is_written_again_meanwhile_stays(store, made, monkeypatch):
    """Each folder as it is listed on the way, not as it was planned."""
    priors, video, walked = made.priors(), f"videos/{sha256(b'video')}.mp4", []
    again = ("token_selection/", "videos/")
    shift_times(monkeypatch, store, lambda _, path: LATER * (len(walked) > 0 and path.startswith(again)))
    made = collector(store, priors)
    plan = made.plan()
    walked.append("the plan")
    deleted = {item.path for item in made.delete(plan)}
    monkeypatch.undo()
    made = Made(store)
    assert everything_of(made.prior) | {video} <= paths(store)
    assert everything_of(made.drawn) <= deleted


@pytest.mark.parametrize("at", range(1, 18, 4))
def test_killed_at_any_point_no_entry_lacks_a_file(store, made, monkeypatch, at):
    priors = made.priors()

    def die():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deleting(store, monkeypatch, die, at, priors)
    monkeypatch.undo()
    for path in paths(store):
        if path.endswith("entry.json"):
            step, key, _ = path.split("/")
            assert store.damaged(store.entry(step, key)) == []
    gone(store)
    assert paths(store) == set()


def test_a_damaged_manifest_stops_everything_until_it_is_dropped(store, made):
    priors, before = made.priors(), paths(store)
    store.backend.put(f"manifests/{priors}.json", b'{"kind": "PriorSet"}')
    with pytest.raises(DataError, match="what it names is unknown") as caught:
        collected(store)
    assert f"--drop sha256:{priors}" in caught.value.remedy
    assert paths(store) == before
    assert gone(store, priors) == before


def test_an_entry_that_is_written_meanwhile_keeps_what_it_names(store, made, monkeypatch):
    """Its manifest comes later; what it read is old."""
    shift_times(monkeypatch, store, lambda _, path: LATER * path.startswith("z_new/"))
    plan = (collecting := collector(store)).plan()
    made.work("z_new", "work", {"read": made.words.key}, x=b"x")
    later = [item.path for item in plan.victims["entries"]]
    assert f"vlm_attention/{made.words.key}/entry.json" in later
    deleted = {item.path for item in collecting.delete(plan)}
    assert deleted >= everything_of(made.seen, made.model, made.answer)
    assert everything_of(made.words, made.prior, made.maps) <= paths(store)


def test_a_damaged_entry_keeps_its_named_files(store, made, caplog):
    made.priors()
    store.backend.put(f"token_selection/{made.prior.key}/entry.json", b"{")
    gone(store)
    assert "is damaged" in caplog.text
    assert everything_of(made.prior, made.maps) <= paths(store)


@pytest.fixture(scope="module")
def chain_run(tmp_path_factory):
    """An extraction of two clips, twice: with half of the words and with all."""
    folder = tmp_path_factory.mktemp("chain")
    write_set(folder / "clips", "scenes", 2, seed=3, size=(64, 64), num_frames=17)
    found = {}
    for ratio in (0.5, 1.0):
        store = (folder / "store").as_uri()
        chain = Chain(folder / f"run-{ratio}", store, folder / "clips", shards=1, token_ratio=ratio)
        found[ratio] = load_manifest(chain.priors(), PriorSet)
    return folder, found


@pytest.fixture
def ran(chain_run, tmp_path):
    """The same in a store of the test's own, and a way to run it again."""
    folder, found = chain_run
    shutil.copytree(folder / "store", tmp_path / "store")
    store = Store((tmp_path / "store").as_uri())

    def again(ratio):
        out = tmp_path / f"again-{ratio}-{time.monotonic_ns()}"
        chain = Chain(out, store.uri, folder / "clips", shards=1, token_ratio=ratio)
        assert load_manifest(chain.priors(), PriorSet) == found[ratio]
        return chain.counts

    return store, found, again


def test_an_unchanged_run_computes_nothing_and_after_a_drop_only_the_dropped_step(ran):
    store, found, again = ran
    assert gone(store)  # the manifests in between
    left = {path.split("/")[0] for path in paths(store)}
    assert left >= {"videos", "scratch", "ddim_inversion", "attention_capture"}
    for ratio in (0.5, 1.0):
        assert set(again(ratio).values()) == {0}
    gone(store)
    told = gone(store, found[1.0].digest)
    assert {path.split("/")[0] for path in told} == {"manifests", "indexes", "token_selection"}
    assert set(again(0.5).values()) == {0}
    counts = again(1.0)
    assert {name for name, count in counts.items() if count} == {"token_selection"}


def test_the_command_prints_first_and_deletes_when_asked(store, made, capsys):
    digest, before = made.priors(), paths(store)
    given = ("--older-than", 0, "--store", store.uri)
    time.sleep(1.1)  # S3 counts whole seconds
    assert motion_enhancer("store", "gc", *given) == 0
    printed = capsys.readouterr().out
    assert "nothing is deleted yet" in printed
    assert any(line.split()[:2] == ["sft", "5"] for line in printed.splitlines()), printed
    assert paths(store) == before
    assert motion_enhancer("store", "gc", "--delete", *given) == 0
    assert "nothing is deleted yet" not in capsys.readouterr().out
    assert before - paths(store) == everything_of(made.words, made.seen, made.model, made.answer)
    assert motion_enhancer("store", "gc", "--delete", "--drop", f"sha256:{digest}", *given) == 0
    assert paths(store) == set()
    assert motion_enhancer("store", "gc", "--drop", f"sha256:{digest}", *given) == 2


def test_records_of_failures_go_by_their_age_and_nothing_else_below_them(store):
    failure = {"run": RUN, "task": "sft", "exit_code": 2, "problem": "p", "source": "s", "remedy": "r", "time": "t"}
    write_failure(store, TaskFailure(**failure))
    write_failure(store, TaskFailure(**failure, item="0/2"))
    listed = write_list(store, "plan", ["a.mp4: not there"]).removeprefix(f"{store.uri}/")
    others = {f"failures/{RUN}/notes.txt", "failures/lists/notes.txt"}
    for path in others:
        store.backend.put(path, b"somebody's")
    assert gone(store, later=20 * DAY) == set()
    assert gone(store) == {failure_path(RUN, "sft"), failure_path(RUN, "sft", "0/2"), listed}
    assert others <= paths(store)
