"""Which option a reply names. Nothing is guessed: what no rule reads is unparsed and counts as wrong.

1. Thoughts (`<think>`) are dropped. Where the reply marks its answer (`<answer>`, a JSON field, a LaTeX box), only
   that is read; several marks must agree.
2. `letter`: the whole text is one letter. `text` (whole): it is one option's text.
3. Statements, which must agree: `leading` ("D. text"), `phrase` ("the answer is D", 答案是D, 正解はD), `trailing` (the
   last line, "so D"). The last one counts if a correction ("but", "wait") stands before it.
4. `text`: exactly one option's text is in the reply, outside a longer option's.

A statement that is denied ("not D", "D is wrong"), asked ("D?"), supposed ("if …, D"), or one of several ("D or B") is
none. Where the options were shown without letters, only texts are read. The benchmarks' own rules are weaker; each
stands in its benchmark's module, for comparison with published numbers.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from components.core.records import Option

Rule = Literal["letter", "leading", "phrase", "text", "trailing", "unparsed"]


class Parsed(NamedTuple):
    """The letter that was read (None: unparsed) and the rule that read it."""

    letter: str | None
    rule: Rule


class _Said(NamedTuple):
    """A letter that the text states, between two places."""

    start: int
    end: int
    letter: str
    rule: Rule


UNPARSED = Parsed(None, "unparsed")


def parse_reply(reply: str, options: Sequence[Option], *, letters: bool = True) -> Parsed:
    """Read the option out of a reply; options that were shown without letters are looked for by their texts only."""
    found = [_read(part, options, letters) for part in _marked(unicodedata.normalize("NFKC", reply))]
    return found[0] if len({parsed.letter for parsed in found}) == 1 else UNPARSED


# What is read ---------------------------------------------------------------------------------------------------------

_CJK = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_THOUGHT = r"(?i:think|thinking|thought|reasoning)"
_THOUGHTS = re.compile(rf"^.*[<◁]/{_THOUGHT}[>▷]|[<◁]{_THOUGHT}[>▷].*$", re.DOTALL)
_STYLE = re.compile(r"\\(?:text|math)(?:bf|rm|it|sf|tt)?\s*\{([^{}]*)\}")
_ANSWER = r"(?:final[_ ]?|correct[_ ]?)?answer|choice|(?:selected[_ ]?)?option|letter|prediction|result|答案"
_MARKS = (
    re.compile(r"<(answer|choice|option|final)>(?P<inner>.*?)(?:</?\1\b|$)", re.DOTALL | re.IGNORECASE),
    re.compile(rf"[{{,]\s*[\"'](?:{_ANSWER})[\"']\s*:\s*([\"'])(?P<inner>(?:\\.|(?!\1)[^\\])*)", re.IGNORECASE),
    re.compile(r"\\f?boxed\s*\{(?P<inner>[^{}]*)"),
)
_MARKUP = re.compile(r"[*`_#]+|\\[()\[\],;! ]|[{}$]")
_SCRIPTS_MEET = re.compile(rf"(?<=[{_CJK}])(?=[A-Za-z(\[])|(?<=[A-Za-z)\]])(?=[{_CJK}])")


def _marked(text: str) -> list[str]:
    """Return the texts that are marked as answers, or the whole reply; without thoughts and markup."""
    parts = [_STYLE.sub(r"\1", _STYLE.sub(r"\1", _THOUGHTS.sub("", text)))]
    for mark in _MARKS:
        inner = [[found["inner"] for found in mark.finditer(part) if found["inner"].strip()] for part in parts]
        parts = [one for part, found in zip(parts, inner, strict=True) for one in found or [part]]
    return [_SCRIPTS_MEET.sub(" ", _MARKUP.sub("", part)).strip() for part in parts]


def _read(text: str, options: Sequence[Option], letters: bool) -> Parsed:
    known = {option.letter for option in options}
    if letters and (bare := _BARE.fullmatch(text)) and bare[1].upper() in known:
        return Parsed(bare[1].upper(), "letter")
    if (whole := _whole(text, options)) is not None:
        return Parsed(whole, "text")
    ruled_out: set[str] = set()
    if letters:
        folded = _fold(text, options)
        if said := sorted(_statements(folded, options, known)):
            return _agreed(folded, said, known)
        ruled_out = {letter for _, letter in _denials(folded, known)}
    stated = _option_texts(text, options) - ruled_out
    leading = _LEADING.match(text) if letters else None
    if leading and _captured(leading)[1].upper() in known - stated:
        return UNPARSED  # the letter of one option with the text of another names neither
    return Parsed(stated.pop(), "text") if len(stated) == 1 else UNPARSED


# Letters --------------------------------------------------------------------------------------------------------------

_OPEN, _CLOSE = r"(?:[(\[\"'“「『【<]\s*)?", r"(?:\s*[)\]\"'”」』】>])?"
_LETTER = rf"{_OPEN}(?<!\w)(?<!\w['’])([A-Za-z])(?!\w|['’]\w){_CLOSE}"
_NAMED = rf"(?:(?:the\s+)?(?:option|choice|letter|answer|选项|選項|選択肢)\s*)?{_LETTER}"
_BARE = re.compile(rf"(?:option\s+|choice\s+)?{_LETTER}\s*(?:[.:,;!。、]|です。?|입니다\.?)?", re.IGNORECASE)

_LEADING = re.compile(
    r"[(\[【「]([A-Za-z])[)\]】」]"  # (D) text
    r"|([A-Za-z])[.)](?=\s|$)"  # D. text, d) text
    rf"|([A-Z])(?:\s*[:,;\n。、]|\s+[-–—]\s|\s+(?:because|since|as)\b|\s+(?=[{_CJK}.]))"  # D: text, D, because …
)
_IS = (
    r"(?:(?:is|was|would be|should be|must be|will be|has to be|seems to be|appears to be|is likely to be)\b\s*[:=-]?"
    r"|['’]s\b|[:=]|(?:应该|應該)?(?:是|为|為|选|選)|は|은|는)"
)
_SURE = r"(?:(?:most likely|likely|probably|definitely|clearly|certainly|simply|therefore|thus)\s+)?"
_FOR = r"(?:\s+(?:to|for|here|based on|I)\b[^.?!,;:\n]{0,40}?)?"
_PHRASES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b(?:answer|option|choice|guess|conclusion)[\"']?{_FOR}\s*{_IS}\s*{_SURE}{_NAMED}",
        rf"(?:答案|正解|答え|回答|选择|選擇|选项|選項|正确的|正確的|정답|답)\s*{_IS}?\s*{_NAMED}",
        rf"(?:选|選|选择|選擇)\s*{_NAMED}",
        rf"\b(?:respuesta|réponse|antwort|resposta|risposta)(?:\s+\w+)?\s*(?:es|est|ist|é|è|:)\s*(?:la\s+)?{_LETTER}",
        rf"(?:^|\n)\s*(?:option|choice|answer)\s+{_LETTER}\s*(?=[.:,\n]|$)",  # not "Option D is wrong"
        rf"\bi(?:['’]d| would)\s+(?:say|guess)\s+{_NAMED}",
        rf"\b(?:choose|chose|pick|select|go(?:ing)? with|vote for)\s+{_NAMED}",
    )
)
_VERDICT = re.compile(
    rf"{_LETTER}\s+(?:(?:is|would be|looks?|seems?)\s+(?:the\s+)?(?:most\s+|only\s+)?"
    r"(?:correct|right(?![\s-]+(?:of|hand|side|now)\b)|best|accurate|appropriate|answer)\b|fits best\b|matches best\b)"
    rf"|{_LETTER}\s*(?:选项|選項)?\s*(?:是|が|は)?\s*(?:正确|正確|正解|正しい|对的|對的)",
    re.IGNORECASE,
)
# a letter may follow these and still be an option: not "person B is right"
_BEFORE_VERDICT = re.compile(
    r"(?:^|[^\w\s]|\n|\b(?:option|choice|answer|letter|that|so|think|believe|say|only|and|but|while"
    r"|whereas|because|since"
    rf"|hence|thus|therefore|clearly|actually|then)|[{_CJK}])\s*$",
    re.IGNORECASE,
)
_TRAILING = re.compile(
    rf"(?:(?P<bare>(?<=[.!?。\n]))|:|→|->|=>|\b(?:so|thus|therefore|hence|it['’]s|it is|say|think)\b,?)\s*"
    rf"(?:an?\s+|the\s+)?{_NAMED}[\s.,:!。]*$",
    re.IGNORECASE,
)
_ENUMERATION = re.compile(r"(?<![\w'’])\(?([A-Z])[.):]\s+(?=\S)")
_CORRECTION = re.compile(
    r"\b(?:but|no|wait|actually|however|instead|correction|rather|finally|final|on second thought)\b|但|不对|不對|でも"
    r"|しかし",
    re.IGNORECASE,
)
_DOUBT = re.compile(r"\b(?:wait|actually|hmm+|on second thought|no[,.!])(?!\w)|不对|不對", re.IGNORECASE)
_ARTICLE = re.compile(
    r"\s+(?!(?:or|and|because|since|as|is|was|would|but|for|due|based|with|which"
    r"|fits|matches|looks|seems|cannot|does)\b)"
    r"[a-z]"
)
_LOWER_END = re.compile(rf"{_CLOSE}\s*(?:$|[.,;:!?)\n。、]|(?:because|since|as|or|and)\b)")
_NEXT = re.compile(
    rf"\s*(?:,\s*(?:or|and)?|[/&+、]|(?:(?:or|and)(?:\s+(?:maybe|perhaps|possibly|even))?|或"
    rf"|和|与|與|还是|還是|か|と)(?!\w)|\s)\s*{_NAMED}",
    re.IGNORECASE,
)
_PREVIOUS = re.compile(rf"{_LETTER}\s*(?:,\s*(?:or|and|nor)?|[/&+、]|\b(?:or|and|nor)|[或和与與か])\s*$", re.IGNORECASE)
_VERB = re.compile(r"\s+(?:is|was|looks?|seems?|does|doesn|isn|can)\b")


def _statements(text: str, options: Sequence[Option], known: set[str]) -> Iterator[_Said]:
    """Yield what the text states by a leading letter, a phrase, or a letter at its end."""
    listed = {letter for letter in _ENUMERATION.findall(text) if letter in known}
    if (found := _LEADING.match(text)) and listed <= {letter := _captured(found)[1].upper()}:
        pronoun = letter == "I" and found[3] is not None
        if not pronoun and _is_stated(text, found, known) and _whole(text[found.end() :], options) in (None, letter):
            yield _Said(0, found.end(), letter, "leading")
    for found in (found for phrase in _PHRASES for found in phrase.finditer(text)):
        if _is_stated(text, found, known):
            yield _Said(found.start(), found.end(), _captured(found)[1].upper(), "phrase")
    for found in _VERDICT.finditer(text):
        if _is_stated(text, found, known) and _BEFORE_VERDICT.search(text[: found.start()]):
            yield _Said(found.start(), found.end(), _captured(found)[1].upper(), "phrase")
    for line in {text.rfind("\n") + 1, 0} - {0}:  # the last line, if there are several
        found = _LEADING.match(text, line)
        if found and not listed - {_captured(found)[1].upper()} and _is_stated(text, found, known):
            yield _Said(line, found.end(), _captured(found)[1].upper(), "trailing")
    if (found := _TRAILING.search(text)) and _is_stated(text, found, known):
        letter = _captured(found)[1].upper()
        if not (found["bare"] is not None and listed - {letter}):
            yield _Said(found.start(), found.end(), letter, "trailing")


def _agreed(text: str, said: list[_Said], known: set[str]) -> Parsed:
    """Return the letter on which all statements agree, or the last one that corrects the others."""
    last = said[-1]
    others = [one for one in said if one.letter != last.letter]
    if others and not _CORRECTION.search(text, others[-1].end, last.start + 1):
        return UNPARSED
    rejected = any(at > last.start and letter == last.letter for at, letter in _denials(text, known))
    if rejected or _DOUBT.search(text, last.end):
        return UNPARSED
    return Parsed(last.letter, next(one.rule for one in said if one.letter == last.letter))


def _captured(found: re.Match[str]) -> tuple[int, str]:
    """Return place and text of the letter: the first group without a name that took part."""
    named = found.re.groupindex.values()
    group = next(g for g in range(1, found.re.groups + 1) if g not in named and found[g] is not None)
    return found.start(group), found[group]


def _is_stated(text: str, found: re.Match[str], known: set[str]) -> bool:
    """Return whether a pattern's letter is an option's, alone, and neither denied, asked nor supposed."""
    at, _ = _captured(found)
    if not _is_option(text, at, known) or _AFTER.match(text, at + 1):
        return False
    beside = _NEXT.match(text, found.end()), _PREVIOUS.search(text, max(0, found.start() - 30), found.start())
    return not any(_is_beside(text, other, at, known) for other in beside) and not _is_denied(text, *found.span())


def _is_option(text: str, at: int, known: set[str]) -> bool:
    """Return whether the letter at `at` is an option's: no article, no pronoun, no letter in running lower case."""
    if text[at].upper() not in known:
        return False
    if text[at].islower():
        return _LOWER_END.match(text, at + 1) is not None
    return not (text[at] in "AI" and _ARTICLE.match(text, at + 1))


