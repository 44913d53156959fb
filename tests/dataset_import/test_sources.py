"""Reading annotations: every layout, what is refused row by row, and how a layout is told."""

import hashlib
import json

import pytest

from components.benchmarks.interface import benchmarks, get_benchmark
from components.benchmarks.motionbench import split_options
from components.core.errors import DataError, ParameterError
from components.core.records import Option, Turn
from components.dataset_import.sources import list_source, read_source, source_digest
from components.store.backend import Listed
from components.synthetic.scenes import write_set
from tests.dataset_import.data import document, lines

ASK = "Describe the motion in this video in detail."


def read(root, layout="auto", protocol="", instructions=(ASK,)):
    return read_source(str(root), layout, instructions, protocol)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not decoded here")


def rows(source):
    return [row for video in source.videos for row in video.rows]


def check(row, **expected):
    assert {name: getattr(row, name) for name in expected} == expected


def options(*texts):
    return tuple(Option(letter=letter, text=text) for letter, text in zip("ABCDEFGH", texts, strict=False))


# MotionBench ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "question", "found"),
    [
        ("Who?\nA. me\nB. you", "Who?", [("A", "me"), ("B", "you")]),
        ("Who?\nPick one.\n(A) me\n(B) you\n(C) both", "Who?\nPick one.", [("A", "me"), ("B", "you"), ("C", "both")]),
        ("Who?\nA) U.S. flag\nB) a\nsecond line", "Who?", [("A", "U.S. flag"), ("B", "a\nsecond line")]),
        ("Order? I. e. first\nA. B, A\nB. A, B", "Order? I. e. first", [("A", "B, A"), ("B", "A, B")]),
        ("No options here.", "No options here.", []),
        ("Who?\n  A.  me \nB.\tyou", "Who?", [("A", "me"), ("B", "you")]),
    ],
)
def test_options_inside_a_question(text, question, found):
    assert split_options(text, "s") == (question, found)


@pytest.mark.parametrize("text", ["Q\nA. a\nC. c", "Q\nA. a\nA. b", "Q\nA. a\nB. b\nD. d"])
def test_options_out_of_order(text):
    with pytest.raises(DataError, match="was due"):
        split_options(text, "s")


def motionbench(root, qa, path="v.mp4", kind="Action Order"):
    touch(root, f"MotionBench/self-collected/{path}")
    line = {"question_type": kind, "key": "k", "video_path": path, "qa": qa}
    lines(root / "MotionBench/video_info.meta.jsonl", [line])


def item(uid, answer, question="Which?\nA. one\nB. two"):
    return {"uid": uid, "start": None, "end": None, "answer": answer, "question": question}


def test_motionbench(tmp_path):
    motionbench(tmp_path, [item("q1", "B"), item("q2", "NA", "Other?\nA. x\nB. y")])
    first, second = rows(read(tmp_path, protocol="motionbench"))
    check(first, uid="q1", question="Which?", options=options("one", "two"), answer="B", response="B. two")
    check(first, question_type="Action Order", protocol="motionbench", is_instruction=False)
    check(second, uid="q2", answer="", response="")


def test_motionbench_looks_into_both_folders(tmp_path):
    motionbench(tmp_path, [item("q1", "B")])
    (tmp_path / "MotionBench/public-dataset").mkdir()
    (tmp_path / "MotionBench/self-collected/v.mp4").rename(tmp_path / "MotionBench/public-dataset/v.mp4")
    (video,) = read(tmp_path, protocol="motionbench").videos
    assert video.path == video.file.path == "MotionBench/public-dataset/v.mp4"
    touch(tmp_path, "MotionBench/self-collected/v.mp4")
    source = read(tmp_path, protocol="motionbench")
    assert source.videos == ()
    assert "two files for one video" in source.rejected[0].reason


def test_held_out_items_teach_nothing(tmp_path):
    motionbench(tmp_path, [item("q1", "B"), item("q2", "NA", "Other?\nA. x\nB. y")])
    source = read(tmp_path)
    (bad,) = source.rejected
    assert [row.uid for row in rows(source)] == ["q1"]
    assert bad.unit == "q2 (MotionBench/video_info.meta.jsonl:1)"
    assert "held out" in bad.reason


