"""Training layouts as they are published, with real clips, from their files to the samples of the manifest."""

import json
from collections import Counter

import pytest

from components.core.artifacts import VideoDataset
from components.core.errors import DataError, ParameterError
from components.dataset_import import layouts
from components.dataset_import.sources import read_source
from components.dataset_import.step import STEP
from tests.dataset_import.data import clip, document, lines
from tests.runner import published, run_step

ASK = "Describe the motion in this video in detail."


def read(root, layout="auto"):
    return read_source(str(root), layout, [ASK])


def said(source):
    return [(row.uid, row.question, row.response) for video in source.videos for row in video.rows]


def talk(question, response, *more):
    texts = (question, response, *more)
    return [{"from": ("human", "gpt")[k % 2], "value": text} for k, text in enumerate(texts)]


def chat(*texts):
    return [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(texts)]


# As published ---------------------------------------------------------------------------------------------------------


def motionvid_qa(root):
    clip(root / "openvid/abc.mp4")
    row = {"id": "k1", "video": "openvid/abc.mp4", "conversations": talk("<video>\nHow do they move?", "They turn.")}
    document(root / "all_sft.json", [row])
    return [("k1", "How do they move?", "They turn.")]


def motionvid_qa_in_a_subfolder(root):
    document(root / "dataset_info.json", {"files": ["MotionVid-QA"]})  # JSON without rows is passed by
    return motionvid_qa(root / "MotionVid-QA/data")


def llava_video(root):
    """Annotations in a folder for each length and origin, videos beside them; `<image>` is the video's placeholder."""
    for name, text in (("cap", "A cat jumps."), ("oe_qa", "It lands.")):
        folder = root / "0_30_s_youtube_v0_1"
        clip(folder / f"liwei_youtube_videos/videos/youtube_video_2024/ytb_{name}.mp4", seed=len(name))
        row = {
            "id": f"ytb_{name}",
            "conversations": talk("<image>\nWhat happens?", text),
            "data_source": "0_30_s_youtube_v0_1",
            "video": f"liwei_youtube_videos/videos/youtube_video_2024/ytb_{name}.mp4",
        }
        document(folder / f"0_30_s_youtube_v0_1_{name}_processed.json", [row])
    return [("ytb_cap", "What happens?", "A cat jumps."), ("ytb_oe_qa", "What happens?", "It lands.")]


def llava_lines(root):
    clip(root / "videos/a.mp4")
    lines(root / "train.jsonl", [{"id": "j", "video": "a.mp4", "conversations": talk("<video>Who?", "A man.")}])
    return [("j", "Who?", "A man.")]


def llama_factory(root):
    clip(root / "mllm_demo_data/1.mp4")
    rows = [
        {
            "messages": chat("<video>Why is it funny?", "A baby reads.", "Who?", "He."),
            "videos": ["mllm_demo_data/1.mp4"],
        }
    ]
    document(root / "mllm_video_demo.json", rows)
    where = "mllm_video_demo.json:1"
    return [(f"{where}#1", "Why is it funny?", "A baby reads."), (f"{where}#2", "Who?", "He.")]


def sharegpt4video(root):
    clip(root / "panda/xy_01.mp4")
    captions = [{"idx": str(k), "content": f"Part {k}."} for k in (1, 2)] + [{"idx": "-1", "content": "A bird flies."}]
    row = {"video_id": "xy_01", "video_path": "xy_01.mp4", "timestamp": [0, 2], "keyframe": [0, 50]}
    lines(root / "sharegpt4video_40k.jsonl", [row | {"captions": captions, "zip_folder": "panda_videos_1.zip"}])
    return [("xy_01", ASK, "A bird flies.")]


def preferences(root):
    clip(root / "a.mp4")
    row = {"question": "<video>\nWhat moves?", "video": "a.mp4", "chosen": "A dog runs.", "rejected": "A cat."}
    document(root / "DPO_new_format.json", [row])
    return [("DPO_new_format.json:1", "What moves?", "A dog runs.")]


def own_captions(root):
    clip(root / "a.mp4")
    lines(root / "rows.jsonl", [{"id": "c", "video": "a.mp4", "caption": "A ball rolls."}])
    return [("c", ASK, "A ball rolls.")]


def own_list(root):
    clip(root / "a.mp4")
    document(root / "rows.json", [{"id": "c", "video": "a.mp4", "question": "Where?", "response": "Left."}])
    return [("c", "Where?", "Left.")]


PUBLISHED = {
    motionvid_qa: "llava",
    motionvid_qa_in_a_subfolder: "llava",
    llava_video: "llava",
    llava_lines: "llava",
    llama_factory: "messages",
    sharegpt4video: "sharegpt4video",
    preferences: "preferences",
    own_captions: "jsonl",
    own_list: "jsonl",
}


