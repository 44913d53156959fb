"""The parser on replies written by hand (right option D), and the benchmarks' own rules with their known defects."""

from __future__ import annotations

import pytest

from components.benchmarks.favor import official_rule as favor_rule
from components.benchmarks.motionbench import official_rule as motionbench_rule
from components.benchmarks.parse import parse_reply
from components.benchmarks.seed import official_rule as seed_rule
from components.benchmarks.videomme import official_rule as videomme_rule
from components.core.records import Option


def options(*texts: str) -> list[Option]:
    return [Option(letter=chr(65 + i), text=text) for i, text in enumerate(texts)]


OPTIONS = options("The man raises his arm", "The man lowers his arm", "The man sits down", "The man turns left")
LISTED = "\n".join(f"{option.letter}. {option.text}" for option in OPTIONS)

READ = [
    ("D", "D", "letter"),
    ("d", "D", "letter"),
    ("D.", "D", "letter"),
    ("(D)", "D", "letter"),
    ("**D**", "D", "letter"),
    (" D \n", "D", "letter"),
    ("\\boxed{D}", "D", "letter"),
    ("<answer>D</answer>", "D", "letter"),
    ("<think>A seems wrong.</think><answer> D </answer>", "D", "letter"),
    ("D. The man turns left", "D", "leading"),
    ("d) the man turns left", "D", "leading"),
    ("(D) The man turns left.", "D", "leading"),
    ("D\nThe man turns left because …", "D", "leading"),
    ("D, because he turns.", "D", "leading"),
    ("D because he turns to the left", "D", "leading"),
    ("D - The man turns left", "D", "leading"),
    ("**D.** The man turns left", "D", "leading"),
    ("A. The man raises his arm", "A", "leading"),
    ("Answer: D", "D", "phrase"),
    ("The correct answer is (D).", "D", "phrase"),
    ("The best answer is: D", "D", "phrase"),
    ("The correct option is D. The man turns left.", "D", "phrase"),
    ("Option D is correct.", "D", "phrase"),
    ("Option D: The man turns left", "D", "phrase"),
    ("Answer (D)", "D", "phrase"),
    ("Option A is wrong. Option D is the best.", "D", "phrase"),
    ("I would choose D here", "D", "phrase"),
    ("I'd go with option D, as he turns.", "D", "phrase"),
    ("A person walks by and then stops, so the answer is D.", "D", "phrase"),
    (f"{LISTED}\nThe answer is D", "D", "phrase"),
    ("First I thought the answer is A, but the answer is D.", "D", "phrase"),
    ("The man turns left", "D", "text"),
    ("In the video, the man turns left at the end.", "D", "text"),
    ("I think it's a D", "D", "trailing"),
    ("A man appears to rotate, so (D)", "D", "trailing"),
]

UNREAD = [
    "",
    "I cannot determine the answer from the video.",
    "ABCD",
    "A or B",
    "A, B and D",
    "The answer is A or D",
    "The answer is not D",
    "It is certainly not D",
    "Option D is wrong.",
    "I would not choose D here",
    "I don't think option D is correct",
    "Anything except D",
    "The answer is a person who turns",
    "A man walks through the room.",
    LISTED,
    "The man raises his arm and then the man sits down",
    "E",
    "The answer is E",
    "He turns 3D",
    "I don't know",
]


@pytest.mark.parametrize(("reply", "letter", "rule"), READ)
def test_read(reply: str, letter: str, rule: str) -> None:
    assert parse_reply(reply, OPTIONS) == (letter, rule)


@pytest.mark.parametrize("reply", UNREAD)
def test_nothing_is_guessed(reply: str) -> None:
    assert parse_reply(reply, OPTIONS) == (None, "unparsed")


@pytest.mark.parametrize(
    ("reply", "texts", "letter"),
    [
        ("He sits down slowly.", ["Sits", "Sits down slowly"], "B"),
        ("He sits.", ["Sits", "Sits down slowly"], "A"),
        ("He sits, then sits down slowly.", ["Sits", "Sits down slowly"], None),
        ("He babysits", ["Sits", "Runs"], None),
        ("It happened 12 times", ["2", "12"], "B"),
        ("He runs", ["Runs", "runs.", "Sits"], None),
    ],
)
def test_option_texts(reply: str, texts: list[str], letter: str | None) -> None:
    assert parse_reply(reply, options(*texts)).letter == letter


def test_without_letters_only_texts_are_read() -> None:
    five = options("Sits", "Runs", "Jumps", "Waves", "Sleeps")
    assert parse_reply("B", five, letters=False).letter is None
    assert parse_reply("Runs", five, letters=False).letter == "B"
    assert parse_reply("B. Runs", five, letters=False).letter == "B"
    assert parse_reply("Sits Runs Jumps Waves Sleeps", five, letters=False).letter is None


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("D", "D"),
        ("(D) left", "D"),
        ("D) left", "D"),
        ("D. left", "D"),
        ("Answer: D", "A"),
        ("The answer is D", "T"),
        ("**D**", "*"),
    ],
)
def test_motionbench_rule_reads_the_first_character(reply: str, read: str) -> None:
    for letter in "ABCDT*":
        assert motionbench_rule(reply, OPTIONS, letter) == (letter == read)
    assert not motionbench_rule("", OPTIONS, "D")


def test_favor_rule() -> None:
    five = options("Sits", "Sits down", "Jumps", "Waves", "Sleeps.")
    assert favor_rule("he sits there", five, "A")
    assert not favor_rule("he sits down", five, "A")  # a longer option that contains it is said
    assert favor_rule("Sits. Jumps. Waves.", five, "D")  # all options at once are right: the rule's defect
    assert not favor_rule("Sleeps", five, "E")  # a dropped full stop is wrong
    assert not favor_rule("D", five, "D")


def test_seed_rule_and_videomme_rule() -> None:
    assert seed_rule("D. left", OPTIONS, "D")
    assert not seed_rule("The answer is D", OPTIONS, "D")
    for reply in ("D", "The best answer is: D", "The answer is D.", "I say (D)"):
        assert videomme_rule(reply, OPTIONS, "D"), reply
    assert videomme_rule("Answer is D", OPTIONS, "A")  # its first capital A–D
    assert not videomme_rule("d", OPTIONS, "D")
    assert not videomme_rule("he walks and walks and walks and walks and walks and walks", OPTIONS, "D")
