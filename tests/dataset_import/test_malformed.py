"""Annotations that somebody damaged, in every layout: an expected error or a listed row, never a traceback."""

import copy
import json
import random

import pytest

from components.core.errors import DataError, MotionEnhancerError, ParameterError
from components.core.json_text import parse_json
from components.core.records import canonical_json
from components.dataset_import.layouts import BY_ROWS, CAPTIONS
from components.dataset_import.sources import read_source

ASK = "Describe the motion in this video in detail."
TALK = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
QA = {"uid": "q", "question": "Which?\nA. one\nB. two", "answer": "A", "start": None, "end": 2.5}
FAVOR = {"question": "What?", "options": ["Sits", "Runs"], "correct_answer": "Runs", "task_type": "HAC"}
ROWS = {
    "motionbench_caption": ("MotionBenchCaption-train/train.jsonl", {"video_path": "v.mp4", "motion_caption": "Runs."}),
    "jsonl": (
        "x.jsonl",
        {
            "id": 1,
            "video": "v.mp4",
            "question": "Q?",
            "options": ["a", "b"],
            "answer": "A",
            "response": "r",
            "type": "T",
        },
    ),
    "llava": ("x.json", {"id": "k", "video": "v.mp4", "conversations": TALK}),
    "messages": (
        "x.json",
        {"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "r"}], "videos": ["v.mp4"]},
    ),
    "sharegpt4video": (
        "x.jsonl",
        {"video_id": "v", "video_path": "v.mp4", "captions": [{"idx": "-1", "content": "c"}], "zip_folder": "z.zip"},
    ),
    "preferences": ("x.json", {"question": "Q?", "video": "v.mp4", "chosen": "c", "rejected": "r"}),
    "favor": ("video_perspective.json", {"video_name": "v.mp4", "caption": "c", "questions": [FAVOR]}),
    "motionbench": (
        "MotionBench/video_info.meta.jsonl",
        {"question_type": "Action Order", "key": "k", "video_path": "v.mp4", "qa": [QA]},
    ),
}
WRONG = [
    None,
    True,
    0,
    -1.5,
    10**400,
    "",
    " ",
    "\x00",
    "\ud800",
    "\u202e",
    "<video>",
    "../v.mp4",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
]
WRONG += [float("nan"), float("inf"), [{}], ["v.mp4", 3]]


def written(path, rows):
    if path.endswith(".jsonl"):
        return "".join(json.dumps(row) + "\n" for row in rows)
    return json.dumps(rows)


def outcome(root, path, data, layout):
    """Read a source with one annotation file; whatever happens, it is told in words that can be printed and stored."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(data)
    (root / "v.mp4").write_bytes(b"a video")
    try:
        source = read_source(str(root), layout, [ASK])
    except MotionEnhancerError as error:
        str(error).encode()
        return error
    canonical_json([[*bad] for bad in source.rejected])
    for video in source.videos:
        for row in video.rows:
            canonical_json(row.sample("0" * 64).model_dump(mode="json"))
    return source


def places(value, at=()):
    """Yield the way to every value inside a row."""
    yield at
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from places(child, (*at, name))


def replaced(row, at, new):
    if not at:
        return new
    row = copy.deepcopy(row)
    inner = row
    for name in at[:-1]:
        inner = inner[name]
    inner[at[-1]] = new
    return row


def test_every_layout_of_training_sets_is_here():
    assert {layout.name for layout in (CAPTIONS, *BY_ROWS)} <= set(ROWS)


@pytest.mark.parametrize("layout", ROWS)
def test_wrong_types_at_every_field(tmp_path, layout):
    path, row = ROWS[layout]
    sound = outcome(tmp_path, path, written(path, [row]).encode(), layout)
    assert (len(sound.videos), sound.rejected) == (1, ())
    for at in places(row):
        for wrong in WRONG:
            rows = [replaced(row, at, wrong), row]
            found = outcome(tmp_path, path, written(path, rows).encode(), layout)
            assert not isinstance(found, MotionEnhancerError), f"{at} {wrong!r}: one bad row stopped the whole file"
            assert found.videos


@pytest.mark.parametrize("layout", ROWS)
def test_bytes_changed_cut_or_added(tmp_path, layout):
    path, row = ROWS[layout]
    data, dice = written(path, [row, row]).encode(), random.Random(5)
    for _ in range(120):
        spoilt = bytearray(data)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(spoilt))
            kind = dice.randrange(3)
            spoilt[at : at + (kind != 2)] = b"" if kind == 0 else bytes([dice.randrange(256)])
        outcome(tmp_path, path, bytes(spoilt), layout)
        outcome(tmp_path, path, bytes(spoilt), "auto")


DAMAGE = {
    "cut short": lambda data: data[: len(data) // 2],
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "UTF-16 without a mark": lambda data: data.decode().encode("utf-16-le"),
    "UTF-32": lambda data: data.decode().encode("utf-32"),
    "Latin-1": lambda data: data.replace(b'"v', b'"\xe9'),
    "nested": lambda data: b"[" * 100_000,
    "nested in a row": lambda data: b'[{"conversations": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]",
    "long number": lambda data: b'[{"id": ' + b"9" * 5000 + b"}]",
    "empty": lambda data: b"",
    "an object": lambda data: b'{"conversations": {}}',
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("layout", ["llava", "messages", "preferences", "favor"])
def test_a_json_file_that_cannot_be_read_is_a_data_error(tmp_path, layout, damage):
    path, row = ROWS[layout]
    found = outcome(tmp_path, path, DAMAGE[damage](written(path, [row]).encode()), layout)
    assert isinstance(found, DataError)
    assert found.exit_code == 3
    if damage != "long number":  # by which no layout is told
        assert not isinstance(
            outcome(tmp_path, path, DAMAGE["cut short"](written(path, [row]).encode()), "auto"), ParameterError
        )


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("layout", ["jsonl", "sharegpt4video", "motionbench_caption", "motionbench"])
def test_a_jsonl_file_that_cannot_be_read_is_a_data_error_or_a_bad_line(tmp_path, layout, damage):
    path, row = ROWS[layout]
    found = outcome(tmp_path, path, DAMAGE[damage](written(path, [row]).encode()), layout)
    assert isinstance(found, DataError) or (found.rejected and not found.videos)


@pytest.mark.parametrize("folder", ["", "deep/"])
@pytest.mark.parametrize("name", ["all_sft.json", "x.jsonl"])
def test_an_empty_file_is_a_data_error_whatever_layout_it_had(tmp_path, folder, name):
    assert isinstance(outcome(tmp_path, folder + name, b"", "auto"), DataError)


@pytest.mark.parametrize("path", ["deep/x.json", "deep/x.jsonl"])
@pytest.mark.parametrize("data", [b"[1, 2", b"\x00\x01", b"{" * 100_000, b"{'video': 'v.mp4'}"])
def test_a_damaged_file_that_tells_no_layout_is_a_data_error(tmp_path, path, data):
    (tmp_path / "info.json").write_text('{"a": 1}')
    assert isinstance(outcome(tmp_path, path, data, "auto"), DataError)


def test_a_mark_of_byte_order_is_no_damage(tmp_path):
    for layout in ("llava", "jsonl"):
        path, row = ROWS[layout]
        found = outcome(tmp_path / layout, path, b"\xef\xbb\xbf" + written(path, [row]).encode(), "auto")
        assert (found.layout, len(found.videos)) == (layout, 1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "the field 'a' stands twice"),
        ('[{"x": {"id": "k", "id": "l"}}]', "the field 'id' stands twice"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "digits"),
        ('{"a": 1', "delimiter"),
    ],
)
def test_what_is_no_json(text, problem):
    with pytest.raises(ValueError, match=problem):
        parse_json(text)


def test_what_is_json():
    assert parse_json('{"a": {"a": [1, null, "é"]}}') == {"a": {"a": [1, None, "é"]}}
