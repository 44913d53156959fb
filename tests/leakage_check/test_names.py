"""Names that mean one video, names that count, and texts that tell a video from others."""

import pytest

from components.leakage_check.names import core_name, distinctive_names, distinctive_texts, normalized, shared


@pytest.mark.parametrize(
    ("name", "core"),
    [
        ("charades/00AAA.mp4", "00AAA"),
        ("YSKXQ.mp4", "YSKXQ"),  # an id without a digit
        ("dQw4w9WgXcQ_000010_000020.mp4", "dQw4w9WgXcQ"),
        ("activitynet/v_dQw4w9WgXcQ.mkv", "dQw4w9WgXcQ"),
        ("3f0a9c1e_58_59.mp4", "3f0a9c1e"),
        ("openvid/celebv_0a1b2c_9.5_12.25.mp4", "celebv_0a1b2c"),
        ("dQw4w9WgXcQ", "dQw4w9WgXcQ"),  # a row's id
        ("dQw4w9WgXcQ#2", "dQw4w9WgXcQ"),  # its second turn
    ],
)
def test_an_id_is_read_out_of_a_path_and_tells(name, core):
    assert core_name(name) == core
    assert distinctive_names({"video": [name]}) == {core.casefold(): {"video"}}


@pytest.mark.parametrize(
    "name",
    [
        *("video_12.mp4", "0007.mp4", "scene_12_34.mp4", "clip001", "VIDEO", "test_video_1.mp4", "cat.mp4"),
        *("94321.webm", "12_34.mp4"),
    ],
)
def test_a_count_or_a_word_tells_nothing(name):
    assert distinctive_names({"video": [name]}) == {}


def test_names_of_one_form_are_a_count_in_a_small_set_and_chance_in_a_large_one():
    shop = {str(k): [f"shop_room_{k:03}.mp4"] for k in range(3)}
    assert distinctive_names(shop) == {}
    others = {f"x{k}": [f"{k:x}qq{7 * k:x}ab.mp4"] for k in range(1000)}
    assert len([name for name in distinctive_names(shop | others) if name.startswith("shop")]) == 3


def test_texts_are_compared_word_by_word():
    assert normalized(" The\tMAN’s “ｈat” — it  falls!\n") == "the man s hat it falls"
    said = "The man in the red coat lifts a box."
    ours = {"a": [said, "What does the man do?"], "b": ["男人从左边走到右边，然后慢慢坐下来休息"]}
    theirs = {"c": [said.upper()], "d": ["What does the man do?", "男人从左边走到右边,然后慢慢坐下来休息"]}
    found = list(shared(distinctive_texts(ours, 8), distinctive_texts(theirs, 8)))
    assert sorted((one, other) for _, one, other in found) == [("a", "c"), ("b", "d")]


def test_what_is_asked_of_many_tells_nothing():
    asked = "Which of the following options describes the motion of the man best"
    assert distinctive_texts({str(k): [asked] for k in range(3)}, 8)
    assert distinctive_texts({str(k): [asked] for k in range(4)}, 8) == {}
