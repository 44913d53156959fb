"""Controls of an evaluation: what is taken from the model or changed for it, and what other orders of options show.

They bound what a score can mean: `no_video` is what the questions give away by themselves, `one_frame` what a picture
shows, `shuffled_frames` what is known without the order of the frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from components.core.artifacts import ItemResult, PermutedReply
from components.core.records import Option, sha256

Control = Literal["none", "no_video", "one_frame", "shuffled_frames"]
TITLES = {"no_video": "no video", "one_frame": "one frame", "shuffled_frames": "shuffled frames"}


def shown_frames(control: Control, indices: Sequence[int], video_id: str) -> list[int]:
    """Return which of a clip's frames a model sees: all, the middle one, or all in an order of the clip's own."""
    if control == "one_frame":
        return [indices[len(indices) // 2]]
    if control == "shuffled_frames":
        order = sorted(range(len(indices)), key=lambda k: sha256(f"{video_id} {k}".encode()))
        return [indices[k] for k in order]
    return list(indices)


def moved(options: Sequence[Option], shift: int) -> list[Option]:
    """Return the options with their texts `shift` places further up, under the same letters."""
    texts = [option.text for option in options]
    return [
        Option(letter=option.letter, text=text)
        for option, text in zip(options, texts[shift:] + texts[:shift], strict=True)
    ]


def published_letter(letter: str, options: Sequence[Option], shift: int) -> str:
    """Return the letter that an option has as published, from the one that it has among the moved ones."""
    letters = [option.letter for option in options]
    return letters[(letters.index(letter) + shift) % len(letters)]


@dataclass(frozen=True)
class Order:
    """The items that were asked in one order: how many, how many right, how many with another answer than `shift` 0."""

    shift: int
    n: int
    correct: int
    flipped: int


@dataclass(frozen=True)
class Orders:
    """What an evaluation in several orders found.

    Attributes:
        orders: one of each, as published first.
        mean: mean over the items of the share of their orders that were answered right.
        all_correct: share of the items that were answered right in every order.
        by_place: letter under which the right option stood, replies, and right ones among them.
    """

    orders: list[Order]
    mean: float
    all_correct: float
    by_place: list[tuple[str, int, int]]


def compare_orders(lines: Sequence[ItemResult], permuted: Sequence[PermutedReply]) -> Orders:
    """Return what the replies of the same items in several orders show; an unparsed reply is an answer of its own."""
    first = {line.sample.id: line for line in lines}
    others = [one for one in permuted if one.sample in first]
    right: dict[str, list[bool]] = {name: [line.correct] for name, line in first.items()}
    places: dict[str, list[bool]] = {}

    def stood(line: ItemResult, shift: int, correct: bool) -> None:
        letters = [option.letter for option in line.sample.options]
        letter = letters[(letters.index(line.sample.answer) - shift) % len(letters)]
        places.setdefault(letter, []).append(correct)

    for line in lines:
        stood(line, 0, line.correct)
    for one in others:
        right[one.sample].append(one.correct)
        stood(first[one.sample], one.shift, one.correct)
    orders = [Order(0, len(lines), sum(line.correct for line in lines), 0)]
    for shift in sorted({one.shift for one in others}):
        own = [one for one in others if one.shift == shift]
        flipped = sum(one.parsed != first[one.sample].parsed for one in own)
        orders.append(Order(shift, len(own), sum(one.correct for one in own), flipped))
    by_place = [(letter, len(found), sum(found)) for letter, found in sorted(places.items())]
    return Orders(orders, _mean(_mean(own) for own in right.values()), _mean(map(all, right.values())), by_place)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
