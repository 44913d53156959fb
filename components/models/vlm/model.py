"""A loaded vision-language model: a conversation about one video in; logits, attention rows or a greedy reply out.

A model is a reader (`reader.py`) with weights. Checkpoints are loaded by one path, without torchvision; what is
particular comes from the family. A model can be tuned by low-rank updates, and is written as a folder that plain
`from_pretrained` opens.

Legend: B samples, N tokens, C of them shared, S visual cells (t-major), L positions with logits, V vocabulary, R rows,
P axes of positions.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText

from components.core.errors import ParameterError
from components.models.pretrained import load_part, load_weights, read_json
from components.models.vlm.example import IGNORED, Batch, Example, Layout
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


@dataclass(frozen=True)
class Prefix:
    """What all conversations about one clip begin with, read by the model: everything up to the last visual cell.

    `cache` has the keys and values of all layers; without a clip there is neither.
    """

    input_ids: Int[Tensor, " C"]
    position_ids: Int[Tensor, "P C"]
    cache: Any


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
        return self.replies([example], self.prefix(example, example.pixels), max_new_tokens)[0]

    @torch.inference_mode()
    def prefix(self, layout: Layout, pixels: dict[str, Tensor]) -> Prefix:
        """Read what a conversation has in common with every other one about its clip (and with its system prompt)."""
        count = _shared(layout)
        ids_C, positions_PC = layout.input_ids[:count], layout.position_ids[:, :count]
        if not count:
            return Prefix(ids_C, positions_PC, None)
        given = {"input_ids": ids_C[None], "attention_mask": torch.ones_like(ids_C)[None], **pixels}
        with _evaluating(self.model):
            out = self._continued(None, {**given, "position_ids": positions_PC[:, None]})
        return Prefix(ids_C, positions_PC, out.past_key_values)

    @torch.inference_mode()
    def replies(self, layouts: Sequence[Layout], prefix: Prefix, max_new_tokens: int = 256) -> list[str]:
        """Return the greedy replies to conversations that begin with `prefix`, decoded together.

        One alone gives the same bits whatever was asked before; several are padded, which changes sums in the last one.

        Raises:
            ValueError: a conversation begins otherwise.
        """
        count = len(prefix.input_ids)
        for one in layouts:
            ids_C, positions_PC = one.input_ids[:count], one.position_ids[:, :count]
            same = torch.equal(ids_C, prefix.input_ids) and torch.equal(positions_PC, prefix.position_ids)
            if not same or _shared(one) != count:
                raise ValueError("a conversation that does not begin with the prefix")
        ids_BN = _left_padded([one.input_ids[count:] for one in layouts])
        read_BN = _left_padded([torch.ones_like(one.input_ids[count:]) for one in layouts])
        mask_BN = nn.functional.pad(read_BN, (count, 0), value=1)
        positions_PBN = _left_padded([one.position_ids[:, count:] for one in layouts])
        written: list[list[int]] = [[] for _ in layouts]
        going, cache = set(range(len(layouts))), _forked(prefix.cache, len(layouts))
        with _evaluating(self.model):
            while going:
                state = {"input_ids": ids_BN, "attention_mask": mask_BN, "position_ids": positions_PBN}
                out = self._continued(cache, state)
                tokens_B = out.logits[:, -1].argmax(-1).cpu()
                for row in list(going):
                    if (token := int(tokens_B[row])) not in self.stops:
                        written[row].append(token)
                    if token in self.stops or len(written[row]) == max_new_tokens:
                        going.remove(row)
                # of the text, as in training: a long video's positions may be larger
                cache, ids_BN, positions_PBN = out.past_key_values, tokens_B[:, None], positions_PBN[..., -1:] + 1
                mask_BN = nn.functional.pad(mask_BN, (0, 1), value=1)
        return [str(self.tokenizer.decode(reply, skip_special_tokens=True)) for reply in written]

    def _continued(self, cache: Any, batch: Batch) -> Any:
        """Return the model's output for the tokens behind those of `cache`: the last logits and the longer cache."""
        return self.model(**self.arguments(batch), past_key_values=cache, use_cache=True, logits_to_keep=1)

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


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Checkpointing in training mode would drop the cache."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _shared(layout: Layout) -> int:
    """Return how many tokens a conversation shares with others about its clip: up to the last visual cell."""
    return int(layout.video_columns.max()) + 1 if len(layout.video_columns) else 0


def _left_padded(values: Sequence[Tensor]) -> Tensor:
    """Return one tensor of several that differ in length: [B, N], of [P, n] each [P, B, N]."""
    longest = max(one.shape[-1] for one in values)
    return torch.stack([nn.functional.pad(one, (longest - one.shape[-1], 0)) for one in values], dim=-2)


def _forked(cache: Any, count: int) -> Any:
    """Return a cache for `count` sequences that go on from this one: as a layer grows it replaces its tensors."""
    if cache is None:
        return None
    forked = copy(cache)
    forked.layers = [copy(layer) for layer in cache.layers]
    if count > 1:
        forked.batch_repeat_interleave(count)
    return forked


def _refuse_reentrant(model: nn.Module) -> None:
    """Reentrant checkpointing runs the forward pass without gradients, so captured rows would carry none."""
    for module in model.modules():
        if module.training and getattr(module, "gradient_checkpointing", False):
            function = getattr(module, "_gradient_checkpointing_func", None)
            if getattr(function, "keywords", {}).get("use_reentrant", True):
                problem = "attention rows under reentrant gradient checkpointing"
                remedy = "enable it with gradient_checkpointing_kwargs={'use_reentrant': False}"
                raise ParameterError(problem, source="the model", remedy=remedy)
