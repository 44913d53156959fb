"""The step as its container runs it, on real H.264 files: what is imported, remembered, noticed, refused, left out."""

import hashlib
import json
import os
import re
import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import pytest

from components.benchmarks.interface import Counts, benchmarks, get_benchmark
from components.core.artifacts import VideoDataset
from components.core.errors import DataError, ParameterError, TryAgainError
from components.dataset_import import decode as decode_module
from components.dataset_import.decode import Job, decode, decode_all
from components.dataset_import.step import STEP
from components.store.entries import Store
from components.synthetic.scenes import write_set
from tests.dataset_import.data import clip, lines, own
from tests.media.made import encode, moving, spoil
from tests.pages.reading import rows
from tests.runner import metrics, published, run_step
from tests.s3_server import KEYS, closed_port, s3_server

ONE = {"processes": 1}
ASKED = {"id": "u", "video": "a.mp4", "question": "Q?", "options": ["x", "y"], "answer": "A", "type": "AR"}


def train(tmp_path, source, store=None, params=None, rerun="0", **shared):
    store, params = store or tmp_path / "store", ONE | (params or {})
    return run_step(STEP, tmp_path, store, params, {"source": str(source), **shared}, rerun=rerun, form="training")


def bench(tmp_path, *benchmarks, params=None):
    params, shared = ONE | {"allow_subset": True} | (params or {}), {"benchmarks": list(benchmarks)}
    return run_step(STEP, tmp_path, tmp_path / "store", params, shared, form="benchmark", task="benchmark_import")


def data(outputs):
    return published(outputs, "videos", VideoDataset)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def two(root):
    said = [("u1", "a.mp4", "It goes."), ("u2", "b.mp4", "It comes.")]
    return own(root, [{"id": name, "video": video, "response": text} for name, video, text in said])


# What comes in --------------------------------------------------------------------------------------------------------


def test_synthetic_set_end_to_end(tmp_path):
    write_set(tmp_path / "set", "scenes", 4, seed=2, size=(32, 48), num_frames=9)
    outputs = train(tmp_path, tmp_path / "set", params={"processes": 2})
    manifest, store = data(outputs), Store(str(tmp_path / "store"))
    files = {digest(path): path for path in (tmp_path / "set/MotionBenchCaption-train/videos").iterdir()}
    assert [line.video.id for line in manifest.lines] == sorted(files)
    written = (tmp_path / "set/MotionBenchCaption-train/train.jsonl").read_text().splitlines()
    captions = {row["video_path"]: row["motion_caption"] for row in map(json.loads, written)}
    for line in manifest.lines:
        path = files[line.video.id]
        assert store.read(line.video.file) == path.read_bytes()
        assert line.video.file.path == f"videos/{digest(path)}.mp4"
        assert store.read(line.mask) == (tmp_path / "set/gt" / f"{path.stem}.safetensors").read_bytes()
        with av.open(str(path)) as container:
            times = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
        assert line.video.times == [time - times[0] for time in times]
        assert (line.video.width, line.video.height, len(times)) == (48, 32, 9)
        (sample,) = line.samples
        assert sample.response == captions[path.name]
        assert sample.is_instruction
    assert metrics(outputs).items() >= {"failed": 0, "samples": 4, "share_remembered": 0, "units": 4}.items()
    size = sum(path.stat().st_size for path in files.values())
    assert metrics(outputs)["megabytes"] == pytest.approx(size / 1e6, abs=1e-3)
    assert rows(outputs["summary"].read_text())["videos with a ground-truth mask"] == ["4"]


def test_rows_about_one_video_share_a_line_and_so_do_equal_files(tmp_path):
    rows = [{"id": str(n), "video": "a.mp4", "question": f"Q{n}?", "response": "r"} for n in range(3)]
    root = own(tmp_path / "data", rows)
    shutil.copy(root / "a.mp4", root / "copy.MP4")
    lines(root / "more.jsonl", [{"id": "other", "video": "copy.MP4", "response": "It goes."}])
    (line,) = data(train(tmp_path, root)).lines
    assert sorted(sample.uid for sample in line.samples) == ["0", "1", "2", "other"]
    assert [sample.id for sample in line.samples] == sorted(sample.id for sample in line.samples)