def _is_beside(text: str, found: re.Match[str] | None, at: int, known: set[str]) -> bool:
    """Return whether another letter stands beside the one at `at`: "A or B", not "A, B is wrong"."""
    if not found:
        return False
    other, letter = _captured(found)
    same_case = letter.islower() == text[at].islower()
    return (
        letter.upper() != text[at].upper()
        and same_case
        and _is_option(text, other, known)
        and not (other > at and _VERB.match(text, found.end()))
    )


# Denials --------------------------------------------------------------------------------------------------------------

_CAPITAL = re.compile(r"(?<!\w)(?<!\w['’])([A-Z])(?!\w|['’]\w)")
_SENTENCE = re.compile(r"[.!?;。\n]")
# where a denial before it no longer reaches
_CLAUSE = re.compile(
    r"\b(?:but|thus|therefore|hence|however|instead(?!\s+of))\b|\bso(?=,|\s+(?:the|it|i|my|option)\b|\s+\(?[A-Z]\b)"
    r"|\b(?:,\s*(?:and\s+)?|and\s+)(?=(?:the|my|it|i|option|so|choose|pick|select|answer|[B-HJ-Z])\b)"
    rf"|^\s*(?:no|yes|actually|wait),|[,、]\s*(?=[{_CJK}])|所以|因此|故",
    re.IGNORECASE,
)
_SUPPOSED = re.compile(
    r"\b(?:if(?!\s+(?:i|we)\s+(?:had|have|must)|\s+you look)|unless|suppose|assuming)\b", re.IGNORECASE
)
_BEFORE = re.compile(
    r"\b(?:not(?!\s+only)|never|no(?!\s+doubt)|nor|neither|none|nobody|cannot|unlike|except|besides|instead of"
    r"|rather than|than|exclud\w+|eliminat\w+|rul\w+ out|discard\w*|reject\w*|refus\w*|avoid\w*|hardly|far from"
    r"|wrong|incorrect|false|unlikely|impossible"
    r"|might|may|could|thought|assumed|whether|compared|versus|vs|why)\b|n['’]t\b"
    r"|\b(?:another|other|one|first|second|third|next|previous|worst|opposite|alternative"
    r"|tempting|least)(?:\s+\w+)?\s*$"
    r"|不|非|除了|没|沒|아니",
    re.IGNORECASE,
)
_NO = r"(?:wrong|incorrect|false|unlikely|impossible|inaccurate|invalid|excluded|eliminated|rejected|ruled out|out\b)"
_AFTER = re.compile(
    r"[)\]\"'”」』】]?(?:"
    rf"\s*[吗嗎か]?\s*\?|[\s,]*(?:only\s+)?(?:if|unless)\b|\s+(?:at first|initially)\b|[\s,.:\-–—]*{_NO}"
    rf"|[\s,.:]*\b(?:is|was|are|be|seems?|looks?|appears?|to be|would be|can be|must be)(?:\s+\w+ly)?\s+(?:not\b|{_NO})"
    r"|\s*(?:is|was|ca|does|did|could|would|wo)n['’]t\b|\s+(?:cannot|does not|did not|could not|would not|can not)\b"
    r"|\s*[,.:\-–—]+\s*no(?=\s*[.,!;]|\s*$)"
    r"|\s*[.:\-–—]+\s*not\s+(?:correct|right|true|possible|shown|the|likely|accurate)"
    r"|\s*(?:选项|選項|项|項)?\s*(?:是|は|が|也|都)?\s*(?:错|錯|不|誤|误|間違|ではな|ではあり|でな|じゃな|排除|아니))",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"(?:\b(?:not|never|cannot|except|unlike|exclude|eliminate|rule out|than|instead of)|n['’]t)"
    r"(?:\s+(?:be|think|believe|say|that|option|choice))*\s+[(\[\"'“]?$",
    re.IGNORECASE,
)


