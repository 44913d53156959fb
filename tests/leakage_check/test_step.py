"""The step on a prior set and a benchmark with planted leaks of every kind: found, remembered, excluded as asked."""

import json

import pytest

from components.core import artifacts as a
from components.core.errors import DataError
from components.core.records import StepRecord
from components.core.text import sample_id
from components.leakage_check.step import STEP
from components.media.video import read_frames
from components.store.entries import Store
from components.synthetic.scenes import write_set
from tests.leakage_check.made import movie, rescaled
from tests.media.made import encode
from tests.pages.reading import rows
from tests.runner import metrics, published, put_manifest, run_step
from tests.vlm_attention import made

CAPTION = "A man in a red coat walks to the door and opens it."
RIGHT = "B. It falls."
OPTIONS = [a.records.Option(letter=letter, text=text) for letter, text in (("A", "It turns."), ("B", "It falls."))]


def item(store, file, name, uid, question="What moves?", protocol="motionbench"):
    """A benchmark's video with one question."""
    clip = made.video(store, file).model_copy(update={"name": name})
    fields = {"uid": uid, "question": question, "is_instruction": False, "options": OPTIONS, "protocol": protocol}
    fields |= {"id": sample_id(clip.id, question, OPTIONS, RIGHT, []), "response": RIGHT, "answer": "B"}
    return a.VideoLine(video=clip, samples=[a.Sample(**fields)])


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A folder with a store; the lines of a prior set, the k-th of which leaks by the k-th kind; benchmark lines."""
    folder = tmp_path_factory.mktemp("planted")
    lines = sorted(made.prior_lines(folder / "set", folder / "store", 7), key=lambda line: line.sample.uid)
    store = Store(str(folder / "store"))
    files = [folder / "set/MotionBenchCaption-train/videos" / f"{line.sample.uid}.mp4" for line in lines]
    names = [f"scenes-{k}.mp4" for k in (1, 2, 3, 4, 5, 6)] + ["7.mp4"]
    names[3] = "charades/0BX9N.mp4"
    texts = {3: {"uid": "row-3"}, 2: {"uid": "dQw4w9WgXcQ#1"}, 4: {"response": CAPTION}}
    ours = [
        line.model_copy(
            update={
                "video": line.video.model_copy(update={"name": name}),
                "sample": line.sample.model_copy(update=texts.get(k, {})),
            }
        )
        for k, (line, name) in enumerate(zip(lines, names, strict=True))
    ]
    write_set(folder / "bench", "bench", 5, seed=3, num_frames=9)
    clean = sorted((folder / "bench").glob("**/*.mp4"))
    cut = rescaled(read_frames(files[1], range(3, 15)), 96, 80)
    theirs = [
        item(store, files[0], "other-name.mp4", "q0"),
        item(store, encode(folder / "cut.mp4", cut, rate=8, crf=30), "cut.mp4", "q1"),
        item(store, clean[0], "dQw4w9WgXcQ_10_20.mp4", "q2"),
        item(store, clean[1], "0BX9N_5_9.mkv", "q3", protocol="favor"),
        item(store, clean[2], "x.mp4", "q4", CAPTION.lower().replace(".", "?"), protocol="favor"),
        item(store, clean[3], "y.mp4", "q5"),
        item(store, clean[4], "7.mp4", "q6"),  # a count
    ]
    return folder, ours, theirs


def check(planted, out, rerun="0", ours=None, **params):
    folder, lines, theirs = planted
    record = StepRecord(version="1", params={}, scalars={})
    asked = a.VideoDataset(kind="VideoDataset", provenance={"benchmark_import": record}, lines=theirs)
    store = folder / "store"
    priors = made.prior_set(out / "priors", ours or lines, store)
    inputs = {"priors": priors, "videos": put_manifest(out / "asked", asked, store)}
    return run_step(STEP, out, folder / "store", params, {}, inputs, rerun)


def kinds(report):
    return {(pair.training_name, pair.benchmark_name): pair.kind for pair in report.pairs}


def test_planted_leaks_of_every_kind_are_found_and_no_other(planted, tmp_path):
    outputs = check(planted, tmp_path)
    report = published(outputs, "leakage", a.LeakageReport)
    assert kinds(report) == {
        ("scenes-1.mp4", "other-name.mp4"): "file",
        ("scenes-2.mp4", "cut.mp4"): "frames",
        ("scenes-3.mp4", "dQw4w9WgXcQ_10_20.mp4"): "id",
        ("charades/0BX9N.mp4", "0BX9N_5_9.mkv"): "name",
        ("scenes-5.mp4", "x.mp4"): "text",
    }
    _, ours, _ = planted
    assert report.excluded == sorted(line.video.id for line in ours[:4])  # two videos may be told in the same words
    assert (report.training, report.benchmarks) == (7, {"favor": 2, "motionbench": 5})
    assert report.found == {"favor": {"name": 1, "text": 1}, "motionbench": {"file": 1, "frames": 1, "id": 1}}
    (footage,) = (pair for pair in report.pairs if pair.kind == "frames")
    assert footage.shift == pytest.approx(-3 / 8, abs=0.1)
    assert footage.seconds == pytest.approx(12 / 8, abs=0.2)
    page = outputs["summary"].read_text()
    assert "7 training videos; 4 of them are left out of training" in page
    assert "`scenes-2.mp4`: the same footage as cut.mp4 of motionbench (1.5 s, from its second −0.4 on" in page


def test_parts_of_one_file_are_the_same_where_they_overlap_and_sources_are_named(planted, tmp_path):
    folder, ours, theirs = planted

    def cut(line, first, count):
        times = [time - line.video.times[first] for time in line.video.times[first : first + count]]
        part = a.records.Part(first=first, count=count, offset=first / 8)
        changed = {"part": part, "times": times, "duration": times[-1] + 1 / 8}
        return line.model_copy(update={"video": line.video.model_copy(update=changed)})

    sample = ours[0].sample.model_copy(update={"source": "mine"})
    line = cut(ours[0].model_copy(update={"sample": sample}), 0, 8)
    found = []
    for k, part in enumerate([(8, 9), (6, 8)]):
        outputs = check((folder, [line], [cut(theirs[0], *part)]), tmp_path / str(k))
        found.append(published(outputs, "leakage", a.LeakageReport))
    assert kinds(found[0]) == {}
    assert list(kinds(found[1]).values()) == ["file"]
    assert found[1].pairs[0].sources == ["mine"]
    page = outputs["summary"].read_text()
    assert "`scenes-1.mp4` (mine): the same file as other-name.mp4" in page
    assert rows(page)["mine"] == ["1"]


def test_fingerprints_are_remembered_whatever_else_changes(planted, tmp_path, monkeypatch):
    first = check(planted, tmp_path / "first")
    with monkeypatch.context() as nothing:
        nothing.setattr("components.media.video.read_frames", None)
        again = check(planted, tmp_path / "again")
        assert metrics(again)["share_remembered"] == 1.0
        assert published(again, "leakage", a.LeakageReport) == published(first, "leakage", a.LeakageReport)
        other = published(check(planted, tmp_path / "other", exclude=["text"]), "leakage", a.LeakageReport)
        assert other.excluded == [planted[1][4].video.id]
        none = published(check(planted, tmp_path / "none", exclude=[], max_distance=0), "leakage", a.LeakageReport)
        assert (none.excluded, len(none.pairs)) == ([], 4)  # the cut copy's hashes differ
    entries = (planted[0] / "store" / "leakage_check").glob("*/entry.json")
    entry = next(file for file in entries if json.loads(file.read_text())["unit"] == planted[1][0].video.id)
    next(entry.parent.glob("pictures-*")).write_bytes(b"damaged")
    again = check(planted, tmp_path / "rerun", rerun="1")
    assert metrics(again)["share_remembered"] == pytest.approx(12 / 13, abs=1e-4)
    monkeypatch.setattr("components.leakage_check.step._AHEAD", 3)
    other = check(planted, tmp_path / "rate", rate=6.0)
    assert metrics(other)["share_remembered"] == 0.0
    assert kinds(published(other, "leakage", a.LeakageReport)) == kinds(published(first, "leakage", a.LeakageReport))


def test_a_video_that_is_gone_is_named(planted, tmp_path):
    folder, ours, _ = planted
    file = encode(folder / "gone.mp4", movie(1, 1, 1.0))
    lost = made.video(Store(str(folder / "store")), file).model_copy(update={"name": "lost.mp4"})
    (folder / "store" / lost.file.path).unlink()
    with pytest.raises(DataError, match=r"(?s)1 of 14 videos failed.*lost.mp4: .*is missing"):
        check(planted, tmp_path / "stop", ours=[*ours, ours[0].model_copy(update={"video": lost})])
    given = [*ours, ours[0].model_copy(update={"video": lost})]
    report = published(check(planted, tmp_path / "go", ours=given, max_failed=0.1), "leakage", a.LeakageReport)
    assert [failure.unit for failure in report.left_out] == ["lost.mp4"]
    assert len(report.pairs) == 5