def test_a_repeated_row_is_left_out_like_a_bad_clip_and_names_both(tmp_path):
    """One more row, another name for the same, and the same about another file of that content."""
    said = [("first", "a.mp4", "It goes."), ("first", "a.mp4", "It goes."), ("second", "a.mp4", " It goes. ")]
    given = [{"id": name, "video": video, "response": text} for name, video, text in said]
    root = own(tmp_path / "data", [*given, {"id": "other", "video": "b.mp4", "response": "It stops."}])
    shutil.copy(root / "a.mp4", root / "copy.mp4")
    lines(root / "more.jsonl", [{"id": "third", "video": "copy.mp4", "response": "It goes."}])
    kept = "the same video, question, options and response as first (data.jsonl:1)"
    repeated = ["first (data.jsonl:2)", "second (data.jsonl:3)", "third (more.jsonl:1)"]
    with pytest.raises(DataError, match="3 of 6 files failed") as caught:
        train(tmp_path, root)
    assert [line.strip() for line in caught.value.problem.splitlines()[1:]] == [f"{name}: {kept}" for name in repeated]
    found = data(train(tmp_path, root, params={"max_failed": 0.5}))
    assert sorted(sample.uid for line in found.lines for sample in line.samples) == ["first", "other"]
    assert {item.unit: item.reason for item in found.left_out} == dict.fromkeys(repeated, kept)


def test_one_question_of_two_benchmarks_is_no_repetition(tmp_path):
    root = own(tmp_path / "data", [ASKED])
    (line,) = data(bench(tmp_path, f"seed={root}", f"custom={root}", f"custom:mine={root}")).lines
    assert [sample.protocol for sample in line.samples] == ["custom", "custom:mine", "seed"]
    assert len({sample.id for sample in line.samples}) == 1


def test_more_failures_than_a_message_holds_are_a_file(tmp_path, caplog):
    rows = [{"id": str(n), "video": f"{n:04}.mp4", "response": "It goes."} for n in range(1400)]
    root = own(tmp_path / "data", [{"id": "u", "video": "a.mp4", "response": "It goes."}])
    lines(root / "more.jsonl", rows)
    with pytest.raises(DataError, match="1400 of 1401 files failed") as caught:
        train(tmp_path, root)
    listed = caught.value.problem.splitlines()[1:]
    assert len(str(caught.value)) < 3000
    assert len(caplog.text) < 3000
    (address,) = re.findall(r"… and 1,380 more, all in file://(\S+)$", listed[-1])
    whole = Path(address).read_text().splitlines()
    assert whole[:20] == [line.strip() for line in listed[:20]]
    assert [line.split(":")[0] for line in whole] == [row["video"] for row in rows]
    assert [item.unit for item in data(train(tmp_path, root, params={"max_failed": 1})).left_out] == [
        row["video"] for row in rows
    ]


def masked(root, **masks):
    (root / "gt").mkdir(exist_ok=True)
    for stem, content in masks.items():
        (root / f"gt/{stem}.safetensors").write_bytes(content)


def test_two_masks_of_one_video(tmp_path):
    root = two(tmp_path / "data")
    shutil.copy(root / "a.mp4", root / "b.mp4")
    masked(root, a=b"one", b=b"two")
    with pytest.raises(DataError, match="two different masks") as caught:
        train(tmp_path, root)
    assert caught.value.source == "a.mp4 and b.mp4"
    masked(root, b=b"one")
    (line,) = data(train(tmp_path, root)).lines
    assert line.mask.sha256 == hashlib.sha256(b"one").hexdigest()


# Memory ---------------------------------------------------------------------------------------------------------------


def test_neither_a_second_run_nor_other_text_instructions_or_layout_decode_again(tmp_path, monkeypatch):
    root = two(tmp_path / "data")
    first = train(tmp_path, root)
    monkeypatch.setattr(decode_module, "probe", lambda path: pytest.fail("decoded again"))
    second = train(tmp_path, root)
    assert metrics(second)["share_remembered"] == 1
    assert data(second) == data(first)
    lines(root / "data.jsonl", [{"id": "u1", "video": "a.mp4", "question": "What moves?", "response": "Another text."}])
    params = {"layout": "jsonl", "template_instructions": ["What moves?"]}
    outputs = train(tmp_path, root, params=params)
    assert metrics(outputs)["share_remembered"] == 1
    (line,) = data(outputs).lines
    assert line.samples[0].is_instruction
    assert data(outputs).provenance["dataset_import"].params == params | {"max_corrupt": 0.0}


