"""Which option a reply names.

The strict parser tries, in this order: a bare letter, a leading letter ("D. text"), a phrase ("the answer is D"), the
text of exactly one option, a letter at the end. What none of them reads is unparsed and counts as wrong: nothing is
guessed. Where the options were shown without letters, letters mean nothing and only texts are read. The benchmarks' own
rules are weaker (an answer that repeats every option is right for FAVOR; "Answer: D" is A for MotionBench); each stands
in its benchmark's module, for comparison with published numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from components.core.records import Option

Rule = Literal["letter", "leading", "phrase", "text", "trailing", "unparsed"]


class Parsed(NamedTuple):
    """The letter that was read (None: unparsed) and the rule that read it."""

    letter: str | None
    rule: Rule


_MARKUP = re.compile(r"[*`_#]+|\\boxed|[{}$]")
_ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_END = r"(?![\w'’])"
_LETTER = rf"[(\[\"'“]?([A-Z]){_END}[)\]\"'”]?"
_BARE = re.compile(r"[(\[\"'“]?\s*([A-Za-z])\s*[)\]\"'”]?\s*[.:,;!]?")
_LEADING = re.compile(
    r"[(\[]([A-Za-z])[)\]]"  # (D) text
    r"|([A-Za-z])[.)](?=\s|$)"  # D. text, d) text
    r"|([A-Z])(?:\s*[:,;\n]|\s+[-–—]\s|\s+(?:because|since|as)\b)"  # D: text, D, because …
)
_ENUMERATION = re.compile(r"(?<![\w'’])\(?([A-Z])[.):]\s+(?=\S)")
_PHRASES = (
    re.compile(
        r"\b(?:(?i:answer|option|choice)\s*(?:(?i:is|was|would be|should be|must be)\b\s*[:=]?|[:=])|(?i:answer))\s*"
        r"(?:(?i:most likely|likely|probably|definitely|clearly)\s+)?"
        rf"(?:(?i:the\s+)?(?i:option|choice|letter)\s+)?{_LETTER}"
    ),
    re.compile(rf"^(?i:option|choice)\s+{_LETTER}\s*(?:[.:,\n]|$)"),  # not "Option D is wrong"
    re.compile(rf"\b(?i:choose|chose|pick|select|go(?:ing)? with)\s+(?:(?i:option|choice|letter|answer)\s+)?{_LETTER}"),
    re.compile(
        rf"{_LETTER}\s+(?i:is|would be)\s+(?i:the\s+)?(?i:most\s+)?"
        r"(?i:correct|right|best|accurate|appropriate|answer)\b"
    ),
)
_TRAILING = re.compile(r"(?:^|(?<=[\s:(\[\"'“]))([A-Z])[)\]\"'”]?\s*[.!]?$")
_NEGATED = re.compile(
    r"(?:(?i:\b(?:not|never|cannot))|n['’]t)(?i:\s+(?:be|think|believe|say))?(?i:\s+that)?"
    r"(?i:\s+(?:option|choice))?\s+[(\[\"'“]?$"
    r"|(?i:\b(?:except|exclude|eliminate|rule out|than))(?i:\s+(?:option|choice))?\s+[(\[\"'“]?$"
)
_ALTERNATIVE = re.compile(rf"\s*(?:,|/|(?i:or|and)\b)\s*(?:(?i:or|and)\s+)?(?:(?i:option)\s+)?{_LETTER}")
_ARTICLE = re.compile(r"\s+(?!(?i:or|and|because|since|as|is|was|would|but|for|due|based|with|which)\b)[a-z]")


def parse_reply(reply: str, options: Sequence[Option], *, letters: bool = True) -> Parsed:
    """Read the option out of a reply; options that were shown without letters are looked for by their texts only."""
    if tagged := _ANSWER_TAG.findall(reply):
        reply = tagged[-1]
    text = _MARKUP.sub("", reply).strip()
    known = {option.letter for option in options}
    stages: dict[Rule, Callable[[str, set[str]], str | None]] = {
        "letter": _bare,
        "leading": _leading,
        "phrase": _phrase,
        "text": lambda text, _: _option_text(text, options),
        "trailing": _trailing,
    }
    for rule, stage in stages.items():
        if (letters or rule == "text") and (letter := stage(text, known)) is not None:
            return Parsed(letter, rule)
    return Parsed(None, "unparsed")


def _bare(text: str, known: set[str]) -> str | None:
    found = _BARE.fullmatch(text)
    return found[1].upper() if found and found[1].upper() in known else None


def _leading(text: str, known: set[str]) -> str | None:
    found = _LEADING.match(text)
    if not found:
        return None
    letter = next(group for group in found.groups() if group).upper()
    listed = {name for name in _ENUMERATION.findall(text) if name in known} | {letter}
    # a reply that repeats the list of options has not chosen yet; nor has "A, B and D"
    if len(listed) > 1 or (found[3] and _standalone(text, known) - {letter}):
        return None
    return letter if letter in known else None


def _phrase(text: str, known: set[str]) -> str | None:
    """Return the last phrase's option: a reply that corrects itself ends with what it means."""
    found: list[tuple[int, str]] = []
    for match in (match for pattern in _PHRASES for match in pattern.finditer(text)):
        denied = _is_article(text, match.start(1)) or _is_negated(text, match.start()) or _is_one_of(text, match.end())
        if match[1] in known and not denied:
            found.append((match.start(1), match[1]))
    return max(found)[1] if found else None


def _option_text(text: str, options: Sequence[Option]) -> str | None:
    """Return the one option whose words are in the reply; one within a longer option counts only outside it."""
    words = {option.letter: _words(option.text) for option in options}
    rest = f" {_words(text)} "
    found: list[str] = []
    for letter, wanted in sorted(words.items(), key=lambda item: -len(item[1])):
        if wanted and f" {wanted} " in rest:
            found.append(letter)
            rest = rest.replace(f" {wanted} ", " | ")
    return found[0] if len(found) == 1 and list(words.values()).count(words[found[0]]) == 1 else None


def _trailing(text: str, known: set[str]) -> str | None:
    found = _TRAILING.search(text)
    if not found or found[1] not in known or _is_negated(text, found.start(1)):
        return None
    return found[1] if _standalone(text, known) == {found[1]} else None


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def _standalone(text: str, known: set[str]) -> set[str]:
    """Return the option letters that stand alone as capitals and are no article."""
    places = re.finditer(r"(?<![\w'’])([A-Z])(?![\w'’])", text)
    return {place[1] for place in places if place[1] in known and not _is_article(text, place.start(1))}


def _is_article(text: str, at: int) -> bool:
    """Return whether the capital at `at` is the article of "A person …" (or the pronoun I) and not an option."""
    return text[at] in "AI" and _ARTICLE.match(text, at + 1) is not None


def _is_negated(text: str, at: int) -> bool:
    return _NEGATED.search(text[:at]) is not None


def _is_one_of(text: str, end: int) -> bool:
    """Return whether another letter follows as an alternative: "the answer is A or B"."""
    return _ALTERNATIVE.match(text, end) is not None
