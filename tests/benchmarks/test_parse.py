"""The parser: each rule (right option D), the tables of replies, random denials, every statement of every option."""

from __future__ import annotations

import random

import pytest

from components.benchmarks.parse import parse_reply
from components.core.records import Option
from tests.benchmarks.replies import GROUPS, LEFT, MAN, TEXTS, WALKS


def options(*texts: str) -> list[Option]:
    return [Option(letter=chr(65 + i), text=text) for i, text in enumerate(texts)]


OPTIONS = options(*MAN)
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


@pytest.mark.parametrize("group", GROUPS)
def test_replies(group: str) -> None:
    assert {reply: parse_reply(reply, OPTIONS).letter for reply in GROUPS[group]} == GROUPS[group]


def test_replies_by_text() -> None:
    found = [(*case[:3], parse_reply(case[2], options(*case[0]), letters=case[1]).letter) for case in TEXTS]
    assert found == TEXTS


DENIALS = (
    "not {0}", "{0} is wrong", "Unlike {0}, he moves", "{0} is incorrect", "I would rule out {0}", "It can't be {0}",
    "Option {0} does not match", "anything but {0}", "I don't think {0} is right", "neither {0} nor {1} is correct",
    "{0} seems unlikely", "{0}? No", "Compared with {0}, it is slower", "some might say {0}", "The answer is not {0}",
    "option {0} cannot be the answer", "The wrong answer is {0}", "I thought the answer was {0}", "rather than {0}",
    "the answer is {0} or {1}", "If he sat, the answer is {0}", "不选{0}", "{0}是错误的", "正解は{0}ではない",
    "{0} isn't it", "The answer is {0}?", "I wonder whether it is {0}", "I did not choose {0}", "I cannot choose {0}",
    "It is not true that the answer is {0}", "Whether {0} or {1} is right is open", "The answer cannot be {0}",
    "the answer is definitely not {0}", "there's no way the answer is {0}", "the answer {0} is wrong",
)  # fmt: skip


def test_random_denials_name_no_option() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        parts = [draw.choice(DENIALS).format(*draw.sample("ABCD", 2)) for _ in range(draw.randint(1, 4))]
        reply = draw.choice((". ", "; ", ".\n", ", ", " and ", ". So ")).join(parts) + draw.choice(("", ".", "!"))
        assert parse_reply(reply, OPTIONS).letter is None, reply


STATEMENTS = (
    "{0}", "{0}.", "({0})", "{0}. {1}", "({0}) {1}", "{0}) {1}.", "{0}: {1}", "Answer: {0}", "The answer is {0}",
    "The answer is {0}. {1}", "the answer is {2}", "the answer is ({2}) {1}", "The correct answer is ({0}).", "{1}",
    "The best option is {0}: {1}", "Option {0} is correct.", "I choose {0}", "I'd go with option {0}.", "**{0}**",
    "**Answer:** {0}", "\\boxed{{{0}}}", "\\boxed{{\\text{{{0}}}}}", "<answer>{0}</answer>", "<answer>{0}. {1}",
    "答案是{0}", "选{0}", "正解は{0}です", "（{0}）", '{{"reason": "at first not A, B, C or D", "answer": "{0}"}}',
    "<think>A? B? C? D?</think>{0}", "He moves.\n\n{0}", "He moves, so {0}.", "I see that {1}.", "It is {0}.",
    "{0} is right because of what he does.", "I think it's {0}", "The answer must be {0}, since we see it.",
    "Final answer: {0}", "Looking at the frames, option {0} fits best.", "After watching, my answer is {0}.",
)  # fmt: skip
BINARY, NUMBERS = ("Yes", "No", "Sometimes", "It cannot be seen"), ("2", "12", "3", "4")


@pytest.mark.parametrize("texts", [MAN, WALKS, LEFT, BINARY, NUMBERS, ("A", "Not A", "Not A, but B", "B is wrong")])
def test_every_statement_of_every_option(texts: tuple[str, ...]) -> None:
    offered = options(*texts)
    for template in STATEMENTS if texts[0] != "A" else ("{0}", "{0}. {1}", "The answer is {0}. {1}", "Answer: {0}"):
        for option in offered:
            reply = template.format(option.letter, option.text, option.letter.lower())
            assert parse_reply(reply, offered).letter == option.letter, reply


def test_a_text_that_several_options_have_names_none() -> None:
    assert parse_reply("Runs", options("Runs", "runs", "Sits")).letter is None
    assert parse_reply("B. Runs", options("Runs", "runs", "Sits")).letter == "B"
