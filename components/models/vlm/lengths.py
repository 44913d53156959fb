"""How many tokens a conversation about a clip has, without laying it out: for predictions over many samples.

They are those of `Reader.lay_out`: the text is rendered by the same template and the family's own `text`, a run of
cells is read as one of them, and what many conversations share is counted once. Each text of a conversation and the
clip's are counted apart: they stand behind a line break or a control token, which no token reaches across.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from components.core.errors import ParameterError
from components.core.records import MediaKind
from components.media.viewing import Viewing
from components.models.vlm.example import OWN_TEMPLATE, SENTINEL, templated
from components.models.vlm.interface import Cells, Conversation, Inputs
from components.models.vlm.reader import Reader

_REMEMBERED = 1 << 16  # texts


@dataclass(frozen=True)
class Length:
    """Tokens up to and with the last visual cell, and behind it.

    `learned` are those of the response and of the end of its turn.
    """

    shared: int
    own: int
    learned: int = 0

    @property
    def all(self) -> int:
        """Tokens of the whole conversation."""
        return self.shared + self.own

    def __add__(self, other: Length) -> Length:
        """Return a conversation's and its clip's tokens together."""
        return Length(self.shared + other.shared, self.own + other.own, self.learned + other.learned)


@dataclass(frozen=True)
class _Frame:
    """A template's own tokens before and behind a clip's placeholder, and how many texts stand before it."""

    before: int
    behind: int
    led: int


class Lengths:
    """Counts for one checkpoint."""

    def __init__(self, reader: Reader) -> None:
        self._tokenizer = reader.tokenizer
        self._count, self._frame = lru_cache(_REMEMBERED)(self._counted), lru_cache(self._framed)

    def clip(self, inputs: Inputs, shape: Cells, times: Sequence[float], viewing: Viewing) -> Length:
        """Return the tokens in the placeholder's place, for frames at these times, in seconds."""
        cell = self._tokenizer.convert_ids_to_tokens(inputs.visual_id)
        lead, last, behind = inputs.text(shape, times, viewing).rpartition(cell)
        cells = (lead + last).count(cell)
        short, runs = re.subn(f"(?:{re.escape(cell)})+", lambda _: cell, lead + last)
        return Length(self._counted(short) - runs + cells, self._count(behind))

    def talk(self, talk: Conversation, inputs: Inputs | None = None) -> Length:
        """Return the tokens beside the clip, which `inputs` reads; without it nothing is shared.

        Raises:
            ParameterError: the chat template changes the texts, or has not one placeholder.
        """
        earlier = [text for turn in talk.earlier for text in turn]
        last = [talk.question] if talk.response is None else [talk.question, talk.response]
        counts = [self._count(text) for text in (*([] if talk.system is None else [talk.system]), *earlier, *last)]
        kind, placeholder = (None, "") if inputs is None else (inputs.kind, inputs.placeholder)
        frame = self._frame(len(talk.earlier), talk.response is None, talk.system is None, kind, placeholder)
        shared = frame.before + sum(counts[: frame.led])
        return Length(shared, frame.behind + sum(counts[frame.led :]), 0 if talk.response is None else counts[-1] + 1)

    def _framed(self, earlier: int, asked: bool, bare: bool, kind: MediaKind | None, placeholder: str) -> _Frame:
        """Return what the template adds to a conversation of this form."""
        turns = [(SENTINEL, SENTINEL)] * earlier
        marked = Conversation(turns, SENTINEL, None if asked else SENTINEL, None if bare else SENTINEL)
        text = templated(marked, self._tokenizer, kind)
        if text.count(SENTINEL) != 2 * earlier + 3 - asked - bare or (kind and text.count(placeholder) != 1):
            problem = f"a text or the placeholder of a {kind} is not there once"
            raise ParameterError(problem, source="the chat template", remedy=OWN_TEMPLATE)
        before, behind = text.split(placeholder) if kind else ("", text)
        own = [sum(self._count(piece) for piece in side.split(SENTINEL)) for side in (before, behind)]
        return _Frame(own[0], own[1], before.count(SENTINEL))

    def _counted(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])