def test_captions(tmp_path):
    touch(tmp_path, "MotionBenchCaption-train/videos/a b.mp4")
    caption = {"video_path": "a b.mp4", "motion_caption": " A man runs. "}
    lines(tmp_path / "MotionBenchCaption-train/train.jsonl", [caption])
    (row,) = rows(read(tmp_path))
    check(row, uid="a b", question=ASK, is_instruction=True, response="A man runs.", protocol="")
    (row,) = rows(read(tmp_path, instructions=("Say what moves.", ASK)))
    check(row, question="Say what moves.", is_instruction=True)


def test_synthetic_sets_are_read_as_motionbench_with_masks(tmp_path):
    write_set(tmp_path / "train", "scenes", 3, seed=4, size=(32, 32), num_frames=9)
    write_set(tmp_path / "bench", "bench", 26, seed=4, size=(32, 32), num_frames=9)
    train, bench = read(tmp_path / "train"), read(tmp_path / "bench", protocol="motionbench")
    assert (train.layout, len(train.videos), train.rejected) == ("motionbench_caption", 3, ())
    assert (bench.layout, len(bench.videos), bench.rejected) == ("motionbench", 26, ())
    for video in (*train.videos, *bench.videos):
        assert video.mask.path == f"gt/{video.path.rsplit('/', 1)[1].removesuffix('.mp4')}.safetensors"
    assert {row.answer for row in rows(bench)} >= {"", "A", "B"}


# Other layouts --------------------------------------------------------------------------------------------------------


def test_own_jsonl(tmp_path):
    touch(tmp_path, "a.mp4", "videos/b.webm")
    letters = [{"letter": "A", "text": "up"}, {"letter": "B", "text": "down"}]
    asked = {"question": "Which way?", "options": letters, "answer": "B"}
    given = [
        {"video": "a.mp4", "response": "Cafe\u0301 moves."},
        "",
        asked | {"id": 7, "video": "./a.mp4", "response": "It falls.", "type": "LM"},
        asked | {"id": "z", "video": "b.webm", "options": ["up", "down"], "answer": "A"},
    ]
    lines(tmp_path / "x.jsonl", given)
    one, two, three = rows(read(tmp_path))
    check(one, uid="x.jsonl:1", question=ASK, is_instruction=True, response="Café moves.")
    check(two, uid="7", where="x.jsonl:3", response="It falls.", answer="B", question_type="LM")
    check(three, uid="z", options=options("up", "down"), response="A. up")
    assert [video.path for video in read(tmp_path).videos] == ["a.mp4", "videos/b.webm"]


def test_own_jsonl_as_any_benchmark(tmp_path):
    touch(tmp_path, "a.mp4")
    bare = {"video": "a.mp4", "question": "Q?"}
    for protocol, benchmark in {**benchmarks(), "custom:mine": get_benchmark("custom:mine")}.items():
        kind = next(iter(benchmark.types), "any type")
        lines(tmp_path / "x.jsonl", [bare | {"options": ["u", "v"], "type": kind}, bare])
        source = read(tmp_path, protocol=protocol)
        assert [(row.protocol, row.answer, row.question_type) for row in rows(source)] == [(protocol, "", kind)]
        assert [bad.reason for bad in source.rejected] == ["a benchmark item needs a question and options"]


LETTERED = [
    ("A. Apples.", "B. Candles.", "C. Berries."),
    ("(A) Apples.", "(B) Candles.", "(C) Berries."),
    ("A) Apples.", "B) Candles.", "C) Berries."),
    ("A: Apples.", "B: Candles.", "C: Berries."),
    ("A.Apples.", " b. Candles.", "(c): Berries."),
    ("A、Apples.", "B：Candles.", "（C）Berries."),
]
ALIKE = [
    ("A. Lincoln", "J. Lincoln", "C. Lincoln"),
    ("A. Lincoln", "B. Obama", "Washington"),
    ("B. Apples", "A. Candles", "C. Berries"),
    ("A. Apples", "A. Candles", "A. Berries"),
    ("A dog", "B side", "C sharp"),
    ("A.", "B.", "C."),
    ("A", "B", "C"),
]


