"""A loaded vision-language model: a conversation about one video in; logits, attention rows or a greedy reply out.

A model is a reader (`reader.py`) with weights. Checkpoints are loaded by one path, without torchvision; what is
particular comes from the family. A model can be tuned by low-rank updates, and is written as a folder that plain
`from_pretrained` opens.

Legend: B samples, N tokens, S visual cells (t-major), L positions with logits, V vocabulary, R rows.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText

from components.core.errors import ParameterError
from components.models.pretrained import load_part, load_weights, read_json
from components.models.vlm.example import IGNORED, Batch, Example, collate
from components.models.vlm.interface import VlmPart
from components.models.vlm.reader import Reader, open_reader
from components.models.vlm.rows import ROWS_ATTENTION, RowRequest, request_rows
from components.store.model_files import without_code

_KEPT = {".json", ".jinja", ".txt", ".model"}  # what a checkpoint's folder holds beside its weights
_SHARD = "2GB"  # a stored file passes through memory
_NOT_FOR_FORWARD = {"labels", "start", "video_columns", "video_mask"}


@dataclass(frozen=True)
class VlmOutput:
    """Logits, the tokens they predict (-100: nothing to learn), and rows where requested, means of heads and layers."""

    logits_BLV: Float[Tensor, "B L V"]
    targets_BL: Int[Tensor, "B L"]
    rows_BRS: Float[Tensor, "B R S"] | None


@dataclass
class Vlm(Reader):
    """A loaded model; `model` may be wrapped (low-rank updates) and stays usable. A reply ends at one of `stops`."""

    model: Any
    stops: frozenset[int]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(next(self.model.parameters()).device)

    def forward(self, batch: Batch, row_request: RowRequest | None = None, all_logits: bool = False) -> VlmOutput:
        """Return one teacher-forced pass; rows need a model loaded with `rows=True`.

        Logits are those where a label is predicted (the last position without labels), as a full set (`all_logits`)
        would be 10 GB for 16k tokens.

        Raises:
            ParameterError: rows under reentrant gradient checkpointing, whose gradient would be lost without a word.
        """
        labels_BN = batch["labels"].to(self.device)
        targets_BN = nn.functional.pad(labels_BN[:, 1:], (0, 1), value=IGNORED)
        predicted_N = torch.ones_like(labels_BN[0]) if all_logits else (targets_BN != IGNORED).any(0)
        predicted_N[-1] |= not predicted_N.any()
        at_L = torch.nonzero(predicted_N).flatten()
        extra: dict[str, Any] = {}
        if row_request is not None:
            _refuse_reentrant(self.model)
            extra = {"output_attentions": True, "row_request": row_request}
        out = self.model(**self.arguments(batch), use_cache=False, logits_to_keep=at_L, **extra)
        if row_request is None:
            return VlmOutput(out.logits, targets_BN[:, at_L], None)
        expected, layers = self.model.config.get_text_config().num_hidden_layers, out.attentions or ()
        if len(layers) != expected:
            raise RuntimeError(f"rows of {len(layers)} layers instead of {expected}: load the model with rows=True")
        return VlmOutput(out.logits, targets_BN[:, at_L], torch.stack(layers).mean(0))

    def vision_rows(
        self, batch: Batch, rows: Sequence[Int[Tensor, " _"]], heads_chunk: int | None = None
    ) -> Float[Tensor, "B R S"]:
        """Return A_VLM of each sample's rows: fp32, differentiable, 0 where a shorter sample has no row or cell."""
        found = self.forward(batch, request_rows(batch, rows, heads_chunk)).rows_BRS
        assert found is not None
        return found

    @torch.inference_mode()
    def generate(self, example: Example, max_new_tokens: int = 256) -> str:
        """Return the greedy reply to a conversation without response: the likeliest token until the turn ends."""
        training = self.model.training
        self.model.eval()  # checkpointing in training mode would drop the cache
        batch = collate([example])
        inputs = self.arguments(batch)
        last_position = inputs["position_ids"][..., -1:]  # of the text, as in training: a long video's may be larger
        reply: list[int] = []
        out = self.model(**inputs, use_cache=True, logits_to_keep=1)
        while len(reply) < max_new_tokens and (token := int(out.logits[0, -1].argmax())) not in self.stops:
            reply.append(token)
            following = {"input_ids": torch.tensor([[token]], device=self.device)}
            following["position_ids"] = last_position + len(reply)
            following["attention_mask"] = nn.functional.pad(inputs["attention_mask"], (0, len(reply)), value=1)
            out = self.model(**following, past_key_values=out.past_key_values, use_cache=True)
        self.model.train(training)
        return str(self.tokenizer.decode(reply, skip_special_tokens=True))

    def part(self, name: str) -> VlmPart:
        """Return which part of the model a parameter belongs to, by its name."""
        if re.search(self.family.tower, name):
            return "vision"
        return "merger" if re.search(self.family.merger, name) else "llm"

    def arguments(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the model's own forward takes of a batch; a single axis of positions stands without the axis."""
        inputs = {name: values.to(self.device) for name, values in batch.items() if name not in _NOT_FOR_FORWARD}
        if len(inputs["position_ids"]) == 1:
            inputs["position_ids"] = inputs["position_ids"][0]
        return inputs

    def add_lora(self, rank: int, alpha: float, dropout: float, targets: Sequence[str]) -> None:
        """Train low-rank updates of the language model's layers called `targets` only; everything else is frozen.

        Raises:
            ParameterError: the language model has no layer of such a name.
        """
        from peft import LoraConfig, get_peft_model

        pattern = rf".*(?:{self.family.language}).*\.(?:{'|'.join(map(re.escape, targets))})"
        linear = [name for name, part in self.model.named_modules() if isinstance(part, nn.Linear)]
        known = {name.rsplit(".", 1)[-1] for name in linear if re.search(self.family.language, name)}
        if missing := sorted(set(targets) - known):
            remedy = f"choose of {', '.join(sorted(known))}"
            raise ParameterError(f"lora_targets {missing}: no such layer", source="params_sft", remedy=remedy)
        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=pattern)
        self.model = get_peft_model(self.model, config)

    def save(self, weights: dict[str, Tensor], source: Path, folder: Path, dtype: torch.dtype) -> None:
        """Write `weights` as a folder that plain `from_pretrained` opens, with the tokenizer's files of `source`.

        Classes of its own that a configuration of `source` names (`auto_map`) were not run, and are not named again.
        """
        folder.mkdir(parents=True)
        for file in sorted(source.iterdir()):
            if file.is_file() and file.suffix in _KEPT and not file.name.endswith(".index.json"):
                shutil.copyfile(file, folder / file.name)
        self.model.config.dtype = dtype
        self.model.save_pretrained(folder, state_dict=weights, max_shard_size=_SHARD)
        for file in folder.glob("*config*.json"):
            found = json.loads(file.read_text(encoding="utf-8"))
            if (kept := without_code(found)) != found:
                file.write_text(json.dumps(kept, indent=2, ensure_ascii=False), encoding="utf-8")