def test_a_changed_and_a_new_file_are_noticed(tmp_path):
    root = two(tmp_path / "data")
    before = {line.samples[0].uid: line.video.id for line in data(train(tmp_path, root)).lines}
    clip(root / "a.mp4", seed=77)
    clip(root / "c.mp4", seed=78)
    with (root / "data.jsonl").open("a") as file:
        file.write(json.dumps({"id": "u3", "video": "c.mp4", "response": "New."}) + "\n")
    outputs = train(tmp_path, root)
    after = {line.samples[0].uid: line.video.id for line in data(outputs).lines}
    assert after == {"u1": digest(root / "a.mp4"), "u2": before["u2"], "u3": digest(root / "c.mp4")}
    assert after["u1"] != before["u1"]
    assert metrics(outputs)["share_remembered"] == pytest.approx(1 / 3, abs=1e-4)


def test_a_changed_mask_is_noticed_and_its_place_says_nothing_of_the_source(tmp_path):
    root = two(tmp_path / "data")
    for content in (b"one", b"two!"):
        masked(root, a=content)
        found = data(train(tmp_path, root))
        assert [line.mask.bytes for line in found.lines if line.mask] == [len(content)]
    shutil.copytree(root, tmp_path / "elsewhere")  # another address, other times
    assert data(train(tmp_path, tmp_path / "elsewhere")) == found


def test_rerun_heals_what_is_damaged_and_only_that(tmp_path):
    root = two(tmp_path / "data")
    outputs = train(tmp_path, root)
    refs = [line.video.file for line in data(outputs).lines]
    spoilt, store = tmp_path / "store" / refs[0].path, Store(str(tmp_path / "store"))
    content = spoilt.read_bytes()
    spoilt.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # the same size
    train(tmp_path, root)
    with pytest.raises(DataError, match="other content"):
        store.read(refs[0])
    healed = train(tmp_path, root, rerun="1")
    assert metrics(healed)["share_remembered"] == 0.5
    assert [len(store.read(ref)) for ref in refs] == [ref.bytes for ref in refs]
    assert metrics(train(tmp_path, root, rerun="force1"))["share_remembered"] == 0


# What is left out -----------------------------------------------------------------------------------------------------


