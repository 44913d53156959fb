"""What fine-tuning takes of local disk (scratch) and of the store while it trains: closed forms of parameter counts.

Counts come from the model's shapes, without its weights. The aligner's few numbers are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from components.core.records import Json, canonical_json, sha256
from components.models.registry import ResolvedModel
from components.runtime.context import Context
from components.runtime.parameters import StepParams
from components.sft.rates import Rates
from components.sft.settings import Params

GPUS = 8  # of a node, one process each, unless the parameters say otherwise
_FP32, _BF16 = 4, 2


@dataclass(frozen=True)
class Counts:
    """A model's parameters, those that are trained, and those of low-rank updates among them (no part of `all`).

    `rates` are its FLOPs by what passes it.
    """

    all: int
    trained: int
    adapters: int = 0
    rates: Rates | None = field(default=None, compare=False)

    @classmethod
    def read(cls, numbers: Json) -> Counts | None:
        """Return what an entry remembers; None where an older one has no rates."""
        given = numbers.get("rates")
        return None if given is None else cls(**{**numbers, "rates": Rates(**given)})


@dataclass(frozen=True)
class Disk:
    """Bytes that a fine-tuning takes.

    Attributes:
        state: a resume state, on its way to the store: weights and AdamW's two moments in fp32.
        best: the best weights, on their way to the store.
        model: the tuned model in bf16 and the adapters, which the first process writes.
        videos: downloads that lie there at a time.
        stored: what the store holds of states: those that are kept, the next one on its way, and an older one that the
            first process deletes when its part of the next is there.
    """

    state: int
    best: int
    model: int
    videos: int
    stored: int

    @property
    def scratch(self) -> int:
        """The most that lies on local disk: on one node, or of `state` and `best` over all nodes together."""
        return self.state + self.best + self.model + self.videos


def count(folder: Path, params: Params) -> Counts:
    """Return the counts of a model's folder as these parameters train it."""
    import torch

    from components.models.vlm.model import load_vlm
    from components.sft.flops import TrainingFlops
    from components.sft.module import freeze, is_adapter

    vlm = load_vlm(folder, torch.bfloat16, "cpu", rows=False, weights=False)
    if params.tuning == "lora":
        vlm.add_lora(params.lora_rank, params.lora_alpha, params.lora_dropout, params.lora_targets)
    else:
        freeze(vlm, params.train)
    sizes = {name: (one.numel(), one.requires_grad) for name, one in vlm.model.named_parameters()}
    adapters = sum(size for name, (size, _) in sizes.items() if is_adapter(name))
    trained = sum(size for size, learns in sizes.values() if learns)
    return Counts(sum(size for size, _ in sizes.values()) - adapters, trained, adapters, TrainingFlops(vlm).rates)


def disk(counts: Counts, params: Params, video_bytes: Sequence[int]) -> Disk:
    """Return what a training of these counts takes.

    Args:
        counts: the model's parameters.
        params: of the fine-tuning.
        video_bytes: sizes of the videos that are downloaded; none where the store is a folder.
    """
    weights = _FP32 * counts.trained
    state, best = 3 * weights, weights if params.keep == "best" else 0
    model = _BF16 * counts.all + _FP32 * counts.adapters
    readers = (params.processes or GPUS) * max(1, params.workers)
    videos = readers * max(video_bytes, default=0)
    return Disk(state, best, model, videos, (params.keep_last + 2) * state + 3 * best)


def counted(context: Context[StepParams, Any], model: ResolvedModel, params: Any) -> Counts:
    """Return the model's counts, remembered: the imports that build it take most of a plan's time."""
    settings = params.model_dump(mode="json", include={"tuning", "train", "lora_rank", "lora_targets"})
    reads: Json = {"model": model.id.digest, "params_sft": settings}
    key = sha256(canonical_json(reads))[:32]
    entry = context.store.entry("plan", key, miss_if_damaged=True)
    if entry is not None and (known := Counts.read(entry.numbers)) is not None:
        return known
    counts = count(model.path, params)
    context.work(key).finish(model.id.name, reads, asdict(counts))
    return counts
