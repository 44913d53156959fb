"""Which training videos share a name or a text with a benchmark's: names that mean one video, texts of few videos.

A name loses its folder, its extension and the `_<start>_<end>` of a cut clip. It counts if it can hardly name two
videos: an id such as YouTube's or Charades' does, `video_12` and `0007` do not. A text counts if it has enough words
and belongs to few videos: what is asked of many (`What does the man do?`) means nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath

FEW = 3  # videos of one side that have a distinctive text, at most
_SEGMENT = re.compile(r"_\d+(?:\.\d+)?_\d+(?:\.\d+)?$")
_TURN = re.compile(r"#\d+$")  # of a conversation, behind its id
_ACTIVITYNET = re.compile(r"^v_(?=[\w-]{11}$)")
_CHARADES = re.compile(r"(?=.*[A-Z])[A-Z0-9]{5}")
_GENERIC = "video|vid|clip|movie|sample|scene|item|image|img|frame|test|train|val|dev|bench|row|part|shot|take"
_COUNTED = re.compile(rf"[a-z]?#*|(?:(?:{_GENERIC})[\W_#]*)+")
_SHARED = 3, 0.01  # names of one form (`shop_12`, `shop_13`) that make it a count: at least, and of a set's names
_LONG = 8  # characters of a name that is neither an id of a known form nor a count
_WORD = re.compile(r"\w+")


def core_name(name: str) -> str:
    """Return a file's path or a row's id without what two copies may differ in."""
    stem = PurePosixPath(name.replace("\\", "/")).name
    suffix = re.search(r"\.[A-Za-z][A-Za-z0-9]{1,4}$", stem)
    stem = _TURN.sub("", stem[: suffix.start()] if suffix else stem)
    return _ACTIVITYNET.sub("", _SEGMENT.sub("", stem) or stem)


def distinctive_names(names: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """Return which videos of a set each distinctive name is of, in lower case; `names` are paths or ids by video."""
    videos: dict[str, set[str]] = defaultdict(set)
    for video, given in names.items():
        for name in map(core_name, given):
            videos[name].add(video)
    forms = Counter(map(_form, videos))
    counted = max(_SHARED[0], _SHARED[1] * len(videos))
    found: dict[str, set[str]] = defaultdict(set)
    for name, of in videos.items():
        if forms[_form(name)] < counted and _is_distinctive(name):
            found[name.casefold()] |= of
    return dict(found)


def _is_distinctive(name: str) -> bool:
    """Return whether a name that is no count can hardly be that of two videos."""
    if _COUNTED.fullmatch(_form(name)):
        return False
    mixed = re.search(r"\d.*[A-Za-z]|[A-Za-z].*\d|[a-z][A-Z]", name)
    return bool(_CHARADES.fullmatch(name) or (mixed and len(name) >= _LONG))


def _form(name: str) -> str:
    """Return a name with every number replaced: `shop_12` and `shop_013` have one form."""
    return re.sub(r"[\W_]*\d+", "#", name.casefold())


def normalized(text: str) -> str:
    """Return a text's words in lower case, as NFKC, without punctuation."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def distinctive_texts(texts: Mapping[str, Iterable[str]], words: int) -> dict[str, set[str]]:
    """Return which videos each distinctive text is of: normalized, of at least so many words, and of `FEW` videos.

    Scripts without spaces count two characters as a word.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for video, own in texts.items():
        for text in map(normalized, own):
            if _length(text) >= words:
                found[text].add(video)
    return {text: videos for text, videos in found.items() if len(videos) <= FEW}


def _length(text: str) -> int:
    wide = sum(unicodedata.category(character) == "Lo" for character in text)
    return max(len(text.split()), wide // 2)


def shared(first: Mapping[str, set[str]], second: Mapping[str, set[str]]) -> Iterator[tuple[str, str, str]]:
    """Yield (name or text, video of the first set, video of the second) where both sets have it."""
    for what in sorted(first.keys() & second.keys()):
        yield from ((what, one, other) for one in sorted(first[what]) for other in sorted(second[what]))