@pytest.mark.parametrize("write", PUBLISHED, ids=lambda write: write.__name__)
def test_published_files_become_samples(tmp_path, write):
    expected = write(tmp_path / "data")
    assert read(tmp_path / "data").layout == PUBLISHED[write]
    shared = {"source": str(tmp_path / "data")}
    made = run_step(STEP, tmp_path, tmp_path / "store", {"processes": 1}, shared, form="training")
    found = published(made, "videos", VideoDataset)
    samples = [sample for line in found.lines for sample in line.samples]
    assert sorted((one.uid, one.question, one.response) for one in samples) == sorted(expected)
    assert all((one.source, one.weight) == ("", 1.0) for one in samples)
    assert f"{len(expected)} of {len(expected)}" in made["summary"].read_text()


# Which files, and where the video is ----------------------------------------------------------------------------------


def test_preferences_beside_conversations_are_named_and_not_read(tmp_path):
    expected = motionvid_qa(tmp_path)
    preferences(tmp_path)
    source = read(tmp_path)
    assert (source.layout, said(source), source.annotations) == ("llava", expected, ("all_sft.json",))
    (note,) = source.notes
    assert "DPO_new_format.json" in note
    assert "'preferences'" in note
    assert said(read(tmp_path, "preferences")) == [("DPO_new_format.json:1", "What moves?", "A dog runs.")]


def test_annotations_nearest_to_the_root_are_read_alone(tmp_path):
    expected = motionvid_qa(tmp_path / "top")
    preferences(tmp_path / "top/MotionVid/samples")
    llama_factory(tmp_path / "top/other")
    assert said(read(tmp_path / "top")) == expected
    assert read(tmp_path / "top", "messages").annotations == ("other/mllm_video_demo.json",)


def test_several_layouts_side_by_side_are_ambiguous(tmp_path):
    motionvid_qa(tmp_path)
    llama_factory(tmp_path)
    with pytest.raises(ParameterError, match="llava or messages"):
        read(tmp_path)


def test_many_files_are_no_annotations(tmp_path, monkeypatch):
    monkeypatch.setattr(layouts, "_MOST_FILES", 3)
    for k in range(4):
        document(tmp_path / f"gt/{k}.json", {})
    with pytest.raises(ParameterError, match=r"4 JSON files side by side, gt/0\.json first"):
        read(tmp_path)
    expected = motionvid_qa(tmp_path)
    assert said(read(tmp_path)) == expected


@pytest.mark.parametrize("named", ["{root}/deep/a.mp4", "{uri}/deep/a.mp4", "deep/a", "{root}/deep/a", "a", "a.mp4"])
def test_ways_to_name_a_video(tmp_path, named):
    root = tmp_path / "a set"
    clip(root / "deep/a.mp4")
    video = named.format(root=root, uri=root.as_uri())
    lines(root / "deep/rows.jsonl", [{"video": video, "response": "It goes."}])
    (found,) = read(root).videos
    assert (found.path, found.file is not None) == ("deep/a.mp4", True)


def test_a_link_to_the_source_is_the_source(tmp_path):
    clip(tmp_path / "real/a.mp4")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    lines(tmp_path / "real/rows.jsonl", [{"video": str(tmp_path / "real/a.mp4"), "response": "It goes."}])
    assert [video.path for video in read(tmp_path / "link").videos] == ["a.mp4"]


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        ("{root}-2/a.mp4", "leaves the source"),
        ("{root}/../a.mp4", "leaves the source"),
        ("b", "two files for one video: b.mp4 and b.webm"),
    ],
)
def test_names_that_are_no_one_video_of_the_source(tmp_path, named, problem):
    root = tmp_path / "set"
    for name in ("a.mp4", "b.mp4", "b.webm", "b.json.bak"):
        clip(root / name)
    lines(root / "rows.jsonl", [{"video": named.format(root=root), "response": "It goes."}])
    source = read(root)
    assert source.videos == ()
    assert problem in source.rejected[0].reason


# Mixed conversations --------------------------------------------------------------------------------------------------

VIDEO = {"video": "a.mp4", "conversations": talk("<video>\nWhat?", "A dog.")}


def test_rows_without_one_video_are_counted_by_kind_and_set_aside(tmp_path):
    clip(tmp_path / "set/a.mp4")
    rows = [
        VIDEO,
        *[{"image": f"{k}.png", "conversations": talk("<image>\nWhat?", "A cat.")} for k in range(3)],
        {"conversations": talk("What is two and two?", "Four.")},
        {"video": ["a.mp4", "b.mp4"], "conversations": talk("<video><video>\nWhich?", "The first.")},
        {"video": "a.mp4", "image": "c.png", "conversations": talk("<video><image>\nWhich?", "The first.")},
    ]
    document(tmp_path / "set/mix.json", rows)
    source = read(tmp_path / "set")
    kinds = {"an image": 3, "text alone": 1, "several videos": 1, "a video and an image": 1}
    assert (len(said(source)), source.rejected, source.aside, source.rows) == (1, (), kinds, 7)
    shared = {"source": str(tmp_path / "set")}
    made = run_step(STEP, tmp_path, tmp_path / "store", {"processes": 1}, shared, form="training")
    left_out = {item.unit: item.reason for item in published(made, "videos", VideoDataset).left_out}
    assert left_out == {
        f"rows with {kind}": f"{n} row{'s'[: n - 1]}: a prior is of one video" for kind, n in kinds.items()
    }
    page = made["summary"].read_text()
    assert "1 of 7" in page
    assert "* `rows with an image`: 3 rows" in page


