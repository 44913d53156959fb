"""Text of samples: normalization, refusal of control tokens, ids, and the parts that condition the video model.

Both models get the same NFC string, normalized once at import; character spans are spans of that string.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from components.core.errors import DataError
from components.core.records import Option, Sample, TextField, Turn, canonical_json, sha256

TextChoice = Literal["question", "response", "both"]

CANNOT_READ = "the video model cannot read"  # how the reason of a sample begins that is left out for its text

_CONTROL = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|</?(?:img|IMG_CONTEXT|image|video|box|ref|quad|s|pad|unk|extra_id_\d+|tool_call)>"
)
# control characters (Cc) but line feed and tab, surrogates (Cs), private use (Co)
_NO_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd]")


def clean(text: str, source: str) -> str:
    """NFC-normalize and strip; refuse what would be read as a control token by a model.

    Raises:
        DataError: control tokens, private-use or control characters.
    """
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n")).strip()
    if found := _CONTROL.search(text):
        raise DataError(f"control token {found.group()!r} in the text", source=source, remedy="remove it from the text")
    if found := _NO_TEXT.search(text):
        problem = f"character U+{ord(found.group()):04X} in the text"
        raise DataError(problem, source=source, remedy="remove it from the text")
    return text


def sample_id(
    video_sha256: str, question: str, options: Sequence[Option], response: str, earlier: Sequence[Turn]
) -> str:
    """16 hex of a sample's sha256 over its video and cleaned text."""
    choices, turns = [[o.letter, o.text] for o in options], [[t.question, t.response] for t in earlier]
    return sha256(canonical_json([video_sha256, question, choices, response, turns]))[:16]


@dataclass(frozen=True)
class Part:
    """One field of the sample inside a joined text: `text[start : start + len]` is the field."""

    field: TextField
    start: int
    text: str


def conditioning(sample: Sample, choice: TextChoice) -> tuple[str, list[Part]]:
    """Return the text that conditions the video model (decision `text`), and where its fields lie.

    `both` is the response, then the question, so that truncation cuts the question; a declared template instruction is
    left out.

    Raises:
        DataError: nothing is left to condition on.
    """
    question = "" if sample.is_instruction else sample.question
    fields: list[tuple[TextField, str]] = [("response", sample.response), ("question", question)]
    parts: list[Part] = []
    text = ""
    for name, value in fields:
        if value and choice in ("both", name):
            text += "\n" if text else ""
            parts.append(Part(name, len(text), value))
            text += value
    if not parts:
        problem = f"no text left with text={choice!r}"
        raise DataError(problem, source=f"sample {sample.id}", remedy="choose text=both or response")
    return text, parts


def render_question(question: str, options: Sequence[Option]) -> str:
    """Return the question as a VLM sees it: its options below it, one per line."""
    return "\n".join([question, *(f"{option.letter}. {option.text}" for option in options)])