@pytest.mark.parametrize("texts", [*LETTERED, *ALIKE])
@pytest.mark.parametrize("written", ["texts", "objects", "favor"])
def test_options_that_carry_their_letter_are_not_lettered_again(tmp_path, texts, written):
    touch(tmp_path, "videos/a.mp4")
    own = [{"letter": letter, "text": text} for letter, text in zip("ABC", texts, strict=True)]
    row = {"video": "a.mp4", "question": "Which?", "options": own if written == "objects" else texts, "answer": "C"}
    item = {"question": "Which?", "options": texts, "correct_answer": texts[2], "task_type": "AS"}
    if written == "favor":
        document(tmp_path / "video_perspective.json", [{"video_name": "a", "questions": [item]}])
    else:
        lines(tmp_path / "x.jsonl", [row])
    (found,) = rows(read(tmp_path, "favor" if written == "favor" else "jsonl"))
    expected = ("Apples.", "Candles.", "Berries.") if texts in LETTERED else tuple(texts)
    check(found, options=options(*expected), answer="C", response=f"C. {expected[2]}")


@pytest.mark.parametrize("texts", LETTERED)
def test_options_with_letters_inside_of_a_question(tmp_path, texts):
    question = "\n".join(["Which?", *(f"{letter}. {text}" for letter, text in zip("ABC", texts, strict=True))])
    motionbench(tmp_path, [item("q1", "C", question)])
    (row,) = rows(read(tmp_path, protocol="motionbench"))
    check(row, options=options("Apples.", "Candles.", "Berries."), response="C. Berries.")


@pytest.mark.parametrize(
    ("texts", "answer", "letter"),
    [
        (("up", "down"), "B", "B"),
        (("up", "down"), "down", "B"),
        (("A. up", "B. down"), "B. down", "B"),
        (("A. up", "B. down"), "down", "B"),
        (("A", "B"), "B", "B"),
        (("up", "down"), "dow", "answer 'dow' is not among the options ['A', 'B']"),
        (("B", "down"), "B", "answer 'B' may be any of the options ['A', 'B']"),
        (("up", "up"), "up", "answer 'up' may be any of the options ['A', 'B']"),
    ],
)
def test_an_answer_is_a_letter_or_one_options_whole_text(tmp_path, texts, answer, letter):
    touch(tmp_path, "a.mp4")
    lines(tmp_path / "x.jsonl", [{"video": "a.mp4", "question": "Way?", "options": texts, "answer": answer}])
    source = read(tmp_path)
    assert [row.answer for row in rows(source)] + [bad.reason for bad in source.rejected] == [letter]


@pytest.mark.parametrize(("kind", "said"), [(None, "no task type"), ("", "no task type"), ("Dance", "'Dance'")])
@pytest.mark.parametrize("protocol", [name for name in benchmarks() if name != "custom"])
def test_an_item_of_no_or_an_unknown_type_is_a_bad_row(tmp_path, protocol, kind, said):
    touch(tmp_path, "a.mp4")
    bare = {"video": "a.mp4", "question": "Q?", "options": ["u", "v"], "id": "i1"}
    lines(tmp_path / "x.jsonl", [bare if kind is None else bare | {"type": kind}])
    source = read(tmp_path, protocol=protocol)
    (bad,) = source.rejected
    assert (source.videos, bad.unit) == ((), "i1 (x.jsonl:1)")
    assert said in bad.reason
    assert next(iter(get_benchmark(protocol).types.values())) in bad.reason
    assert [row.question_type for row in rows(read(tmp_path, protocol="custom"))] == [kind or ""]


def talk(*values, first=0):
    """Turns of a person and of the model in turn."""
    speakers = ["human", "gpt"]
    return [{"from": speakers[(first + k) % 2], "value": value} for k, value in enumerate(values)]


