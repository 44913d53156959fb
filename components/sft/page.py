"""The step's page in the KFP UI, made anew in every run, and the card of an exported model; both need no torch."""

from __future__ import annotations

from collections.abc import Sequence

from components.core.artifacts import TunedModel
from components.core.records import Json
from components.pages.markdown import decisions, document, left_out, text
from components.pages.page import Section, preview
from components.pages.training_log import training_curves, training_line

_ABOUT = (
    "L_AR is the loss of the response tokens, L_align the distance between the VLM's attention and the prior. "
    "Losses of the held-out share are dots."
)


def page(rows: Sequence[Json], model: str) -> str:
    """Return the charts of a training log: losses, gradient norms and learning rates."""
    curves = Section("curves", "Training", training_line(rows), training_curves(rows))
    return preview("6 · fine-tuning", f"{model} tuned with motion priors", _ABOUT, [curves])


def card(model: TunedModel) -> str:
    """Return in Markdown what a model was tuned from, on what, and how to open it; from its manifest alone."""
    base = model.provenance["sft"].models["vlm"]
    samples, videos = len(model.lines), len({line.video.id for line in model.lines})
    return document(
        "# Vision-language model tuned with motion priors",
        f"`sha256:{model.digest}`",
        f"Tuned from {text(base.name)} (`{base.digest}`) on {samples} samples of {videos} videos. The folder above "
        "opens with plain `from_pretrained`; this one holds the aligner, the training log, the samples and what "
        "`motion-enhancer import` needs.",
        decisions(model),
        left_out(model),
    )