def _is_denied(text: str, start: int, end: int) -> bool:
    """Return whether what stands between two places is denied, asked or supposed."""
    sentence = _SENTENCE.split(text[:start])[-1]
    clause = _CLAUSE.split(sentence)[-1]
    return bool(_SUPPOSED.search(sentence) or _BEFORE.search(clause) or _AFTER.match(text, end))


def _denials(text: str, known: set[str]) -> Iterator[tuple[int, str]]:
    """Yield place and letter of each option that the text rules out: "not D", "D is wrong"."""
    for found in _CAPITAL.finditer(text):
        at = found.start()
        if _is_option(text, at, known) and (
            _NEGATED.search(text[max(0, at - 60) : at]) or _AFTER.match(text, found.end())
        ):
            yield at, found[1]


# Texts ----------------------------------------------------------------------------------------------------------------

_WORD = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])[^\W_])+")
_LETTER_BEFORE = re.compile(r"(?<![\w'’])(?:([A-Z])[).:,\]]*|([a-z])[).:][).:,\]]*)\s*$")
_CUT = re.compile(r"\s*(?:\.\.|[,\-–—])[\s.]*$")


def _words(text: str) -> str:
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def _whole(text: str, options: Sequence[Option]) -> str | None:
    """Return the one option whose words are the text's; one that was cut short and might go on is none."""
    said = _words(text)
    same = [option.letter for option in options if said and _words(option.text) == said]
    return same[0] if len(same) == 1 and not (_CUT.search(text) and _goes_on(said, options)) else None