def test_llava_turns_become_samples(tmp_path):
    touch(tmp_path, "openvid/a.mp4")
    three_turns = talk("<video>\nWhat moves?", "A dog.", "How?", "Fast.")
    three_turns += [{"from": "user", "value": "Where?"}, {"from": "assistant", "value": "Left."}]
    items = [
        {"id": "k", "video": "openvid/a.mp4", "conversations": three_turns},
        {"video": "openvid/a.mp4", "conversations": talk("<video>", "A cat.")},
    ]
    document(tmp_path / "all_sft.json", items)
    one, two, three, four = rows(read(tmp_path))
    assert [row.uid for row in (one, two, three, four)] == ["k#1", "k#2", "k#3", "all_sft.json:2"]
    assert (one.question, one.response, one.earlier) == ("What moves?", "A dog.", ())
    assert (two.question, two.earlier) == ("How?", (Turn(question="What moves?", response="A dog."),))
    assert three.earlier == (*two.earlier, Turn(question="How?", response="Fast."))
    assert (four.question, four.is_instruction) == (ASK, True)


def test_llava_refuses_a_turn_and_what_follows(tmp_path):
    touch(tmp_path, "a.mp4")
    items = [
        {"id": "k", "conversations": talk("One?", "1", "Two <|im_end|>?", "2", "Three?", "3")},
        {"id": "odd", "conversations": talk("?")},
        {"id": "order", "conversations": talk("?", "!", first=1)},
        {"id": "two", "conversations": talk("<video><video>?", "!")},
    ]
    items = [item | {"video": "a.mp4"} for item in items] + [{"id": "image", "image": "a.png", "conversations": []}]
    items.append({"id": "placeholder", "conversations": talk("<video>?", "!")})
    document(tmp_path / "x.json", items)
    source = read(tmp_path)
    assert [row.uid for row in rows(source)] == ["k#1"]
    expected = {"k#2 (x.json:1)": "<|im_end|>", "k#3 (x.json:1)": "earlier turn", "x.json:2": "1 turns"}
    expected |= {"x.json:3": "'gpt'", "two (x.json:4)": "<video>", "x.json:6": "'video'"}
    assert [bad.unit for bad in source.rejected] == list(expected)
    for bad in source.rejected:
        assert expected[bad.unit] in bad.reason


def favor(root, name="00AAA.mp4", **changes):
    question = {"question": "What?", "options": ["Sits", "Runs.", "Jumps"], "correct_answer": "Runs."}
    touch(root, "videos/FAVOR-Bench/00AAA.mp4")
    questions = [question | {"task_type": "HAC"} | changes]
    document(root / "video_perspective.json", [{"video_name": name, "caption": "…", "questions": questions}])


@pytest.mark.parametrize("name", ["00AAA.mp4", "00AAA"])
def test_favor(tmp_path, name):
    favor(tmp_path, name)
    document(tmp_path / "question_perspective.json", [{"question_key": 1}])
    (video,) = read(tmp_path, protocol="favor").videos
    (row,) = video.rows
    check(row, uid="00AAA#1", options=options("Sits", "Runs.", "Jumps"), answer="B", response="B. Runs.")
    check(row, question_type="HAC")
    assert video.path == video.file.path == "videos/FAVOR-Bench/00AAA.mp4"


def test_favor_by_question(tmp_path):
    """Read where there is no list by video; a bad entry is named by its key, or by where it stands."""
    asked = {"question": "What?", "options": ["Sits", "Runs."], "correct_answer": "Runs.", "task_type": "HAC"}
    entries = [{"question_key": "00AAA_1", "video_name": "00AAA.mp4"}, {"question_key": 7, "video_name": "00AAA"}]
    entries += [{"question_key": "00AAA_2"}, {"video_name": "00AAA", "options": ["Sits"]}]
    document(tmp_path / "question_perspective.json", [asked | entry for entry in entries])
    touch(tmp_path, "test_videos/00AAA.mp4")
    source = read(tmp_path, protocol="favor")
    assert [row.uid for row in rows(source)] == ["00AAA_1", "7"]
    assert [row.labels for row in rows(source)] == [{"video": "00AAA"}] * 2
    assert [bad.unit for bad in source.rejected] == [
        "00AAA_2 (question_perspective.json:3)",
        "question_perspective.json:4",
    ]


