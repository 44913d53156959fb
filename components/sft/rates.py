"""FLOPs of a VLM by what passes it, as numbers that can be kept: of the forward pass, and of a training's both passes.

`components.sft.flops` counts them from a model; here torch is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components.models.vlm.interface import TowerWork


@dataclass(frozen=True)
class Rates:
    """FLOPs per place of each part, forward and in training.

    Attributes:
        forward: by part: patches, tower, merger, llm, head.
        training: the same of forward and backward pass together.
        attention: of the language model's forward pass, per pair of tokens.
        tower: whether a gradient passes the vision tower.
    """

    forward: Mapping[str, int]
    training: Mapping[str, int]
    attention: int
    tower: bool

    def asked(self, work: TowerWork, cells: int, tokens: int, predicted: int, before: int = 0) -> int:
        """Return the FLOPs of a forward pass: over the tower's work, so many cells and tokens, and predicted ones.

        `before` are tokens that were read earlier: the others attend to them as well.
        """
        products = _sum(self.forward, work, cells, tokens, predicted)
        return products + self.attention * tokens * (before + tokens) + work.attention

    def trained(self, work: TowerWork, cells: int, tokens: int, predicted: int) -> int:
        """Return the FLOPs of a forward and a backward pass over the same."""
        products = _sum(self.training, work, cells, tokens, predicted)
        return products + 3 * self.attention * tokens**2 + work.attention * (1 + 2 * self.tower)


def _sum(rates: Mapping[str, int], work: TowerWork, cells: int, tokens: int, predicted: int) -> int:
    places = {"patches": work.patches, "tower": work.places, "merger": cells, "llm": tokens, "head": predicted}
    return sum(rates[name] * count for name, count in places.items())
