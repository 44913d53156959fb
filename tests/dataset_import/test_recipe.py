"""Several sources with a recipe: exact counts, the same for the same seed, told by source."""

import json
import random
from collections import Counter

import pytest

from components.core.artifacts import VideoDataset
from components.core.errors import DataError, ParameterError
from components.core.records import canonical_json, sha256
from components.dataset_import.recipe import SourceSpec, draw, read_training, recipe, training_digest
from components.dataset_import.sources import list_source, read_source, source_digest
from components.dataset_import.step import STEP
from tests.dataset_import.data import clip, document, lines
from tests.infrastructure.faulty import FaultyProxy
from tests.pages.reading import rows as page_rows
from tests.runner import metrics, published, run_step
from tests.s3_server import s3_server

ASK = "Describe the motion in this video in detail."


def captions(root, count, videos=None):
    """MotionBench's captions, as published; files without content unless `videos` writes them."""
    folder = root / "MotionBenchCaption-train"
    rows = [{"video_path": f"{k}.mp4", "motion_caption": f"Caption {k}."} for k in range(count)]
    lines(folder / "train.jsonl", rows)
    write(folder / "videos", count, videos)
    return root


def motionvid(root, count, videos=None):
    rows = [
        {
            "id": f"k{k}",
            "video": f"openvid/{k % 7}.mp4",
            "conversations": [{"from": "human", "value": f"<video>\n{k}?"}, {"from": "gpt", "value": f"Answer {k}."}],
        }
        for k in range(count)
    ]
    document(root / "all_sft.json", rows)
    write(root / "openvid", 7, videos)
    return root


def write(folder, count, videos):
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        if videos is None:
            (folder / f"{k}.mp4").write_bytes(b"not decoded here")
        else:
            clip(folder / f"{k}.mp4", seed=videos + k)


def spec(**fields):
    return SourceSpec.model_validate({"uri": "x", "name": "x", **fields})


def taken(source):
    return [(video.path, row.uid) for video in source.videos for row in video.rows]


# The recipe -----------------------------------------------------------------------------------------------------------


