"""Parameters of the fine-tuning (method step 6), apart from the loop, so that a declaration imports no torch.

Defaults are the paper's recipe: full fine-tuning, AdamW, cosine with warm-up 0.03, one epoch, global batch 8.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.media.choices import Distance, RowNorm
from components.runtime.parameters import StepParams, operational
from components.vlm_attention.settings import View

AlignScale = Literal["none", "contrast"]
AlignerKind = Literal["local", "pointwise", "none"]


class Params(StepParams):
    """Parameters of the fine-tuning."""

    row_norm: RowNorm = Field("mean1", description="normalization of both sides' rows")
    distance: Distance = Field("mse", description="distance of the normalized maps (eq. 20, eq. 24, Algorithm 1)")
    align_scale: AlignScale = Field(
        "none", description="`contrast`: λ divided by the variance of the normalized priors"
    )
    contrast_samples: int = Field(
        512, ge=1, description="samples that the priors' variance is taken over, smallest sha256(id) first"
    )
    gate: Literal["none", "confidence"] = Field(
        "none", description="weight of a sample's alignment loss (supplement §4.1)"
    )
    prior_control: Literal["none", "shuffled", "uniform", "frame_difference"] = Field(
        "none", description="map in the prior's place"
    )
    aligner: AlignerKind = Field("local", description="bounded 3-layer MLP between the VLM's map and the loss (§3.4)")
    tuning: Literal["full", "lora"] = Field(
        "full", description="all weights, or low-rank updates of the LLM's attention"
    )
    lora_rank: int = Field(16, ge=1, le=1024, description="rank of the low-rank updates")

    lr_vision: float = Field(2e-6, ge=0, description="learning rate of the vision tower")
    lr_llm: float = Field(1e-5, ge=0, description="learning rate of merger and LLM")
    aligner_lr: float = Field(1e-4, ge=0, description="learning rate of the aligner")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's weight decay; none on norms and biases")
    warmup: float = Field(0.03, ge=0, le=1, description="share of the steps in which the learning rate rises")
    clip: float = Field(1.0, gt=0, description="largest norm of the whole gradient")
    global_batch: int = Field(8, ge=1, description="samples a step, over all processes")
    epochs: int = Field(1, ge=1, description="passes over the training samples")
    max_steps: int | None = Field(None, ge=1, description="steps instead of epochs")
    held_out: float = Field(0.02, ge=0, lt=1, description="share of the videos kept out for the validation loss")
    eval_every: int = Field(100, ge=1, description="steps between validation losses")
    norms_every: int = Field(50, ge=1, description="steps between measurements of both losses' gradient norms")

    gradient_checkpointing: bool = operational(
        True, description="recompute activations in the backward pass: less memory, more time"
    )
    save_every: int = operational(200, ge=1, description="steps between resume states (133 GB each for a 7B model)")
    keep_last: int = operational(1, ge=1, description="resume states kept while training")
    workers: int = operational(
        2, ge=0, description="processes that decode videos ahead on a GPU; a CPU run decodes in place"
    )


class SftSettings(View, Params):
    """What a training follows: its parameters, and the view that the token maps were made for."""