def load_vlm(
    folder: Path, dtype: torch.dtype, device: torch.device | str, rows: bool = True, weights: bool = True
) -> Vlm:
    """Load a folder with configuration, safetensors, tokenizer with chat template, and processor files, for evaluation.

    `rows`: whether attention rows can be requested. Without `weights` the model's parameters and buffers have shapes
    and no data (they are on the meta device).

    Raises:
        ParameterError: not a folder of a supported model.
        DataError: as `open_reader`, or there are no safetensors, or tensors are missing.
    """
    reader = open_reader(folder)
    read_json(folder / "generation_config.json")  # transformers passes over one that it cannot read
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": ROWS_ATTENTION if rows else "sdpa"}
    if weights:
        model = load_weights(AutoModelForImageTextToText, folder, ignore_mismatched_sizes=True, **options).to(device)
    else:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(load_part(AutoConfig, folder), **options)
    named = model.generation_config.eos_token_id
    end = reader.tokenizer.convert_tokens_to_ids(reader.family.end_of_turn)
    stops = frozenset({end, *(named if isinstance(named, list) else [named])} - {None})
    return Vlm(**vars(reader), model=model.eval(), stops=stops)


def open_vlm(folder: Path, rows: bool) -> Vlm:
    """Load a model for inference: bf16 on a GPU, fp32 in one thread on a CPU, so that sums come out the same."""
    if torch.cuda.is_available():
        return load_vlm(folder, torch.bfloat16, "cuda", rows=rows)
    torch.set_num_threads(1)
    return load_vlm(folder, torch.float32, "cpu", rows=rows)


def _refuse_reentrant(model: nn.Module) -> None:
    """Reentrant checkpointing runs the forward pass without gradients, so captured rows would carry none."""
    for module in model.modules():
        if module.training and getattr(module, "gradient_checkpointing", False):
            function = getattr(module, "_gradient_checkpointing_func", None)
            if getattr(function, "keywords", {}).get("use_reentrant", True):
                problem = "attention rows under reentrant gradient checkpointing"
                remedy = "enable it with gradient_checkpointing_kwargs={'use_reentrant': False}"
                raise ParameterError(problem, source="the model", remedy=remedy)
