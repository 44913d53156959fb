"""The step's page in the KFP UI: the training's losses, gradient norms and learning rates. Made anew in every run."""

from __future__ import annotations

from collections.abc import Sequence

from components.core.records import Json
from components.pages.figures import raw
from components.pages.section import Section
from components.pages.template import preview
from components.pages.training_log import training_curves, training_line

_CAPTION = (
    "L_AR is the loss of the response tokens, L_align the distance between the VLM's attention and the prior; "
    "dots are losses of the held-out share."
)


def page(rows: Sequence[Json], model: str) -> str:
    """Return the charts of a training log."""
    head = Section("top", "Fine-tuning", f"{model} tuned with motion priors", raw(f'<p class="caption">{_CAPTION}</p>'))
    curves = Section("curves", "Training", training_line(rows), training_curves(rows))
    return preview("6 · fine-tuning", head, [curves])