@pytest.mark.parametrize("changes", [{"correct_answer": "Flies"}, {"options": ["Runs.", "Runs."]}])
def test_favor_answers_by_text_must_be_one_option(tmp_path, changes):
    favor(tmp_path, **changes)
    source = read(tmp_path, protocol="favor")
    assert "times among the options" in source.rejected[0].reason


# Bad rows -------------------------------------------------------------------------------------------------------------

GOOD = {"id": "good", "video": "a.mp4", "response": "It moves."}
NAMED = {"id": "b", "video": "a.mp4", "response": "r"}
ASKED = NAMED | {"question": "Q"}
SWAPPED = [{"letter": "B", "text": "x"}, {"letter": "A", "text": "y"}]
NAMELESS = [
    ("{nonsense", "not JSON"),
    ("[1]", "not a JSON object but list"),
    ({"response": "r"}, "no field 'video'"),
    ({"video": 5, "response": "r"}, "field 'video' is int"),
    ({"video": "a.mp4", "response": ["r"]}, "field 'response' is list"),
    ('{"id": "b\\ud800", "video": "a.mp4", "response": "r"}', "U+D800"),  # a name that no file could hold
]
BAD = [
    (NAMED | {"response": " \n"}, "question and response are empty"),
    (ASKED | {"response": ""}, "response is empty"),
    (NAMED | {"response": "It <|vision_start|> moves"}, "control token '<|vision_start|>'"),
    (NAMED | {"question": "a\ue001"}, "U+E001"),
    (ASKED | {"options": ["a", "<image>"]}, "control token"),
    (ASKED | {"options": ["a", "b"], "answer": "C"}, "answer 'C' is not"),
    (ASKED | {"answer": "A"}, "answer 'A' is not among the options []"),
    (ASKED | {"options": ["a"]}, "at least two options"),
    (ASKED | {"options": ["a", " "]}, "none of them empty"),
    (ASKED | {"options": SWAPPED}, "lettered ['B', 'A']"),
    (ASKED | {"options": ["x"] * 27}, "options are lettered"),
    *[(NAMED | {"video": path}, "leaves the source") for path in ("../a.mp4", "x/../../a.mp4", "/etc/passwd")],
    *[(NAMED | {"video": path}, "leaves the source") for path in ("..\\a.mp4", "")],
    ('{"id": "b", "video": "a\\ud800.mp4", "response": "r"}', "U+D800"),
    ('{"id": "b", "video": "a.mp4", "response": "r", "type": "\\ud800"}', "U+D800"),
]


@pytest.mark.parametrize(
    ("bad", "said", "unit"),
    [(*row, "x.jsonl:2") for row in NAMELESS] + [(*row, "b (x.jsonl:2)") for row in BAD],
)
def test_a_bad_row_goes_by_its_name_or_its_place_and_the_others_go_on(tmp_path, bad, said, unit):
    touch(tmp_path, "a.mp4")
    lines(tmp_path / "x.jsonl", [GOOD, bad, GOOD | {"id": "after", "response": "It stops."}])
    source = read(tmp_path)
    assert [row.uid for row in rows(source)] == ["good", "after"]
    (rejected,) = source.rejected
    assert rejected.unit == unit
    assert said in rejected.reason


@pytest.mark.parametrize("path", ["../v.mp4", "/v.mp4"])
def test_no_layout_lets_a_path_leave(tmp_path, path):
    lines(tmp_path / "c/MotionBenchCaption-train/train.jsonl", [{"video_path": path, "motion_caption": "c"}])
    lines(tmp_path / "m/MotionBench/video_info.meta.jsonl", [{"video_path": path, "qa": [item("q", "A")]}])
    question = {"question": "Q", "options": ["a", "b"], "correct_answer": "a"}
    document(tmp_path / "f/video_perspective.json", [{"video_name": path, "questions": [question]}])
    document(tmp_path / "l/x.json", [{"video": path, "conversations": talk("Q", "r")}])
    for folder in "cmfl":
        source = read(tmp_path / folder)
        assert source.videos == ()
        assert "leaves the source" in source.rejected[0].reason


