"""The step's page in the KFP UI: the training's losses, gradient norms and learning rates. Made anew in every run."""

from __future__ import annotations

from collections.abc import Sequence

from components.core.records import Json
from components.pages.section import Section
from components.pages.template import preview
from components.pages.training_log import training_curves, training_line

_ABOUT = (
    "L_AR is the loss of the response tokens, L_align the distance between the VLM's attention and the prior. "
    "Losses of the held-out share are dots."
)


def page(rows: Sequence[Json], model: str) -> str:
    """Return the charts of a training log."""
    curves = Section("curves", "Training", training_line(rows), training_curves(rows))
    return preview("6 · fine-tuning", f"{model} tuned with motion priors", _ABOUT, [curves])