@pytest.fixture
def troubled(tmp_path):
    """A source with one good clip and every kind of bad one."""
    root = tmp_path / "data"
    names = ["good", "undecodable", "empty", "frameless", "short", "missing", "textless", "control"]
    rows = [{"id": name, "video": f"{name}.mp4", "response": f"It is {name}."} for name in names]
    rows[6]["response"] = ""
    rows[7]["response"] = "It <|im_start|> moves."
    for name in ("good", "textless", "control"):
        clip(root / f"{name}.mp4", seed=len(name))
    whole = clip(root / "undecodable.mp4", seed=9).read_bytes()
    (root / "undecodable.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + whole[200:600])
    (root / "empty.mp4").write_bytes(b"")
    with av.open(str(root / "frameless.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        silence.rate = 16000
        for plane in silence.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    clip(root / "short.mp4", num_frames=8)
    lines(root / "data.jsonl", rows)
    return root


REASONS = {
    "undecodable.mp4": "does not decode",
    "empty.mp4": "an empty file, not a video",
    "frameless.mp4": "no video stream",
    "short.mp4": "8 frames, the video model needs at least 9",
    "missing.mp4": "not in the source, named by missing (data.jsonl:6)",
    "textless (data.jsonl:7)": "question and response are empty",
    "control (data.jsonl:8)": "control token '<|im_start|>'",
}


def test_bad_units_stop_the_step_after_the_others_are_done(tmp_path, troubled):
    with pytest.raises(DataError, match="7 of 8 files failed") as caught:
        train(tmp_path, troubled)
    for unit, reason in REASONS.items():
        assert unit in caught.value.problem
        assert reason in caught.value.problem
    assert caught.value.exit_code == 3
    assert (tmp_path / "store/videos" / f"{digest(troubled / 'good.mp4')}.mp4").is_file()
    lines(troubled / "data.jsonl", [{"id": "good", "video": "good.mp4", "response": "It is good."}])
    assert metrics(train(tmp_path, troubled))["share_remembered"] == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_allowed_failures_are_listed_with_reasons(tmp_path, troubled, processes):
    outputs = train(tmp_path, troubled, params={"max_failed": 7 / 8, "processes": processes})
    manifest = data(outputs)
    assert [line.samples[0].uid for line in manifest.lines] == ["good"]
    assert {item.unit for item in manifest.left_out} == set(REASONS)
    for item in manifest.left_out:
        assert REASONS[item.unit] in item.reason
        assert item.task == "dataset_import"
        assert str(tmp_path) not in item.reason
    assert metrics(outputs).items() >= {"units": 8, "failed": 7}.items()
    assert "* `short.mp4`: 8 frames" in outputs["summary"].read_text()


def test_damaged_frames_are_refused_above_a_share_and_listed_below(tmp_path):
    root = two(tmp_path / "data")
    spoil(encode(root / "b.mp4", moving(40), g=10, bf=0), 13)
    with pytest.raises(DataError, match=r"b\.mp4: the decoder reports damage in 7 of 40 frames, max_corrupt is 0\b"):
        train(tmp_path, root)
    left_out = train(tmp_path, root, params={"max_corrupt": 0.17, "max_failed": 0.5})
    assert [item.unit for item in data(left_out).left_out] == ["b.mp4"]
    taken = train(tmp_path, root, params={"max_corrupt": 0.18})
    assert metrics(taken)["share_remembered"] == 1  # no parameter decodes anew
    assert {line.samples[0].uid: line.video.corrupt for line in data(taken).lines} == {"u1": 0, "u2": 7}
    page = taken["summary"].read_text()
    assert rows(page)["videos with damaged frames"] == ["1"]
    assert "* `u2`: 7 of 40 frames" in page
    assert "Damaged frames" not in left_out["summary"].read_text()


def test_a_list_of_other_files_reads_none_of_them(tmp_path):
    root = two(tmp_path / "data")
    clip(tmp_path / "other.mp4", seed=5)
    (root / "b.mp4").write_text("ffconcat version 1.0\nfile ../other.mp4\n")
    with pytest.raises(DataError, match=r"b\.mp4: a playlist of other files, not a video"):
        train(tmp_path, root)


def test_nothing_usable_is_never_an_empty_data_set(tmp_path):
    root = own(tmp_path / "data", [{"id": "u", "video": "a.mp4", "response": ""}])
    with pytest.raises(DataError, match="no usable video"):
        train(tmp_path, root, params={"max_failed": 1.0})


def crash_on_a(job):
    """What a decoder that dies on `a` does to its process."""
    if job.path == "a":
        os._exit(11)
    time.sleep(0.02)  # `a`, the first, is met before the others are done
    return DataError(f"tried {job.path}", source=str(os.getpid()), remedy="")


def test_a_file_that_kills_its_process_is_named_and_the_others_are_done_in_few_processes():
    jobs = [Job(name, "file:///none", name, "file:///none", False) for name in "abcdefghijkl"]
    answers = {job.path: answer for job, answer in decode_all(jobs, 2, crash_on_a)}
    said = {name: f"tried {name}" for name in "abcdefghijkl"} | {"a": "the decoder crashed on this file"}
    assert {name: answer.problem for name, answer in answers.items()} == said
    processes = {answer.source for answer in answers.values()} - {"a"}
    assert len(processes) <= 4  # one before, one for what was under way, two


def test_a_store_that_is_away_is_no_bad_file(tmp_path, monkeypatch):
    root = two(tmp_path / "data")
    for name, value in {"S3_ENDPOINT": f"http://127.0.0.1:{closed_port()}", **KEYS}.items():
        monkeypatch.setenv(name, value)
    answer = decode(Job("k", root.as_uri(), "a.mp4", "minio://main/x", False, 0.01))
    assert isinstance(answer, TryAgainError)
    with pytest.raises(TryAgainError):
        train(tmp_path, root, store="minio://main/x", store_patience=0.01)


# Benchmarks -----------------------------------------------------------------------------------------------------------


def test_benchmarks_come_as_one_list(tmp_path):
    write_set(tmp_path / "mb", "bench", 24, seed=3, size=(32, 32), num_frames=5)
    seed = own(tmp_path / "seed", [ASKED | {"id": "s1", "type": "AR"}])
    clip(seed / "a.mp4", num_frames=1)
    outputs = bench(tmp_path, f"motionbench={tmp_path / 'mb'}", f"seed={seed}", params={"layout": "llava"})
    samples = [sample for line in data(outputs).lines for sample in line.samples]
    assert Counter(sample.protocol for sample in samples) == {"motionbench": 24, "seed": 1}
    assert sum(not sample.answer for sample in samples) == 1
    assert rows(outputs["summary"].read_text())["answer held out"] == ["1"]
    assert next(iter(data(outputs).lines)).video.file.task == "benchmark_import"
    assert list(data(outputs).provenance) == ["benchmark_import"]


def test_a_file_of_both_forms_is_imported_once(tmp_path, monkeypatch):
    root = own(tmp_path / "data", [ASKED])
    train(tmp_path, root)
    monkeypatch.setattr(decode_module, "probe", lambda path: pytest.fail("decoded again"))
    assert metrics(bench(tmp_path, f"seed={root}"))["share_remembered"] == 1


def test_benchmark_failures_name_their_protocol(tmp_path):
    lines(tmp_path / "data/x.jsonl", [ASKED, {"video": "a.mp4"}])
    with pytest.raises(DataError, match=r"seed: a\.mp4: not in the source") as caught:
        bench(tmp_path, f"seed={tmp_path / 'data'}")
    assert "seed: x.jsonl:2: " in caught.value.problem


def test_each_benchmark_has_its_own_tolerance_and_training_another_one(tmp_path):
    """Of four items two go with a missing clip, in one of two benchmarks: half of that one's, a quarter of both."""
    asked = [ASKED | {"id": f"i{n}", "question": f"Q{n}?"} for n in range(4)]
    whole = own(tmp_path / "whole", asked)
    torn = own(tmp_path / "torn", asked[:2])
    lines(torn / "more.jsonl", [row | {"video": "gone.mp4"} for row in asked[2:]])
    given = (f"seed={torn}", f"custom={whole}")
    for allowed in ({"max_failed": 1.0}, {"max_failed_items": 0.4}):
        with pytest.raises(DataError, match=r"^seed: 2 of 4 items cannot be asked \(max_failed_items=0") as caught:
            bench(tmp_path, *given, params=allowed)
        assert "custom" not in caught.value.problem
    found = bench(tmp_path, *given, params={"max_failed_items": 0.5})
    assert [item.unit for item in data(found).left_out] == ["seed: gone.mp4"]
    assert rows(found["summary"].read_text())["SEED-Bench"] == ["2 items", "0"]
    with pytest.raises(DataError, match=r"1 of 2 files failed \(max_failed=0\)"):
        train(tmp_path, torn, params={"max_failed_items": 1.0})


def test_types_are_checked_before_anything_is_computed(tmp_path):
    good, bare, unknown = (ASKED | {"id": f"i{n}", "question": f"Q{n}?"} for n in range(3))
    del bare["type"]
    root = own(tmp_path / "data", [good, bare, unknown | {"type": "Dance"}])
    with pytest.raises(DataError, match="seed: 2 of 3 items") as caught:
        bench(tmp_path, f"seed={root}")
    assert "seed: i1 (data.jsonl:2): no task type, as SEED-Bench has" in caught.value.problem
    assert "seed: i2 (data.jsonl:3): SEED-Bench has no task type 'Dance'" in caught.value.problem
    found = data(bench(tmp_path, f"seed={root}", params={"max_failed_items": 0.7}))
    assert [sample.uid for line in found.lines for sample in line.samples] == ["i0"]
    assert [len(line.samples) for line in data(bench(tmp_path, f"custom={root}")).lines] == [3]


def test_published_counts_are_compared_unless_a_subset_is_allowed(tmp_path, monkeypatch):
    """A published set of 3 items of one type, 2 of another, one held out; bad rows have their own rule."""
    asked = [ASKED | {"id": f"i{n}", "question": f"Q{n}?", "type": "short" if n < 3 else "long"} for n in range(6)]
    asked[5] |= {"answer": ""}
    small = replace(get_benchmark("videomme"), counts=Counts({"short": 3, "medium": 0, "long": 2}, held_out=1))
    monkeypatch.setitem(benchmarks(), "videomme", small)

    def imported(rows, **params):
        root = tmp_path / f"set-{len(list(tmp_path.iterdir()))}"
        return bench(tmp_path, f"videomme={own(root, rows)}", params={"allow_subset": False} | params)

    assert rows(imported(asked)["summary"].read_text())[small.title] == ["5 of 5 items", "1"]
    for change, said in (
        (asked[1:], "short: 2 of 3"),
        (asked[:5], "held out: 0 of 1"),
        ([*asked, asked[4] | {"id": "more", "question": "Q?"}], "long: 3 of 2"),
        ([asked[0] | {"type": "medium"}, *asked[1:]], "short: 2 of 3; medium: 1 of 0"),
    ):
        with pytest.raises(DataError, match=f"is not Video-MME .* as published .{said}. *") as caught:
            imported(change)
        assert (caught.value.exit_code, caught.value.source) == (3, "benchmarks")
        assert "allow_subset=true" in caught.value.remedy
    part = imported(asked[1:], allow_subset=True)
    assert rows(part["summary"].read_text())[small.title] == ["4 of 5 items", "1"]
    torn = [asked[0] | {"options": []}, *asked[1:]]
    with pytest.raises(DataError, match=r"videomme: 1 of 6 items cannot be asked"):
        imported(torn)
    assert len(data(imported(torn, max_failed_items=0.2)).left_out) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["mvbench=."], "no protocol 'mvbench'"),
        (["nonsense"], "is not <protocol>"),
        (["seed="], "is not <protocol>"),
        (["seed=a", "seed=b"], "named twice"),
        (["custom:x=a", "custom=b", "custom:x=c"], "named twice: .'custom:x'."),
        (["custom:=a"], "no protocol 'custom:'"),
        (["custom:a b=a"], "no protocol 'custom:a b'"),
        (["seed:mine=a"], "no protocol 'seed:mine'"),
    ],
)
def test_bad_benchmark_lists(tmp_path, given, said):
    with pytest.raises(ParameterError, match=said):
        bench(tmp_path, *given)


