"""Text of samples: normalization, refusals, ids against a hash written by hand, spans of the conditioning text."""

import hashlib
import json
import sys
import unicodedata

import pytest

from components.core.errors import DataError
from components.core.records import Option, Sample, Turn
from components.core.text import clean, conditioning, render_question, sample_id

VIDEO = "a" * 64


def sample(question="Who moves?", response="The dog.", is_instruction=False):
    return Sample(id="0" * 16, uid="u", question=question, is_instruction=is_instruction, response=response, answer="")


def test_clean_composes_and_strips():
    assert clean("  Cafe\u0301\n", "s") == "Café"
    assert clean("\u1100\u1161", "s") == "가"
    assert clean("a\tb\nc", "s") == "a\tb\nc"


@pytest.mark.parametrize("token", ["<|im_start|>", "<|vision_pad|>", "<image>", "</img>", "<IMG_CONTEXT>", "</s>"])
def test_clean_refuses_control_tokens(token):
    with pytest.raises(DataError, match="control token") as caught:
        clean(f"The dog {token} runs", "row 7")
    assert caught.value.source == "row 7"


@pytest.mark.parametrize("character", ["\ue000", "\x00", "\x1b", "\U000f0000", "\ud800"])
def test_clean_refuses_private_use_and_control_characters(character):
    with pytest.raises(DataError, match=f"U\\+{ord(character):04X}"):
        clean(f"a{character}b", "s")


def test_clean_refuses_these_categories_of_unicode_and_no_other():
    every = {chr(code) for code in range(sys.maxunicode + 1)}
    refused = {c for c in every if unicodedata.category(c) in ("Cc", "Cs", "Co")} - {"\n", "\t"}
    assert not any(is_clean(f"a{c}b") for c in refused)
    assert is_clean("a".join(sorted(every - refused)))


def is_clean(text):
    try:
        clean(text, "s")
    except DataError:
        return False
    return True


def test_clean_keeps_ordinary_angle_brackets():
    assert clean("x < y > z, a<b>c, <|a b|>", "s") == "x < y > z, a<b>c, <|a b|>"


def test_sample_id_is_the_documented_hash():
    options, earlier = [Option(letter="A", text="Ä")], [Turn(question="q", response="r")]
    payload = json.dumps([VIDEO, "Q?", [["A", "Ä"]], "R", [["q", "r"]]], separators=(",", ":"), ensure_ascii=False)
    assert sample_id(VIDEO, "Q?", options, "R", earlier) == hashlib.sha256(payload.encode()).hexdigest()[:16]


def test_sample_id_sees_every_part():
    option, turn = Option(letter="A", text="a"), Turn(question="q", response="r")
    parts = {"video_sha256": VIDEO, "question": "q", "options": [], "response": "r", "earlier": []}
    changes = {"video_sha256": "b" * 64, "question": "q2", "options": [option], "response": "r2", "earlier": [turn]}
    assert len({sample_id(**parts), *(sample_id(**{**parts, name: value}) for name, value in changes.items())}) == 6


@pytest.mark.parametrize(
    ("choice", "fields"), [("both", ["response", "question"]), ("question", ["question"]), ("response", ["response"])]
)
def test_conditioning_parts_are_spans_of_the_text(choice, fields):
    row = sample()
    text, parts = conditioning(row, choice)
    assert [part.field for part in parts] == fields
    for part in parts:
        assert text[part.start : part.start + len(part.text)] == part.text == getattr(row, part.field)
    assert "".join(text.split()) == "".join("".join(part.text.split()) for part in parts)


def test_conditioning_leaves_a_template_instruction_out():
    text, parts = conditioning(sample(is_instruction=True), "both")
    assert text == "The dog."
    assert [part.field for part in parts] == ["response"]
    with pytest.raises(DataError, match="no text left"):
        conditioning(sample(is_instruction=True), "question")


def test_conditioning_of_a_held_out_item():
    assert conditioning(sample(response=""), "both")[0] == "Who moves?"
    with pytest.raises(DataError, match="sample 0000000000000000"):
        conditioning(sample(response=""), "response")


def test_render_question():
    assert render_question("Q?", [Option(letter="A", text="x"), Option(letter="B", text="y")]) == "Q?\nA. x\nB. y"
    assert render_question("Q?", []) == "Q?"
