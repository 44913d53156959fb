"""The card of an exported tuned model: what it was tuned from, on what, and how to open it; from the manifest alone."""

from __future__ import annotations

from components.core.artifacts import TunedModel
from components.pages.cards import decisions, left_out
from components.pages.markdown import document, text


def card(model: TunedModel) -> str:
    """Return the model's card in Markdown."""
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
