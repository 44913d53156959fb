"""Parameters of the fine-tuning (method step 6), apart from the loop, so that a declaration imports no torch.

Defaults are the paper's recipe: full fine-tuning, AdamW, cosine with warm-up 0.03, one epoch, global batch 8.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.media.choices import Distance, RowNorm
from components.models.vlm.interface import VlmPart
from components.runtime.parameters import StepParams, operational
from components.vlm_attention.settings import View

Tracker = Literal["none", "wandb", "mlflow"]
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
    tuning: Literal["full", "lora"] = Field("full", description="all weights, or low-rank updates of the LLM's layers")
    train: list[VlmPart] = Field(
        ["vision", "merger", "llm"], min_length=1, description="parts that `full` trains; the others are frozen"
    )
    lora_rank: int = Field(16, ge=1, le=1024, description="rank of the low-rank updates")
    lora_alpha: float = Field(32.0, gt=0, description="the low-rank updates count alpha / rank times")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the low-rank updates")
    lora_targets: list[str] = Field(
        ["q_proj", "k_proj", "v_proj", "o_proj"], min_length=1, description="layers of the LLM that `lora` updates"
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="of forward and backward pass: bf16 on GPUs, fp32 on a CPU, or as named; weights stay fp32"
    )
    max_tokens: int | None = Field(
        None, ge=1, description="samples of more tokens (video included) are left out of training, and listed"
    )

    lr_vision: float = Field(2e-6, ge=0, description="learning rate of the vision tower")
    lr_llm: float = Field(1e-5, ge=0, description="learning rate of merger and LLM")
    lora_lr: float = Field(1e-4, ge=0, description="learning rate of low-rank updates")
    aligner_lr: float = Field(1e-4, ge=0, description="learning rate of the aligner")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's weight decay; none on norms and biases")
    warmup: float = Field(0.03, ge=0, le=1, description="share of the steps in which the learning rate rises")
    clip: float = Field(1.0, gt=0, description="largest norm of the whole gradient")
    not_finite: Literal["stop", "skip"] = Field(
        "stop", description="what an update does whose gradient holds NaN or infinity: end the training, or be left out"
    )
    global_batch: int = Field(8, ge=1, description="samples a step, over all processes")
    epochs: int = Field(1, ge=1, description="passes over the training samples, each as often as its weight says")
    max_steps: int | None = Field(None, ge=1, description="steps instead of epochs")
    held_out: float = Field(0.02, ge=0, lt=1, description="share of the videos kept out for the validation loss")
    eval_every: int = Field(100, ge=1, description="steps between validation losses")
    val_samples: int = Field(
        256, ge=1, description="samples that a validation loss is taken over, smallest sha256(id) first"
    )
    keep: Literal["last", "best"] = Field(
        "last", description="weights that are kept: the last, or of the least val_loss"
    )
    patience: int | None = Field(None, ge=1, description="validations without a smaller val_loss that end the training")
    norms_every: int = Field(50, ge=1, description="steps between measurements of both losses' gradient norms")

    gradient_checkpointing: bool = operational(
        True, description="recompute activations in the backward pass: less memory, more time"
    )
    save_every: int = operational(
        200, ge=1, description="steps between resume states (12 bytes a trained parameter: 100 GB for a 7B model)"
    )
    keep_last: int = operational(1, ge=1, description="resume states kept while training")
    processes: int | None = operational(
        None, ge=1, description="training processes on a node; one per GPU (one without GPUs) if not given"
    )
    collective_timeout: float = operational(
        10.0, gt=0, description="minutes that a process waits for the others before it ends the training"
    )
    stop_grace: float = operational(
        25.0, gt=0, description="seconds from SIGTERM in which a state is saved before the processes are ended"
    )
    tracker: Tracker = operational(
        "none", description="shows the log beside TensorBoard; it reads its own environment variables"
    )
    peak_tflops: float | None = operational(
        None, gt=0, description="TFLOP/s of a device in bf16, for the model FLOPs utilization; by its name if not given"
    )
    workers: int = operational(
        2, ge=0, description="processes that decode videos ahead on a GPU; a CPU run decodes in place"
    )


class SftSettings(View, Params):
    """What a training follows: its parameters, and the view that the token maps were made for."""
