"""SEED-Bench, SEED-Bench-2 and Video-MME as they are published: images, still frames, parts of videos, zip files."""

import io
import json
import zipfile
from collections import Counter

import av
import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet as pq

from components.core.artifacts import VideoDataset
from components.core.errors import DataError
from components.dataset_import import decode as decode_module
from components.dataset_import.sources import read_source
from components.dataset_import.step import STEP
from components.media.video import read_frames
from components.store.entries import Store
from tests.dataset_import.data import document, lines
from tests.dataset_import.published import (
    SEED,
    SEED2,
    numbered,
    picture,
    saved,
    seed,
    seed2,
    seed_question,
    videomme,
    zipped,
)
from tests.pages.reading import rows
from tests.runner import metrics, published, run_step
from tests.s3_server import s3_server


def bench(tmp_path, benchmark, store=None, **params):
    params, shared = {"processes": 1, "allow_subset": True} | params, {"benchmarks": [benchmark]}
    store = store or tmp_path / "store"
    return run_step(STEP, tmp_path, store, params, shared, form="benchmark", task="benchmark_import")


def read(outputs):
    """The clips by the id of their first question."""
    data = published(outputs, "videos", VideoDataset)
    return {sample.uid: (line.video, sample) for line in data.lines for sample in line.samples}


def frames_of(tmp_path, video):
    return read_frames(Store(str(tmp_path / "store")).fetch(video.file), range(len(video.times)), video)


# SEED-Bench -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [False, True])
def test_seed_bench_with_still_frames(pack, tmp_path):
    questions = seed(tmp_path / "seed", pack=pack)
    outputs = bench(tmp_path, f"seed={tmp_path / 'seed'}")
    found = read(outputs)
    assert set(found) == {question["question_id"] for question in questions}
    for question in questions:
        video, sample = found[question["question_id"]]
        assert (sample.question, sample.answer) == (question["question"], question["answer"])
        assert [option.text for option in sample.options] == ["One", "Two", "Three", "Four"]
        shown = frames_of(tmp_path, video)
        if question["data_type"] == "image":
            assert (video.kind, video.times, len(shown)) == ("image", [0.0], 1)
            with Image.open(io.BytesIO(Store(str(tmp_path / "store")).read(video.file))) as image:
                assert np.array_equal(shown[0], np.asarray(image.convert("RGB")))
        else:
            kind = question["question_type_id"]
            assert (video.kind, video.times, video.duration) == ("video", list(map(float, range(8))), 8.0)
            assert np.array_equal(shown, np.stack([picture(100 * kind + number) for number in range(1, 9)]))
    kinds = Counter(sample.question_type for _, sample in found.values())
    assert (len(kinds), kinds["Action Prediction"], kinds["Instances Counting"]) == (12, 1, 1)
    page = rows(outputs["summary"].read_text())
    assert page["images"] == ["9"]
    assert metrics(outputs)["samples"] == 12


def test_where_a_video_is_there_its_part_is_read_and_decoded_once(tmp_path, monkeypatch):
    seed(tmp_path / "seed", videos=True)
    decoded, probe = [], decode_module.probe
    monkeypatch.setattr(decode_module, "probe", lambda path: decoded.append(path) or probe(path))
    outputs = bench(tmp_path, f"seed={tmp_path / 'seed'}")
    assert len(decoded) == 9 + 3  # two questions are about one of the long videos
    found = read(outputs)
    for uid, rate, first, count in (("v1962", 10, 20, 20), ("v1963", 10, 0, 30), ("v4397", 15, 18, 28)):
        video, _ = found[uid]
        assert (video.part.first, video.part.count, video.part.offset) == (first, count, pytest.approx(first / rate))
        assert video.times == pytest.approx([index / rate for index in range(count)])
        assert video.duration == pytest.approx(count / rate)
        whole = video.model_copy(update={"part": None, "times": [index / rate for index in range(60)]})
        path = Store(str(tmp_path / "store")).fetch(video.file)
        assert np.array_equal(frames_of(tmp_path, video), read_frames(path, range(first, first + count), whole))
    assert found["v1738"][0].part is None
    one, other = (found[uid][0] for uid in ("v1962", "v1963"))
    assert one.file == other.file
    assert len({one.id, other.id, one.file.sha256}) == 3
    assert one.name.endswith("EPIC-KITCHENS/P03/P03_24.MP4#t=2,4")
    stored = list((tmp_path / "store/videos").iterdir())
    assert len(stored) == 12  # no copy of a part
    assert metrics(bench(tmp_path, f"seed={tmp_path / 'seed'}"))["share_remembered"] == 1