def test_an_address_is_a_source_without_a_name_and_a_list_names_its_own():
    (plain,) = recipe("./data")
    assert (plain.uri, plain.name, plain.weight, plain.samples) == ("./data", "", 1.0, None)
    one, two, three = recipe(
        '["minio://b/MotionVid-QA/", {"uri": "/x/data", "samples": 5, "weight": 2, "layout": "llava", "seed": 3},'
        ' {"uri": "/y/data", "name": "own"}]'
    )
    assert (one.uri, one.name) == ("minio://b/MotionVid-QA/", "MotionVid-QA")
    assert (two.name, two.samples, two.weight, two.layout, two.seed) == ("data", 5, 2.0, "llava", 3)
    assert three.name == "own"
    (single,) = recipe('{"uri": "/x/data"}')
    assert single.name == "data"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("[", "not JSON"),
        ("[]", "an empty list"),
        ('["/x/a", "/y/a"]', "two sources are called a"),
        ("[5]", "uri: Input should be a valid string"),
        ('[{"samples": 5}]', "no uri"),
        ('[{"uri": "a", "sampels": 5}]', "sampels: there is no such parameter"),
        ('[{"uri": "a", "samples": 0}]', "samples"),
        ('[{"uri": "a", "weight": 0}]', "weight"),
        ('[{"uri": "a", "layout": "lava"}]', "layout"),
        ('["/"]', "no name"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_recipe(source, said):
    with pytest.raises(ParameterError, match=said):
        recipe(source)


# The draw -------------------------------------------------------------------------------------------------------------


def oracle(seed, rows, count):
    """By the documented order: smallest sha256 over seed, path, question, options, response, earlier turns."""

    def rank(k):
        return sha256(canonical_json([seed, f"openvid/{k % 7}.mp4", f"{k}?", [], f"Answer {k}.", []]))

    return sorted(f"k{k}" for k in sorted(range(rows), key=rank)[:count])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_samples_are_those_with_the_smallest_hashes(tmp_path, seed):
    source = read_source(str(motionvid(tmp_path, 60)), "auto", [ASK])
    drawn = draw(source, spec(samples=20, seed=seed))
    assert sorted(uid for _, uid in taken(drawn)) == oracle(seed, 60, 20)
    assert (drawn.samples, drawn.usable, drawn.rows) == (20, 60, 60)
    assert taken(draw(source, spec(samples=60, seed=seed))) == taken(source)
    assert {*taken(drawn)} < {*taken(draw(source, spec(samples=21, seed=seed)))}


def test_a_draw_is_of_what_the_rows_say_not_of_their_order_or_the_place_of_the_source(tmp_path):
    motionvid(tmp_path / "a", 60)
    items = json.loads((motionvid(tmp_path / "b", 60) / "all_sft.json").read_text())
    random.Random(0).shuffle(items)
    document(tmp_path / "b/all_sft.json", items)
    first, second = (draw(read_source(str(tmp_path / name), "auto", [ASK]), spec(samples=20)) for name in "ab")
    assert sorted(taken(first)) == sorted(taken(second))
    document(tmp_path / "b/all_sft.json", items[1:])  # one row less changes at most one
    third = draw(read_source(str(tmp_path / "b"), "auto", [ASK]), spec(samples=20))
    assert len({*taken(first)} - {*taken(third)}) <= 1


def test_what_cannot_be_used_is_not_drawn_and_no_failure(tmp_path):
    motionvid(tmp_path, 60)
    (tmp_path / "openvid/3.mp4").unlink()
    items = json.loads((tmp_path / "all_sft.json").read_text())
    items[0]["conversations"][1]["value"] = "<|im_end|>"
    document(tmp_path / "all_sft.json", items)
    source = draw(read_source(str(tmp_path), "auto", [ASK]), spec(samples=50))
    missing = len(range(3, 60, 7))
    assert (source.samples, source.usable, source.rejected, source.rows) == (50, 59 - missing, (), 60)
    assert len(source.undrawn) == missing + 1
    assert all(path != "openvid/3.mp4" for path, _ in taken(source))
    with pytest.raises(
        DataError, match=rf"52 samples are to be drawn of {59 - missing}; 1 refused row, {missing} rows"
    ):
        draw(read_source(str(tmp_path), "auto", [ASK]), spec(samples=52))


def test_rows_that_say_the_same_are_one_draw(tmp_path):
    rows = [{"id": str(k), "video": "a.mp4", "response": f"It is {k % 5}."} for k in range(10)]
    lines(tmp_path / "x.jsonl", rows)
    (tmp_path / "a.mp4").write_bytes(b"")
    drawn = draw(read_source(str(tmp_path), "auto", [ASK]), spec(samples=3))
    assert (drawn.usable, len({row.response for video in drawn.videos for row in video.rows})) == (5, 3)


# The step -------------------------------------------------------------------------------------------------------------


def imported(tmp_path, source, store="store", **params):
    shared = {"source": source}
    return run_step(STEP, tmp_path, tmp_path / store, {"processes": 1} | params, shared, form="training")


def both(tmp_path, uri=str):
    """The paper's mix in small: captions of MotionBench and a draw of MotionVid-QA."""
    captions(tmp_path / "mb", 3, videos=10)
    motionvid(tmp_path / "mv", 40, videos=20)
    first = {"uri": uri(tmp_path / "mb"), "name": "captions", "samples": 2}
    return [first, {"uri": uri(tmp_path / "mv"), "name": "motionvid-qa", "samples": 9, "seed": 2, "weight": 0.5}]


def test_two_sources_give_exact_counts_the_same_for_the_same_seed(tmp_path):
    source = both(tmp_path)
    made = imported(tmp_path, source)  # a list as it is, and as its text
    found = published(made, "videos", VideoDataset)
    samples = [sample for line in found.lines for sample in line.samples]
    assert Counter((one.source, one.weight) for one in samples) == {("captions", 1.0): 2, ("motionvid-qa", 0.5): 9}
    assert sorted(one.uid for one in samples if one.source == "motionvid-qa") == oracle(2, 40, 9)
    page = made["summary"].read_text()
    assert page_rows(page)["captions"][1:] == ["2", "2 of 3", "1"]
    assert page_rows(page)["motionvid-qa"][2:] == ["9 of 40", "0.5"]
    assert "motionvid-qa: 9 samples drawn of the 40 that can be used" in page.replace("\\", "")
    again = imported(tmp_path, json.dumps(source), store="other")
    assert (again["videos"] / "manifest.json").read_bytes() == (made["videos"] / "manifest.json").read_bytes()
    source[1]["seed"] = 3
    other = published(imported(tmp_path, source), "videos", VideoDataset)
    assert Counter(one.source for line in other.lines for one in line.samples) == {"captions": 2, "motionvid-qa": 9}
    assert other != found


def test_a_video_of_two_sources_is_one_line_with_the_samples_of_both(tmp_path):
    captions(tmp_path / "mb", 1, videos=5)
    clip(tmp_path / "own/copy.mp4", seed=5)
    lines(tmp_path / "own/x.jsonl", [{"id": "mine", "video": "copy.mp4", "question": "Q?", "response": "r"}])
    source = [str(tmp_path / "mb"), {"uri": str(tmp_path / "own"), "weight": 3}]
    made = imported(tmp_path, source)
    (line,) = published(made, "videos", VideoDataset).lines
    assert {(one.uid, one.source, one.weight) for one in line.samples} == {("0", "mb", 1.0), ("mine", "own", 3.0)}
    assert metrics(made)["units"] == 2


def test_one_folder_in_two_layouts_is_imported_once(tmp_path):
    root = motionvid(tmp_path / "mv", 2, videos=1)
    document(root / "DPO.json", [{"video": "openvid/0.mp4", "question": "Why?", "chosen": "So.", "rejected": "No."}])
    source = [str(root), {"uri": str(root), "layout": "preferences", "name": "chosen"}]
    made = imported(tmp_path, source)
    found = published(made, "videos", VideoDataset)
    assert Counter(one.source for line in found.lines for one in line.samples) == {"mv": 2, "chosen": 1}
    assert metrics(made)["units"] == 2


def test_failures_name_their_source_and_what_is_not_drawn_is_one_line(tmp_path):
    captions(tmp_path / "mb", 2, videos=5)
    (tmp_path / "mb/MotionBenchCaption-train/videos/1.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"mb: MotionBenchCaption-train/videos/1\.mp4: an empty file"):
        imported(tmp_path, [str(tmp_path / "mb")])
    (tmp_path / "mb/MotionBenchCaption-train/videos/1.mp4").unlink()
    made = imported(tmp_path, [{"uri": str(tmp_path / "mb"), "samples": 1}])
    (item,) = published(made, "videos", VideoDataset).left_out
    assert item.unit == "mb: rows not drawn from"
    assert item.reason.startswith("1 row, first 1: ")
    assert metrics(made)["failed"] == 0


def test_a_plain_address_gives_the_manifest_that_it_gave_before(tmp_path):
    captions(tmp_path / "mb", 1, videos=5)
    found = published(imported(tmp_path, str(tmp_path / "mb")), "videos", VideoDataset)
    for line in found.lines:
        assert not {"source", "weight"} & {*line.model_dump()["samples"][0]}


def test_the_digest_follows_every_source(tmp_path):
    for name in "ab":
        motionvid(tmp_path / name, 1)
    one, source = str(tmp_path / "a"), json.dumps([str(tmp_path / "a"), str(tmp_path / "b")])
    digest = lambda given: training_digest(read_training(given, "auto", [ASK]))
    before = digest(source)
    listed = [source_digest(list_source(str(tmp_path / name))) for name in "ab"]
    assert digest(one) == digest(json.dumps([one])) == listed[0]
    assert before == sha256(canonical_json(listed))
    (tmp_path / "b/new.mp4").write_bytes(b"x")
    assert digest(source) != before


def test_digest_and_rows_are_of_one_listing_for_each_address(tmp_path, monkeypatch):
    """The same address twice: what is in it in one layout, and in another."""
    with s3_server("data") as client, FaultyProxy(client._base_url.host) as proxy:
        monkeypatch.setenv("S3_ENDPOINT", proxy.endpoint)
        for name in "ab":
            for path in motionvid(tmp_path / name, 9).rglob("*.*"):
                client.fput_object("data", path.relative_to(tmp_path).as_posix(), str(path))
        again = {"uri": "minio://data/a", "name": "once more", "layout": "llava"}
        sources = read_training(json.dumps(["minio://data/a", "minio://data/b", again]), "auto", [ASK])
        assert len(training_digest(sources)) == 64
        assert sum("list-type" in path for _, path in proxy.done.elements()) == 2


def test_sources_of_a_folder_and_a_bucket(tmp_path):
    source = both(tmp_path)
    here = imported(tmp_path, source)
    with s3_server("data") as client:
        for path in (tmp_path / "mv").rglob("*"):
            if path.is_file():
                client.fput_object("data", f"mv/{path.relative_to(tmp_path / 'mv').as_posix()}", str(path))
        source[1]["uri"] = "minio://data/mv"
        there = imported(tmp_path, source, store="other")
    assert (there["videos"] / "manifest.json").read_bytes() == (here["videos"] / "manifest.json").read_bytes()


def test_the_default_layout_goes_to_the_sources_that_name_none(tmp_path):
    root = motionvid(tmp_path / "mv", 1)
    lines(root / "x.jsonl", [{"video": "openvid/0.mp4", "response": "r"}])
    own = {"uri": str(root), "layout": "jsonl", "name": "own"}
    found = read_training(json.dumps([str(root), own]), "llava", [ASK])
    assert [(one.name, one.layout) for one in found] == [("mv", "llava"), ("own", "jsonl")]
