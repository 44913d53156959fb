"""The step's page in the KFP UI, made anew in every run, and the card of an exported model; both need no torch."""

from __future__ import annotations

from collections.abc import Sequence

from components.core.artifacts import TunedModel
from components.core.records import Json
from components.media.viewing import Viewing
from components.models.vlm import families
from components.pages.leakage import leakage_line
from components.pages.markdown import bullets, decisions, document, left_out, table, text
from components.pages.page import Section, preview
from components.pages.training_log import training_curves, training_line

_ABOUT = (
    "L_AR is the loss of the response tokens, L_align the distance between the VLM's attention and the prior. "
    "Losses of the held-out share are dots."
)

_CLIPS = (4, 30, 120, 600)  # seconds
_RULES = {
    "qwen": "the largest of the video's three axes + 1, as Qwen's own code and vLLM have it",
    "transformers": "max(rows, columns) of a frame's cells however long the clip is, as transformers 5.18 has it",
}


def page(rows: Sequence[Json], model: str) -> str:
    """Return the charts of a training log: losses, gradient norms and learning rates."""
    curves = Section("curves", "Training", training_line(rows), training_curves(rows))
    return preview("6 · fine-tuning", f"{model} tuned with motion priors", _ABOUT, [curves])


def card(model: TunedModel) -> str:
    """Return in Markdown what a model was tuned from, on what, and how to open it; from its manifest alone."""
    base = model.provenance["sft"].models["vlm"]
    samples, videos = model.samples or len(model.lines), model.videos or model.lines.videos
    return document(
        "# Vision-language model tuned with motion priors",
        f"`sha256:{model.digest}`",
        f"Tuned from {text(base.name)} (`{base.digest}`) on {samples} samples of {videos} videos. The folder above "
        "opens with plain `from_pretrained`; this one holds the aligner, the training log and what "
        "`motion-enhancer import` needs.",
        bullets(f"samples in the maps `sha256:{digest}`" for digest in model.maps),
        "## Leakage",
        leakage_line(model.leakage),
        _positions(Viewing.model_validate(model.provenance["vlm_attention"].params["viewing"])),
        left_out(model),
        decisions(model),
    )


def _positions(viewing: Viewing) -> str:
    """Return the rule that a model was trained under, and what another one changes."""
    other = next(rule for rule in _RULES if rule != viewing.positions)
    return document(
        "## Positions",
        f"Trained under the rule `{viewing.positions}`: text behind a video goes on at {_RULES[viewing.positions]}. "
        f"Under `{other}` it goes on at {_RULES[other]}, which are positions that this model was not trained for. "
        "transformers runs a model under `qwen` where it is given `position_ids`. Qwen3-VL's rules differ in the text: "
        "`transformers` has a start and an end around the whole clip. By how many positions the text lies "
        f"lower under `transformers` (fps {viewing.fps:g}, clips of 1280 × 720 pixels):",
        table(*position_gaps(viewing)),
    )


def position_gaps(viewing: Viewing) -> tuple[list[str], list[list[str]]]:
    """Return the head and rows of a table: by how many positions the rules differ behind clips of some lengths."""
    found = families()
    rows = [[f"{seconds} s", *(str(family.position_gap(viewing, seconds)) for family in found)] for seconds in _CLIPS]
    return ["clip", *(family.name for family in found)], rows