def test_seed_bench_on_s3_gives_the_same_manifest(tmp_path):
    seed(tmp_path / "seed")
    here = bench(tmp_path, f"seed={tmp_path / 'seed'}")
    with s3_server("source", "store") as client:
        for path in (tmp_path / "seed").rglob("*"):
            if path.is_file():
                client.fput_object("source", f"seed/{path.relative_to(tmp_path / 'seed').as_posix()}", str(path))
        there = bench(tmp_path, "seed=minio://source/seed", "minio://store/x", processes=2)
        assert (here["videos"] / "manifest.json").read_bytes() == (there["videos"] / "manifest.json").read_bytes()
        again = bench(tmp_path, "seed=minio://source/seed", "minio://store/x")
        assert metrics(again)["share_remembered"] == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"segment": [70.0, 80.0]}, "no part from 70 to 80 s in a video of 6.00 s"),
        ({"segment": [4.0, 4.0]}, "segment [4.0, 4.0], wanted start and end"),
        ({"segment": ["a", None]}, "segment ['a', None], wanted start and end"),
        ({"segment": None}, "no field 'segment'"),
        ({"data_id": "P99/none.MP4", "question_id": "v9"}, "not in the source, named by v9"),
        ({"question_type_id": 13}, "question type 13, the file names 1, 2,"),
        ({"data_type": "audio"}, "data_type 'audio' of question type 11"),
        ({"data_id": "none", "question_id": "../v1"}, "leaves the source"),
        ({"choice_c": None}, "no field 'choice_c'"),
    ],
)
def test_questions_that_cannot_be_asked(change, reason, tmp_path):
    questions = seed(tmp_path / "seed", pack=False, videos=True)
    bad = next(question for question in questions if question["question_id"] == "v1962") | change
    document(tmp_path / "seed/SEED-Bench.json", {"questions": [*questions[:3], bad], "question_type": numbered(SEED)})
    with pytest.raises(DataError) as caught:
        bench(tmp_path, f"seed={tmp_path / 'seed'}")
    assert reason in caught.value.problem
    assert "1 of 4" in caught.value.problem


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "3.png").unlink(), "no frame 3 among the 7 files"),
        (lambda folder: saved(folder / "3.png", 3, format="JPEG"), "frames that are JPEG, PNG"),
        (lambda folder: (folder / "3.png").write_text("404: Not Found"), "frames that are PNG, no picture"),
        (lambda folder: picture(1, (64, 48)).save(folder / "3.png"), "the frame size changes"),
    ],
)
def test_still_frames_that_make_no_video(spoil, reason, tmp_path):
    seed(tmp_path / "seed", pack=False)
    spoil(tmp_path / "seed/v1_video/task10/ssv2_8_frame/v1738")
    with pytest.raises(DataError) as caught:
        bench(tmp_path, f"seed={tmp_path / 'seed'}")
    assert reason in caught.value.problem
    assert "1 of 12" in caught.value.problem


def test_frames_may_lie_in_the_folder_that_others_unpack_them_to(tmp_path):
    seed(tmp_path / "seed", pack=False)
    (tmp_path / "seed/SEED-Bench-video-image").mkdir()
    (tmp_path / "seed/v1_video").rename(tmp_path / "seed/SEED-Bench-video-image/v1_video")
    assert len(read(bench(tmp_path, f"seed={tmp_path / 'seed'}"))) == 12


def test_a_changed_frame_is_noticed(tmp_path):
    seed(tmp_path / "seed", pack=False)
    frame = tmp_path / "seed/v1_video/task10/ssv2_8_frame/v1738/3.png"
    sizes, ids = set(), set()
    for content in (3, 4):
        saved(frame, content, compress_level=0)
        sizes.add(frame.stat().st_size)
        outputs = bench(tmp_path, f"seed={tmp_path / 'seed'}")
        ids.add(read(outputs)["v1738"][0].id)
    assert (len(sizes), len(ids)) == (1, 2)
    assert metrics(outputs)["share_remembered"] == pytest.approx(11 / 12, abs=1e-4)