# Places ---------------------------------------------------------------------------------------------------------------


def test_stores_and_sources_on_s3_give_the_same_manifest(tmp_path):
    write_set(tmp_path / "set", "scenes", 3, seed=5, size=(32, 32), num_frames=9)
    with s3_server("store", "source") as client:
        for path in (tmp_path / "set").rglob("*"):
            if path.is_file():
                client.fput_object("source", f"some/set/{path.relative_to(tmp_path / 'set').as_posix()}", str(path))
        runs = [
            train(tmp_path, tmp_path / "set"),
            train(tmp_path, tmp_path / "set", store="minio://store/one"),
            train(tmp_path, "minio://source/some/set", store="minio://store/two", params={"processes": 2}),
            train(tmp_path, "minio://source/some/set", store=tmp_path / "three"),
        ]
        manifests = [(run["videos"] / "manifest.json").read_bytes() for run in runs]
        assert len(set(manifests)) == 1
        for store in (Store("minio://store/one"), Store("minio://store/two"), Store(str(tmp_path / "three"))):
            for line in data(runs[0]).lines:
                assert hashlib.sha256(store.read(line.video.file)).hexdigest() == line.video.id
                store.read(line.mask)
        again = train(tmp_path, "minio://source/some/set", store="minio://store/two")
        assert metrics(again)["share_remembered"] == 1
        name = "some/set/MotionBenchCaption-train/videos/scenes-5-00001.mp4"
        client.fput_object("source", name, str(clip(tmp_path / "new.mp4", seed=50)))
        changed = train(tmp_path, "minio://source/some/set", store="minio://store/two")
        assert digest(tmp_path / "new.mp4") in [line.video.id for line in data(changed).lines]
        assert metrics(changed)["share_remembered"] == pytest.approx(2 / 3, abs=1e-4)