def _option_texts(text: str, options: Sequence[Option]) -> set[str]:
    """Return the options whose words the text states; one within a longer option counts only outside it."""
    words = {option.letter: _words(option.text) for option in options}
    taken: list[tuple[int, int]] = []
    found = set()
    for letter, wanted in sorted(words.items(), key=lambda item: -len(item[1])):
        for start, end in _places(text, wanted):
            if any(start < other_end and other_start < end for other_start, other_end in taken):
                continue
            cut = _CUT.match(text, end) and _goes_on(wanted, options)
            if not (cut or _is_denied(text, start, end)):
                found.add(letter)
            taken.append((start, end))
    return found if all(list(words.values()).count(words[letter]) == 1 for letter in found) else set()


def _fold(text: str, options: Sequence[Option]) -> str:
    """Leave out each option's text behind its own letter: "D. No" says D, and denies nothing."""
    for option in options:
        for start, end in reversed(_places(text, _words(option.text))):
            before = _LETTER_BEFORE.search(text, max(0, start - 10), start)
            if before and option.letter == (before[1] or before[2]).upper():
                text = f"{text[:start]}.{text[end:].removeprefix('.')}"
    return text


def _places(text: str, words: str) -> list[tuple[int, int]]:
    """Return where these words stand in a text one after the other, whatever is between them."""
    wanted = words.split()
    places = [(place[0].casefold(), *place.span()) for place in _WORD.finditer(text)]
    starts = [k for k in range(len(places) - len(wanted) + 1) if wanted and places[k][0] == wanted[0]]
    found = [places[k : k + len(wanted)] for k in starts]
    return [(run[0][1], run[-1][2]) for run in found if [word for word, _, _ in run] == wanted]


def _goes_on(words: str, options: Sequence[Option]) -> bool:
    return any(_words(option.text).startswith(f"{words} ") for option in options)