def test_a_damaged_image_is_left_out_by_the_rule_of_clips(tmp_path):
    seed(tmp_path / "seed", pack=False)
    path = tmp_path / "seed/SEED-Bench-image/1454426_2591113"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(DataError, match="the picture does not decode"):
        bench(tmp_path, f"seed={tmp_path / 'seed'}")
    data = published(bench(tmp_path, f"seed={tmp_path / 'seed'}", max_failed_items=0.1), "videos", VideoDataset)
    (item,) = data.left_out
    assert item.unit == "seed: SEED-Bench-image/1454426_2591113"
    assert str(tmp_path) not in item.reason


def test_a_file_beside_its_archive_is_that_of_the_archive(tmp_path):
    seed(tmp_path / "seed")
    with zipfile.ZipFile(tmp_path / "seed/SEED-Bench-image.zip") as archive:
        archive.extractall(tmp_path / "seed")
    assert len(read(bench(tmp_path, f"seed={tmp_path / 'seed'}"))) == 12
    with (tmp_path / "seed/SEED-Bench-image/1454426_2591113").open("ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match="is there with other sizes, as a file and inside SEED-Bench-image"):
        bench(tmp_path, f"seed={tmp_path / 'seed'}")


def test_an_archive_inside_another_is_named(tmp_path):
    seed(tmp_path / "seed")
    (tmp_path / "seed/all").mkdir()
    (tmp_path / "seed/SEED-Bench-image.zip").rename(tmp_path / "seed/all/SEED-Bench-image.zip")
    zipped(tmp_path / "seed/all", tmp_path / "seed/all.zip", base=tmp_path / "seed/all")
    with pytest.raises(
        DataError, match=r"9 videos are not in the source, .*; SEED-Bench-image\.zip, an archive inside"
    ):
        bench(tmp_path, f"seed={tmp_path / 'seed'}")


def test_an_archive_that_is_not_whole_matters_where_something_is_missing(tmp_path):
    seed(tmp_path / "seed")
    (tmp_path / "seed/other.zip").write_bytes(b"cut")
    assert len(read(bench(tmp_path, f"seed={tmp_path / 'seed'}"))) == 12
    (tmp_path / "seed/v1_video.zip.002").unlink()
    said = r"3 videos are not in the source, as v1_video/.*: part 2 of the archive is missing"
    (tmp_path / "seed/other.zip").unlink()
    with pytest.raises(DataError, match=said):
        bench(tmp_path, f"seed={tmp_path / 'seed'}")


# SEED-Bench-2 ---------------------------------------------------------------------------------------------------------


def test_seed_bench_2(tmp_path):
    seed2(tmp_path / "seed2")
    outputs = bench(tmp_path, f"seed2={tmp_path / 'seed2'}")
    found = read(outputs)
    assert set(found) == {f"{kind}_0" for kind in (*range(1, 17), *range(19, 23))}
    assert {uid for uid, (video, _) in found.items() if video.kind == "image"} == {f"{k}_0" for k in range(1, 17)}
    shown = frames_of(tmp_path, found["21_0"][0])
    assert np.array_equal(shown, np.stack([picture(2100 + number) for number in range(8)]))
    assert found["19_0"][1].question_type == "Global Video Understanding"
    left_out = {item.unit: item.reason for item in published(outputs, "videos", VideoDataset).left_out}
    kinds = {"Multiple Images": "2 rows", "Interleaved Image": "2 rows", "Image Generation": "2 rows"}
    kinds["Image & Text Generation"] = "1 row"
    why = "an item is about one image or one video"
    assert left_out == {f"seed2: rows with data_type '{kind}'": f"{count}: {why}" for kind, count in kinds.items()}
    for kind in kinds:
        assert f"rows with data_type '{kind}'" in outputs["summary"].read_text()


def test_other_frames_of_one_folder_are_another_clip(tmp_path):
    root = tmp_path / "seed2"
    questions = seed2(root)
    video = next(question for question in questions if question["question_type_id"] == 20)
    fewer = video | {"question_id": "20_1", "data_id": video["data_id"][::2]}
    again = video | {"question_id": "20_2", "data_id": video["data_id"][1::2]}
    asked = {"questions": [video, fewer, again], "question_type": {"Action Recognition": 20}}
    document(root / "SEED-Bench_v2_level1_2_3.json", asked)
    found = read(bench(tmp_path, f"seed2={root}"))
    assert [len(found[uid][0].times) for uid in ("20_0", "20_1", "20_2")] == [8, 4, 4]
    shown = frames_of(tmp_path, found["20_2"][0])
    assert np.array_equal(shown, np.stack([picture(2000 + number) for number in range(1, 8, 2)]))


def test_a_frame_that_is_missing_is_named(tmp_path):
    root = tmp_path / "seed2"
    questions = seed2(root)
    video = next(question for question in questions if question["question_type_id"] == 20)
    wrong = video | {"data_id": [*video["data_id"][:7], "task20/frames/WRQ20/9.png"]}
    asked = {"questions": [questions[0], wrong], "question_type": {"Scene Understanding": 1, "Action Recognition": 20}}
    document(root / "SEED-Bench_v2_level1_2_3.json", asked)
    with pytest.raises(DataError, match=r"1 of 8 frames are not in the source, as SEED-Bench-2-image/.*/9\.png"):
        bench(tmp_path, f"seed2={root}")


# Video-MME ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unpacked", [False, True])
def test_video_mme(unpacked, tmp_path):
    root = tmp_path / "mme"
    asked = videomme(root)
    if unpacked:
        for path in root.glob("videos_*.zip"):
            with zipfile.ZipFile(path) as archive:
                archive.extractall(root)
            path.unlink()
    outputs = bench(tmp_path, f"videomme={root}")
    found = read(outputs)
    assert set(found) == {row["question_id"] for row in asked}
    for row in asked:
        video, sample = found[row["question_id"]]
        told = (sample.question, sample.answer, sample.question_type)
        assert told == (row["question"], row["answer"], row["duration"])
        assert [option.letter for option in sample.options] == ["A", "B", "C", "D"]
        assert video.name.endswith(f"data/{row['videoID']}.mp4")
        with av.open(str(Store(str(tmp_path / "store")).fetch(video.file))) as container:
            assert len(list(container.decode(video=0))) == len(video.times) == 12
    assert len({video.id for video, _ in found.values()}) == 3


def test_options_of_video_mme_are_read_without_their_letters(tmp_path):
    videomme(tmp_path / "mme")
    _, sample = read(bench(tmp_path, f"videomme={tmp_path / 'mme'}"))["001-1"]
    assert [option.text for option in sample.options] == ["Apples.", "Figs.", "Berries.", "Nuts."]
    assert sample.response == "B. Figs."


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PAR1 cut short", "not a whole parquet file"),
        (b"", "not a whole parquet file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer, not the table itself"),
    ],
)
def test_a_damaged_table(content, reason, tmp_path):
    videomme(tmp_path / "mme")
    (tmp_path / "mme/videomme/test-00000-of-00001.parquet").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        bench(tmp_path, f"videomme={tmp_path / 'mme'}")