def test_lines_end_at_line_feeds_only_and_a_byte_order_mark_is_no_text(tmp_path):
    touch(tmp_path, "a.mp4")
    row = json.dumps({"id": "u", "video": "a.mp4", "response": "left\u2028right"}, ensure_ascii=False)
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + row.encode() + b"\r\n")
    (found,) = rows(read(tmp_path))
    assert found.response == "left\u2028right"


def test_files_that_cannot_be_read_at_all(tmp_path):
    (tmp_path / "video_perspective.json").write_text("[{]")
    with pytest.raises(DataError, match="not JSON") as caught:
        read(tmp_path, protocol="favor")
    assert "video_perspective.json" in caught.value.source
    document(tmp_path / "video_perspective.json", {"a": 1})
    with pytest.raises(DataError, match="wanted a list"):
        read(tmp_path, protocol="favor")
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        read(tmp_path, "jsonl")
    with pytest.raises(DataError, match="is missing"):
        read(tmp_path, "motionbench")
    (tmp_path / "x.jsonl").write_bytes(b"\n")
    with pytest.raises(DataError, match="no rows"):
        read(tmp_path, "jsonl")


# Layouts, digests, benchmarks -----------------------------------------------------------------------------------------


def test_a_missing_video_is_kept_as_missing_and_bad_instructions_are_refused(tmp_path):
    lines(tmp_path / "x.jsonl", [GOOD])
    (video,) = read(tmp_path).videos
    assert (video.path, video.file) == ("a.mp4", None)
    with pytest.raises(ParameterError, match="control token"):
        read(tmp_path, instructions=["<image> describe"])


def test_training_takes_captions_and_the_benchmark_items_of_one_folder(tmp_path):
    motionbench(tmp_path, [item("q1", "B")])
    touch(tmp_path, "MotionBenchCaption-train/videos/t.mp4")
    lines(tmp_path / "MotionBenchCaption-train/train.jsonl", [{"video_path": "t.mp4", "motion_caption": "c"}])
    assert [row.uid for row in rows(read(tmp_path))] == ["t"]
    assert [row.uid for row in rows(read(tmp_path, protocol="motionbench"))] == ["q1"]
    assert [row.uid for row in rows(read(tmp_path, "motionbench"))] == ["q1"]


def test_an_ambiguous_folder_names_both(tmp_path):
    lines(tmp_path / "x.jsonl", [GOOD])
    document(tmp_path / "y.json", [{"video": "a.mp4", "conversations": []}])
    with pytest.raises(ParameterError, match="jsonl or llava"):
        read(tmp_path)
    assert read(tmp_path, "jsonl").layout == "jsonl"
    favor(tmp_path)
    with pytest.raises(ParameterError, match="jsonl or favor"):
        read(tmp_path, protocol="favor")
    assert read(tmp_path, protocol="seed").layout == "jsonl"


def test_a_folder_without_annotations(tmp_path):
    touch(tmp_path, "a.mp4")
    document(tmp_path / "set.json", {"not": "conversations"})
    with pytest.raises(ParameterError, match="no annotations"):
        read(tmp_path)
    with pytest.raises(ParameterError, match="no files"):
        list_source(str(tmp_path / "nothing"))


def test_source_digest_is_the_documented_hash_whatever_the_order():
    listed = [Listed("b", 2, "s2"), Listed("a", 1, "s1")]
    expected = hashlib.sha256(b'[["a",1,"s1"],["b",2,"s2"]]').hexdigest()
    assert source_digest(listed) == source_digest(listed[::-1]) == expected
    others = [Listed("b", 3, "s2"), Listed("b", 2, "s3"), Listed("c", 2, "s2")]
    assert len({source_digest([other, listed[1]]) for other in others} | {source_digest(listed)}) == 4