def test_media_in_lists_and_empty_fields_are_as_without(tmp_path):
    clip(tmp_path / "a.mp4")
    forms = [{"video": ["a.mp4"], "image": []}, {"videos": "a.mp4", "image": ""}, {"video": "a.mp4", "images": None}]
    rows = [VIDEO | form | {"conversations": talk(f"<video>{k}?", "Yes.")} for k, form in enumerate(forms)]
    document(
        tmp_path / "x.json", [{k: v for k, v in row.items() if k != "video" or "videos" not in row} for row in rows]
    )
    assert [question for _, question, _ in said(read(tmp_path))] == ["0?", "1?", "2?"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"conversations": talk("<video>\nWhat?", "A dog.")}, "<video> in a row without a field 'video'"),
        ({"conversations": talk("<image>\nWhat?", "A dog.")}, "<image> in a row without"),
        (VIDEO | {"system": "You are a poet."}, "a system turn"),
        (
            VIDEO | {"conversations": [{"from": "system", "value": "Be brief."}, *VIDEO["conversations"]]},
            "a system turn",
        ),
        (VIDEO | {"conversations": [{"from": "human", "value": "?"}, {"from": "tool", "value": "!"}]}, "from 'tool'"),
        (VIDEO | {"video": [5]}, "field 'video' holds int"),
        (VIDEO | {"conversations": talk("<video><video>What?", "A dog.")}, "control token '<video>'"),
    ],
)
def test_refused_conversations(tmp_path, row, problem):
    clip(tmp_path / "a.mp4")
    document(tmp_path / "x.json", [row, VIDEO])
    source = read(tmp_path)
    assert len(said(source)) == 1
    assert not source.aside
    assert problem in source.rejected[0].reason


def test_a_source_of_images_alone_says_so(tmp_path):
    row = {"image": "a.png", "conversations": talk("<image>\nWhat?", "A cat.")}
    document(tmp_path / "x.json", [row, row, {"conversations": talk("Who?", "I.")}])
    with pytest.raises(DataError, match="no row has one video: 2 with an image, 1 with text alone"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("captions", "problem"),
    [
        ([{"idx": "1", "content": "Part."}], "0 captions of the whole video"),
        ([{"idx": "-1", "content": "One."}, {"idx": -1, "content": "Two."}], "2 captions of the whole video"),
        (["One."], "not a JSON object but str"),
        ({"-1": "One."}, "field 'captions' is dict"),
    ],
)
def test_video_captions_without_one_of_the_whole_video(tmp_path, captions, problem):
    lines(tmp_path / "x.jsonl", [{"video_id": "v", "captions": captions}])
    assert problem in read(tmp_path).rejected[0].reason


def test_a_caption_is_the_response_and_another_one_is_refused(tmp_path):
    clip(tmp_path / "a.mp4")
    same, other = ({"video": "a.mp4", "response": "It goes.", "caption": text} for text in ("It goes.", "It comes."))
    lines(tmp_path / "x.jsonl", [same, other, {"image": "a.png", "caption": "A cat."}])
    source = read(tmp_path)
    assert [response for *_, response in said(source)] == ["It goes."]
    assert [bad.reason for bad in source.rejected] == ["a response and another caption"]
    assert source.aside == Counter({"an image": 1})


def test_a_preference_without_a_question_is_refused(tmp_path):
    row = {"video": "a.mp4", "prompt": "<video>\nWhat?", "chosen": "A dog.", "rejected": "A cat."}
    document(tmp_path / "x.json", [row, {**row, "prompt": None}, {**row, "chosen": {"value": "A dog."}}])
    source = read(tmp_path)
    assert said(source) == [("x.json:1", "What?", "A dog.")]
    assert ["'prompt'" in bad.reason or "'chosen'" in bad.reason for bad in source.rejected] == [True, True]


def test_names_of_a_rows_own_fields_alone_tell_a_layout(tmp_path):
    """Neither a text that quotes JSON does, nor what a field holds."""
    row = {"video": "a.mp4", "response": 'It says "conversations": [{"chosen": 1, "rejected": 2}].'}
    lines(tmp_path / "deep/x.jsonl", [json.dumps(row | {"meta": {"messages": [{"conversations": 1}]}})])
    assert read(tmp_path).layout == "jsonl"
