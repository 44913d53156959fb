"""The tiny Qwen2.5-VL of `bench.align`, its training with and without alignment, and its evaluation.

The real class with random weights: 3 layers, width 64, 4 query and 2 key-value heads, a vision tower without blocks
(patch embedding and merger), 143 000 parameters. Its initialization has deviation 0.1: at the usual 0.02 so narrow a
model waits on a saddle for most of the training, and one seed means nothing. The losses are the fine-tuning's own, the
rows those of `vlm_attention`.

Legend: N scenes, B samples, R rows, F h w the grid of cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from bench.align_data import ANSWERS, GRID, IDS, INPUTS, ROLES, SIZE, Scenes
from components.media.map_algebra import map_distance
from components.models.vlm.example import Batch
from components.models.vlm.model import Vlm
from components.models.vlm.qwen2_5_vl import FAMILY
from components.models.vlm.rows import ROWS_ATTENTION, request_rows
from components.quality.measures import weighted_auc
from components.sft.loss import response_loss

STEPS, BATCH, LEARNING_RATE, WARMUP = 400, 16, 2e-3, 0.1
BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.98), 0.01, 1.0
_EVALUATED = 64  # scenes at a time


class Losses(NamedTuple):
    """Of one update, before it."""

    ar: float
    align: float


class Evaluation(NamedTuple):
    """Which answers were right, the mean map of the question's words, and that of the row that predicts the answer."""

    right_N: Tensor
    question_NFhw: Float[Tensor, "N F h w"]
    last_NFhw: Float[Tensor, "N F h w"]

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.right_N.float().mean())


def make_model(seed: int) -> Vlm:
    """Return a freshly initialized model; the global generator is left alone."""
    text: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": True,
    }
    vision: dict[str, Any] = {
        "depth": 0,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "patch_size": INPUTS.patch,
        "spatial_merge_size": INPUTS.merge,
        "temporal_patch_size": INPUTS.group,
        "tokens_per_second": INPUTS.tokens_per_second,
        "out_hidden_size": text["hidden_size"],
        "window_size": SIZE[0] + 8,
        "fullatt_block_indexes": [],
    }
    tokens = {f"{role}_token_id": IDS[word] for role, word in ROLES.items()} | {"bos_token_id": IDS[ROLES["eos"]]}
    text |= {f"{role}_token_id": tokens[f"{role}_token_id"] for role in ("bos", "eos", "pad")}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **tokens)
    for part in (config, config.text_config, config.vision_config):
        part.initializer_range = 0.1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.set_attn_implementation({"text_config": ROWS_ATTENTION, "vision_config": "sdpa"})
    reading = {"tokenizer": None, "family": FAMILY, "inputs": INPUTS, "images": None}
    return Vlm(**reading, max_tokens=config.text_config.max_position_embeddings, model=model, stops=frozenset())


def train(
    vlm: Vlm,
    scenes: Scenes,
    seed: int,
    prior_NFhw: Float[Tensor, "N F h w"] | None = None,
    weight: float = 0.0,
    steps: int = STEPS,
) -> Iterator[Losses]:
    """Train and yield each update's losses; nothing happens unless iterated.

    L_AR + λ · L_align with λ = `weight` where there is a prior.
    All words of the question are aligned with the same map. The order of the scenes follows from the seed alone.
    """
    vlm.model.train()
    optimizer = _optimizer(vlm.model)
    order, rng = list[int](), np.random.default_rng(seed + 5)
    request = None
    if prior_NFhw is not None:  # the same in every batch: all sequences have one form
        request = request_rows(pick(scenes.batch, torch.arange(BATCH)), [scenes.question_rows_R] * BATCH)
    for step in range(steps):
        while len(order) < BATCH:
            order += rng.permutation(len(scenes.clips)).tolist()
        picked, order = order[:BATCH], order[BATCH:]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        batch = pick(scenes.batch, torch.tensor(picked))
        output = vlm.forward(batch, request)
        ar = loss = response_loss(output.logits_BLV, output.targets_BL)
        align = torch.zeros(())
        if prior_NFhw is not None:
            assert output.rows_BRS is not None
            align = batch_distance(output.rows_BRS, prior_NFhw[picked])
            loss = ar + weight * align
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(vlm.model.parameters(), CLIP)
        optimizer.step()
        yield Losses(ar.item(), align.item())


def learning_rate(step: int, steps: int) -> float:
    """Return the rate of update `step` (0 … steps − 1): a cosine to 0 with a linear warm-up over the first tenth."""
    return LEARNING_RATE * min(1.0, (step + 1) / (WARMUP * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def batch_distance(rows_BRS: Float[Tensor, "B R S"], prior_BFhw: Float[Tensor, "B F h w"]) -> Float[Tensor, ""]:
    """Return L_align of a batch: each sample's rows against its one map. All samples have equally many rows."""
    count, rows, _ = rows_BRS.shape
    return map_distance(
        rows_BRS.reshape(count * rows, *prior_BFhw.shape[1:]), prior_BFhw.repeat_interleave(rows, dim=0)
    )


def pick(batch: Batch, index_B: Tensor) -> Batch:
    """Pick some scenes of a whole set's batch, their clips joined in time.

    Without blocks the vision tower sees every patch alone: for it, many clips are one long clip, and that is quicker.
    """
    count, (frames, height, width) = len(batch["input_ids"]), GRID.shape
    pixels_NPc = batch["pixel_values_videos"].unflatten(0, (count, -1))
    picked = {name: values[index_B] for name, values in batch.items() if len(values) == count}
    return picked | {
        "position_ids": batch["position_ids"][:, index_B],
        "pixel_values_videos": pixels_NPc[index_B].flatten(0, 1),
        "video_grid_thw": torch.tensor([[frames * len(index_B), height * INPUTS.merge, width * INPUTS.merge]]),
    }


@torch.no_grad()
def evaluate(vlm: Vlm, scenes: Scenes, count: int | None = None) -> Evaluation:
    """Compare the likeliest of the six colours with the mover's, and read the maps, over the first `count` scenes."""
    vlm.model.eval()
    rows_R = torch.cat([scenes.question_rows_R, torch.tensor([scenes.answer_at - 1])])
    right, maps = [], []
    for index_B in torch.arange(len(scenes.clips))[:count].split(_EVALUATED):
        batch = pick(scenes.batch, index_B)
        output = vlm.forward(batch, request_rows(batch, [rows_R] * len(index_B)))
        assert output.rows_BRS is not None
        chosen_B = torch.tensor(ANSWERS)[output.logits_BLV[:, 0, ANSWERS].argmax(-1)]
        right.append(chosen_B == output.targets_BL[:, 0])
        maps.append(output.rows_BRS)
    vlm.model.train()
    maps_NRFhw = torch.cat(maps).unflatten(-1, GRID.shape)
    return Evaluation(torch.cat(right), maps_NRFhw[:, :-1].mean(1), maps_NRFhw[:, -1])


def object_auc(maps_NFhw: Float[Tensor, "N F h w"], scenes: Scenes) -> float:
    """Return the mean AUC_obj over scenes: how often the map is higher on the mover than on what stands."""
    triples = zip(maps_NFhw.numpy(), scenes.mover_NFhw.numpy(), scenes.static_NFhw.numpy(), strict=True)
    found = [weighted_auc(*triple) for triple in triples]
    return float(np.mean([value for value in found if value is not None]))


def _optimizer(model: nn.Module) -> torch.optim.AdamW:
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    vectors = [weight for weight in model.parameters() if weight.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=True)