def test_a_table_of_another_encoding(tmp_path):
    videomme(tmp_path / "mme")
    path = tmp_path / "mme/videomme/test-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path), path, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(b"Counting", b"\xffounting"))
    with pytest.raises(DataError, match="not a whole parquet file: 'utf-8' codec"):
        bench(tmp_path, f"videomme={tmp_path / 'mme'}")


def test_a_video_that_is_in_no_archive(tmp_path):
    videomme(tmp_path / "mme")
    (tmp_path / "mme/videos_chunked_01.zip").unlink()
    with pytest.raises(DataError, match=r"data/fFjv93ACG2o\.mp4: not in the source, named by 002-1"):
        bench(tmp_path, f"videomme={tmp_path / 'mme'}")


# Anything else --------------------------------------------------------------------------------------------------------

WRONG = (None, True, 7, -1, 1e300, "", "x", "../x", "a\0b", [], [1], [None, {}], {}, {"a": [1]})


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The three benchmarks, one row of each kind of media."""
    root = tmp_path_factory.mktemp("published")
    asked = {"seed": seed(root / "seed", pack=False, videos=True), "seed2": seed2(root / "seed2")}
    kinds = {"seed": (0, 9, 10, 11), "seed2": (0, 15, 16, 18, 22)}
    return root, {name: [asked[name][place] for place in places] for name, places in kinds.items()}


FILES = [("seed", "SEED-Bench.json", SEED), ("seed2", "SEED-Bench_v2.json", SEED2)]


@pytest.mark.parametrize(("name", "file", "types"), FILES)
def test_wrong_values_at_every_field_are_bad_rows(name, file, types, sources):
    root, rows = sources
    if name == "seed2":
        (root / "seed2/SEED-Bench_v2_level1_2_3.json").unlink(missing_ok=True)
    for row in rows[name]:
        for field in row:
            wrong = [row | {field: value} for value in WRONG] + [{key: row[key] for key in row if key != field}]
            document(root / name / file, {"questions": [rows[name][0], row, *wrong], "question_type": numbered(types)})
            found = read_source(str(root / name), "auto", ["Q?"], name)
            count = sum(len(video.rows) for video in found.videos) + len(found.rejected) + sum(found.aside.values())
            assert count == 3 + len(WRONG), field
    for value in (*WRONG, {"questions": [], "question_type": []}, {"question_type": {}}, {"questions": 3}):
        document(root / name / file, value)
        with pytest.raises(DataError):
            read_source(str(root / name), "auto", ["Q?"], name)


def test_wrong_values_in_a_table_are_bad_rows(tmp_path):
    rows = videomme(tmp_path / "mme")
    path = tmp_path / "mme/videomme/test-00000-of-00001.parquet"
    for field in rows[0]:
        for value in (None, 7, True, 1.5, "", "../x", "a\0b", [], ["a"], [None], {"a": 1}):
            pq.write_table(pyarrow.Table.from_pylist([row | {field: value} for row in rows]), path)
            found = read_source(str(tmp_path / "mme"), "auto", ["Q?"], "videomme")
            assert sum(len(video.rows) for video in found.videos) + len(found.rejected) == 9, (field, value)
        pq.write_table(pyarrow.Table.from_pylist(rows).drop_columns([field]), path)
        found = read_source(str(tmp_path / "mme"), "auto", ["Q?"], "videomme")
        assert sum(len(video.rows) for video in found.videos) + len(found.rejected) == 9, field


# Training -------------------------------------------------------------------------------------------------------------


def test_an_image_is_nothing_to_learn_motion_from_and_a_zip_file_is_a_source_as_well(tmp_path):
    videomme(tmp_path / "own")
    saved(tmp_path / "own/still.png", 3)
    names = ["data/fFjv93ACG1o.mp4", "data/fFjv93ACG2o.mp4", "still.png"]
    lines(tmp_path / "own/data.jsonl", [{"id": name, "video": name, "response": "It goes."} for name in names])
    (tmp_path / "own/videomme/test-00000-of-00001.parquet").unlink()
    params, shared = {"processes": 1, "max_failed": 0.5}, {"source": str(tmp_path / "own")}
    outputs = run_step(STEP, tmp_path, tmp_path / "store", params, shared, form="training")
    data = published(outputs, "videos", VideoDataset)
    assert sorted(line.video.name for line in data.lines) == names[:2]
    left_out = {item.unit: item.reason for item in data.left_out}
    assert left_out == {"still.png": "an image: it has no motion to learn from"}


def test_a_question_about_a_file_and_one_about_its_content_elsewhere_are_one_clip(tmp_path):
    """Equal files are one clip, in a zip file or not; so are equal parts of them."""
    root = tmp_path / "seed"
    seed(root, pack=False, videos=True)
    (root / "EPIC-KITCHENS/P04").mkdir()
    (root / "EPIC-KITCHENS/P04/same.MP4").write_bytes((root / "EPIC-KITCHENS/P03/P03_24.MP4").read_bytes())
    asked = json.loads((root / "SEED-Bench.json").read_text())
    asked["questions"].append(seed_question(11, "v5", "P04/same.MP4", segment=[2, 4]))
    document(root / "SEED-Bench.json", asked)
    data = published(bench(tmp_path, f"seed={root}"), "videos", VideoDataset)
    (line,) = (line for line in data.lines if "v5" in {sample.uid for sample in line.samples})
    assert {sample.uid for sample in line.samples} == {"v5", "v1962"}
