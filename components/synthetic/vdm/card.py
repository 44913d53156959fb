"""The small video model's card: the template `card.md`, and the losses on unseen clips."""

from __future__ import annotations

from pathlib import Path
from string import Template

from components.synthetic import cards
from components.synthetic.vdm.network import SIZE, TRAINING_SEEDS, Recipe, latent_grid


class Card(cards.BaseCard):
    """What a checkpoint is and how it was made; `losses` go by fifths of the noise, low noise first."""

    recipe: Recipe
    size: int
    num_frames: int
    losses: list[float]


def write_card(folder: Path, recipe: Recipe, losses: list[float]) -> Card:
    """Describe the pipeline in `folder`; writes both files."""
    own = {"recipe": recipe, "size": SIZE, "num_frames": recipe.num_frames, "losses": losses}
    return cards.write(folder, Card, page, TRAINING_SEEDS, recipe.seed, **own)


def read_card(folder: Path | str) -> Card:
    """Return the card of a checkpoint, checked against its files; raises as `cards.read`."""
    return cards.read(folder, Card, page)


def page(card: Card) -> str:
    """Return the card as Markdown."""
    template = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    return Template(template).substitute(
        cards.facts(card, card.recipe, "components.synthetic.vdm.train"),
        **card.model_dump(include={"size", "num_frames"}),
        clips=card.recipe.steps * card.recipe.batch,
        tokens=" × ".join(str(side) for side in latent_grid(card.num_frames)),
        losses=" | ".join(f"{loss:.4f}" for loss in card.losses),
    )
