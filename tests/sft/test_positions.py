"""The rule of positions from step 5's provenance into the training: the first loss is the plain model's own."""

import pytest
import torch

from components.core.artifacts import TunedModel, VlmMaps
from components.media.viewing import Viewing
from components.models.registry import ensure_tiny
from components.models.vlm.interface import conversation
from components.models.vlm.model import load_vlm
from components.pages.training_log import read_log
from components.sft.step import STEP
from components.store.entries import Store
from components.vlm_attention.step import STEP as VLM_ATTENTION
from tests.arithmetic import rounding
from tests.runner import published, run_step
from tests.vlm_attention import made

QWEN = "tiny-qwen2.5-vl"
VIEWING = {**made.VIEWING, "positions": "transformers"}


def plain_losses(store, lines):
    """Each sample's loss by the model's own forward, which finds the positions itself, and by ours under `qwen`."""
    vlm = load_vlm(ensure_tiny(QWEN), torch.float32, "cpu", rows=False)
    own, others = [], []
    for line in lines:
        example, seen = vlm.read(
            conversation(line.sample), line.video, store.fetch(line.video.file), Viewing(**made.VIEWING)
        )
        ids, labels = example.input_ids[None], example.labels[None]
        given = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids), **example.pixels}
        kinds = torch.where(ids == vlm.inputs.visual_id, 2, 0)
        times = torch.tensor([2 * line.video.duration / len(seen)])
        with torch.no_grad():
            own.append(float(vlm.model(**given, mm_token_type_ids=kinds, second_per_grid_ts=times).loss))
            others.append(float(vlm.model(**given, position_ids=example.position_ids[:, None]).loss))
    return sum(own) / len(own), sum(others) / len(others)


def test_the_first_loss_is_that_of_the_plain_model_without_positions(made_priors, tmp_path):
    folder, lines, priors = made_priors
    store = Store(str(folder / "store"))
    scalars = {"vlm": QWEN, "shard": "0/1"}
    maps = run_step(
        VLM_ATTENTION, tmp_path, store.uri, {"viewing": VIEWING}, scalars, {"priors": priors}, form="frozen"
    )
    assert len(published(maps, "maps", VlmMaps).lines) == len(lines)
    params = {"global_batch": len(lines), "max_steps": 1, "held_out": 0.0, "gradient_checkpointing": False}
    scalars = {"vlm": QWEN, "align_weight": 0.0, "seed": 0}
    tuned = run_step(STEP, tmp_path, store.uri, params, scalars, {"maps": [maps["maps"]]})
    rows = read_log(store.read(published(tuned, "model", TunedModel).log))
    first = next(row["ar"] for row in rows if "ar" in row)
    own, qwen = plain_losses(store, lines)
    close = rounding(256)
    assert first == pytest.approx(own, rel=close)
    assert abs(qwen - own) > 4 * close * own
