"""The benchmarks' own rules against what the published scripts do, written down case by case, quirks included."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from components.benchmarks.favor import official_rule as favor
from components.benchmarks.motionbench import official_rule as motionbench
from components.benchmarks.seed import official_rule as seed
from components.benchmarks.videomme import official_rule as videomme
from components.core.records import Option

# reply: the letter that the script takes from it ("" for none)
MOTIONBENCH = {
    "": "",
    "A": "A",
    "B": "B",
    "D.": "D",
    "D. The man turns": "D",
    "D) The man turns": "D",
    "(D)": "D",
    "(D) The man turns": "D",
    "( D ) The man": "D",
    "( D": "D",
    "D (left)": "l",  # text behind the first opening bracket, whatever it is
    "D. (left)": "l",
    "The man (D)": "D",
    "The answer is (B).": "B",
    "The answer is (B) and not (A)": "B",
    "The answer is B": "T",
    "The answer is B)": "T",
    "Answer: D": "A",
    "Answer: B": "A",
    "Answer:(B)": "B",
    "Answer (B)": "B",
    "Best: D": "B",
    "Certainly D": "C",
    "Definitely A": "D",
    "Either (A) or (B)": "A",
    "(A)(B)": "A",
    "((B))": "",  # nothing between the two opening brackets
    "(( B": "",
    "()B": "",
    "( )B": "",
    ")B": "",
    "A)(B": "A",
    "A(B": "B",
    "A (B (C)": "B",  # the first bracket, not the last
    "x (B (C": "B",
    "It (the man) turns: (D)": "t",
    "**D**": "*",
    "**(D)**": "D",
    "\\boxed{D}": "\\",
    "<answer>D</answer>": "<",
    "d": "d",  # compared with case
    "(d)": "d",
    "[D]": "[",
    "D\nbecause": "D",
    "(\nD)": "D",
    "答案是B": "答",
    "（B）": "（",  # a full-width bracket is none
}
SEED = {
    "": "",
    "A": "A",
    "a": "A",
    "b": "B",
    "d.": "D",
    "D": "D",
    "D.": "D",
    "D. left": "D",
    "d) left": "D",
    "D left": "D",
    "D\nleft": "D",
    "DCBA": "D",
    "AB": "A",
    "A or B": "A",
    "A, B and C": "A",
    "A man walks": "A",
    "a man walks": "A",
    "An arm": "A",
    "Answer: D": "A",
    "answer: d": "A",
    "Both": "B",
    "both of them": "B",
    "Because he turns, D": "B",
    "by his arm": "B",
    "C": "C",
    "c": "C",
    "Certainly D": "C",
    "camera": "C",
    "Correct: D": "C",
    "Definitely A": "D",
    "down": "D",
    "don't know": "D",
    "The answer is D": "T",
    "the answer is D": "T",
    "Option D": "O",
    "(D)": "(",
    "( D )": "(",
    "[D]": "[",
    "**D**": "*",
    "\\boxed{D}": "\\",
    "<answer>D</answer>": "<",
    '"D"': '"',
    "1. D": "1",
    "I think D": "I",
    "E": "E",
    "答案是B": "答",
    "Ｂ": "Ｂ",
}
VIDEOMME = {
    "": "",
    "A": "A",
    "D": "D",
    "D.": "D",
    "(D)": "D",
    "d": "",
    "a man": "",
    "E": "",
    "The best answer is: D": "D",
    "The best answer is D": "D",
    "The correct answer is D.": "D",
    "The correct answer: D": "D",
    "The correct option: D": "D",
    "The correct option is D": "D",
    "The correct answer would be C": "C",
    "The answer is D": "D",
    "The answer: D": "D",
    "The answer, A or B": "A",
    "The answer is: A. The man": "A",
    "Answer: D": "D",
    "Answer:D": "D",
    "Answer:Answer: C": "C",
    "Option: D": "D",
    "Option D": "D",
    "Option: B. The man": "B",
    "Final Answer: B": "B",
    "Answer D": "A",  # without its colon it is no known phrase
    "Answer is D": "A",
    "answer is D": "D",
    "Best answer: D": "B",  # fused with the next phrase by a missing comma, so never found
    "Best option: D": "B",
    "Best answer:Best option: D": "D",
    "The best option is D": "D",
    "The best option is: A": "A",
    "The Best answer is D": "B",
    "The best option isThe correct option is D": "D",
    "Correct: D": "C",
    "Correct answer: D": "C",
    "Correct option is D": "C",
    "Based on the video, D": "B",
    "Definitely A": "D",
    "A man turns: D": "A",
    "I say (D)": "D",
    "BCD": "B",
    "ABD": "A",
    "3D": "D",
    "CD player": "C",
    "Not A but D": "A",
    "he walks and walks and walks and walks and walks and walks": "",
    "he walks and walks and walks and walks and walks and walks to D": "D",
    "The answer is\nD": "D",
    "THE ANSWER IS D": "A",
    "答案是B": "B",
    "Ｂ": "",
    "<answer>C</answer>": "C",
    "\\boxed{C}": "C",
}
RULES: dict[str, tuple[Callable[[str, Sequence[Option], str], bool], dict[str, str]]] = {
    "motionbench": (motionbench, MOTIONBENCH),
    "seed": (seed, SEED),
    "videomme": (videomme, VIDEOMME),
}

FIVE = ("Sits", "Sits down", "Jumps", "waves", "Sleeps.")
CASE = ("sits", "Sits down", "he sits up", "Runs", "runs away")
ALIKE = ("Up", "up", "Moves up", "moves UP", "Up and down")

# option texts, reply, letters that would count as right
FAVOR: list[tuple[tuple[str, ...], str, str]] = [
    (FIVE, "", ""),
    (FIVE, "Sits", "A"),
    (FIVE, "sits", "A"),
    (FIVE, "SITS", "A"),
    (FIVE, "he sits there", "A"),
    (FIVE, "He babysits", "A"),  # anywhere, also within a word
    (FIVE, "Sits down", "B"),  # not A: an option that contains A is in the reply as well
    (FIVE, "sits DOWN", "B"),
    (FIVE, "He sits, then sits down", "B"),
    (FIVE, "sit down", ""),
    (FIVE, "sits  down", "A"),  # two spaces are not the option's one
    (FIVE, "sits\ndown", "A"),
    (FIVE, "Jumps", "C"),
    (FIVE, "jumps.", "C"),
    (FIVE, "not jumps", "C"),
    (FIVE, "Jump", ""),
    (FIVE, "Waves", "D"),
    (FIVE, "microwaves", "D"),
    (FIVE, "Sleeps.", "E"),
    (FIVE, "Sleeps", ""),  # a dropped full stop is wrong
    (FIVE, "sleeps. jumps", "CE"),
    (FIVE, "Sits. Jumps. Waves. Sleeps.", "ACDE"),
    (FIVE, "Sits, Sits down, Jumps, waves, Sleeps.", "BCDE"),  # all options at once
    (FIVE, "A", ""),
    (FIVE, "B", ""),
    (FIVE, "B. Sits down", "B"),
    (FIVE, "(A) Sits", "A"),
    (FIVE, "['Sits']", "A"),
    (FIVE, "<answer>waves</answer>", "D"),
    (CASE, "sits", "A"),
    (CASE, "sits down", "AB"),  # "Sits down" does not contain "sits" with its case, so nothing guards A
    (CASE, "Sits down", "AB"),
    (CASE, "SITS DOWN", "AB"),
    (CASE, "he sits up", "C"),  # this one contains it
    (CASE, "He Sits Up", "C"),
    (CASE, "she sits up", "C"),
    (CASE, "Runs", "D"),
    (CASE, "runs away", "DE"),  # "runs away" does not contain "Runs"
    (CASE, "he sits up and sits down", "BC"),
    (CASE, "runs", "D"),
    (ALIKE, "up", "AB"),
    (ALIKE, "Moves up", "ACD"),  # "Moves up" guards "up", and "Up" is in none of the two
    (ALIKE, "MOVES UP", "ACD"),
    (ALIKE, "up and down", "BE"),
    (ALIKE, "Up and Down, moves up", "CDE"),
    (ALIKE, "down", ""),
]


def options(texts: Sequence[str]) -> list[Option]:
    return [Option(letter=chr(65 + i), text=text) for i, text in enumerate(texts)]


@pytest.mark.parametrize("name", RULES)
def test_the_letter_that_the_script_takes(name: str) -> None:
    rule, cases = RULES[name]
    assert len(cases) >= 40
    found = {reply: {letter for letter in "ABCDE" if rule(reply, options(FIVE), letter)} for reply in cases}
    assert found == {reply: {letter} & set("ABCDE") for reply, letter in cases.items()}


def test_the_texts_that_favors_script_finds() -> None:
    assert len(FAVOR) >= 40
    found = [
        (
            texts,
            reply,
            "".join(option.letter for option in options(texts) if favor(reply, options(texts), option.letter)),
        )
        for texts, reply, _ in FAVOR
    ]
    assert found == FAVOR
