"""The small vision-language model's card: the template `card.md`, and its accuracy on unseen questions."""

from __future__ import annotations

from pathlib import Path
from string import Template

from components.core.records import Record
from components.synthetic import cards
from components.synthetic.questions import QUESTION_TYPES
from components.synthetic.vlm.network import SEEN, SIZE, TRAINING_SEEDS, Recipe


class Answers(Record):
    """How many questions of a type were asked, and how many of the letters were right."""

    asked: int
    right: int


class Card(cards.BaseCard):
    """What a checkpoint is and how it was made; `answers` are those to unseen questions, by type."""

    recipe: Recipe
    size: tuple[int, int]
    frames: int
    answers: dict[str, Answers]


def write_card(folder: Path, recipe: Recipe, answers: dict[str, Answers]) -> Card:
    """Describe the model in `folder`; writes both files."""
    own = {"recipe": recipe, "size": SIZE, "frames": len(SEEN), "answers": answers}
    return cards.write(folder, Card, page, TRAINING_SEEDS, recipe.seed, **own)


def read_card(folder: Path | str) -> Card:
    """Return the card of a checkpoint, checked against its files; raises as `cards.read`."""
    return cards.read(folder, Card, page)


def page(card: Card) -> str:
    """Return the card as Markdown."""
    template = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    asked, right = (sum(getattr(own, name) for own in card.answers.values()) for name in ("asked", "right"))
    rows = [f"| {kind} | {card.answers[kind].right} of {card.answers[kind].asked} |" for kind in QUESTION_TYPES]
    return Template(template).substitute(
        cards.facts(card, card.recipe, "components.synthetic.vlm.train"),
        height=card.size[0],
        width_pixels=card.size[1],
        frames=card.frames,
        asked=asked,
        right=right,
        percent=f"{100 * right / asked:.1f}",
        answers="\n".join(rows),
    )
