"""A loaded vision-language model: a conversation about one video in; logits, attention rows or a greedy reply out.

Checkpoints are loaded by one path, without torchvision; what is particular comes from the family
(`components.models.vlm.interface`).

Legend: B samples, N tokens, S visual cells (t-major), L positions with logits, V vocabulary, R rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from components.core.errors import DataError, ParameterError
from components.core.records import Video
from components.media.grids import sampled_grid
from components.media.video import read_frames
from components.media.viewing import Viewing
from components.models.pretrained import load_part, load_tokenizer, load_weights, read_json
from components.models.vlm import families
from components.models.vlm.example import (
    IGNORED,
    Batch,
    Example,
    collate,
    refuse_control_tokens,
    render,
    response_labels,
)
from components.models.vlm.interface import Conversation, Inputs, VlmFamily
from components.models.vlm.rows import ROWS_ATTENTION, RowRequest, request_rows

_DEFAULT = Viewing.model_validate({})
_NOT_FOR_FORWARD = {"labels", "start", "video_columns", "video_mask"}


@dataclass(frozen=True)
class VlmOutput:
    """Logits, the tokens they predict (-100 where nothing is learned), and rows where they were requested.

    Rows are averaged over heads and layers.
    """

    logits_BLV: Float[Tensor, "B L V"]
    targets_BL: Int[Tensor, "B L"]
    rows_BRS: Float[Tensor, "B R S"] | None


@dataclass
class Vlm:
    """A loaded model; `model` may be wrapped (low-rank updates) and stays usable."""

    model: Any
    tokenizer: Any
    family: VlmFamily
    inputs: Inputs
    stops: frozenset[int]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        found: torch.device = next(self.model.parameters()).device
        return found

    def read(self, talk: Conversation, video: Video, path: Path, viewing: Viewing) -> tuple[Example, list[int]]:
        """Return the conversation about a video file as tensors, and the indices of the frames that the model sees."""
        indices = self.family.frames(viewing, video)
        times = [video.times[i] for i in indices]
        return self.prepare(talk, read_frames(path, indices), times, video.duration, viewing), indices

    def prepare(
        self,
        conversation: Conversation,
        frames: UInt8[np.ndarray, "n H W 3"],
        frame_times: Sequence[float],
        duration: float,
        viewing: Viewing = _DEFAULT,
    ) -> Example:
        """Return one conversation about one video as tensors.

        Args:
            conversation: its text must be free of the model's control tokens.
            frames: whole upright frames, RGB.
            frame_times: seconds of each frame.
            duration: seconds of the clip.
            viewing: the size of the frames, where the family lets it be chosen.

        Raises:
            DataError: control tokens in the text, not one time per frame, or more tokens than the model has positions.
            ParameterError: the chat template changes the text.
        """
        if len(frames) != len(frame_times) or not len(frames):
            problem = f"{len(frames)} frames, {len(frame_times)} times"
            raise DataError(problem, source="prepare", remedy="give one time for every frame")
        inputs, tokenizer = self.inputs, self.tokenizer
        refuse_control_tokens(conversation, tokenizer, inputs.placeholder)
        seen = inputs.see(frames, viewing)
        text, spans = render(conversation, tokenizer, inputs.placeholder, seen.text)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        input_ids_N, offsets_N2 = torch.tensor(encoded["input_ids"]), torch.tensor(encoded["offset_mapping"])
        if len(input_ids_N) > (most := self.model.config.get_text_config().max_position_embeddings):
            problem = f"{len(input_ids_N)} tokens, the model has {most} positions"
            remedy = "take fewer or smaller frames, or shorten the text"
            raise DataError(problem, source="the conversation", remedy=remedy)
        _, rows, cols = seen.shape
        return Example(
            input_ids=input_ids_N,
            position_ids=inputs.positions(input_ids_N, seen.shape, inputs.group * duration / len(frames)),
            labels=response_labels(input_ids_N, offsets_N2, spans.get("response"), tokenizer, self.family.end_of_turn),
            pixels=seen.pixels,
            video_columns=torch.nonzero(input_ids_N == inputs.visual_id).flatten(),
            grid=sampled_grid(frame_times, inputs.group, rows, cols, duration),
            offsets=offsets_N2,
            text=text,
            spans=spans,
        )

    def forward(self, batch: Batch, row_request: RowRequest | None = None, all_logits: bool = False) -> VlmOutput:
        """Return one teacher-forced pass.

        Args:
            batch: from `collate`.
            row_request: attention rows to capture; needs a model loaded with `rows=True`.
            all_logits: logits at every position; otherwise only where a label is predicted (the last position without
                labels), as a full set would be 10 GB for 16k tokens.

        Raises:
            ParameterError: rows under reentrant gradient checkpointing, whose gradient would be lost without a word.
        """
        labels_BN = batch["labels"].to(self.device)
        at_L = _predicting(labels_BN, all_logits)
        extra: dict[str, Any] = {}
        if row_request is not None:
            _refuse_reentrant(self.model)
            extra = {"output_attentions": True, "row_request": row_request}
        out = self.model(**self.arguments(batch), use_cache=False, logits_to_keep=at_L, **extra)
        shifted_BN = nn.functional.pad(labels_BN[:, 1:], (0, 1), value=IGNORED)
        rows_BRS = None if row_request is None else self._mean_over_layers(out.attentions)
        return VlmOutput(out.logits, shifted_BN[:, at_L], rows_BRS)

    def vision_rows(
        self, batch: Batch, rows: Sequence[Int[Tensor, " _"]], heads_chunk: int | None = None
    ) -> Float[Tensor, "B R S"]:
        """Return A_VLM of each sample's rows: fp32, differentiable, 0 where a shorter sample has no row or cell.

        Raises:
            DataError: as `request_rows`.
            ParameterError: reentrant gradient checkpointing.
        """
        found = self.forward(batch, request_rows(batch, rows, heads_chunk)).rows_BRS
        assert found is not None
        return found

    @torch.inference_mode()
    def generate(self, example: Example, max_new_tokens: int = 256) -> str:
        """Return the greedy reply to a conversation without response: the likeliest token until the turn ends."""
        training = self.model.training
        self.model.eval()  # checkpointing in training mode would drop the cache
        batch = collate([example])
        inputs, mask_1N = self.arguments(batch), batch["attention_mask"].to(self.device)
        next_position = int(example.position_ids.max()) + 1
        reply: list[int] = []
        out = self.model(**inputs, use_cache=True, logits_to_keep=1)
        while len(reply) < max_new_tokens and (token := int(out.logits[0, -1].argmax())) not in self.stops:
            reply.append(token)
            mask_1N = nn.functional.pad(mask_1N, (0, 1), value=1)
            position = torch.full((*inputs["position_ids"].shape[:-1], 1), next_position, device=self.device)
            next_position += 1
            out = self.model(
                input_ids=torch.tensor([[token]], device=self.device),
                attention_mask=mask_1N,
                position_ids=position,
                past_key_values=out.past_key_values,
                use_cache=True,
            )
        self.model.train(training)
        decoded: str = self.tokenizer.decode(reply, skip_special_tokens=True)
        return decoded

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return trainable parameters by the recipe's learning rates: `vision` (the tower), `llm` (all else)."""
        groups: dict[str, list[nn.Parameter]] = {"vision": [], "llm": []}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                groups["vision" if re.search(self.family.tower, name) else "llm"].append(parameter)
        return groups

    def arguments(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the model's own forward takes of a batch; a single axis of positions stands without the axis."""
        inputs = {name: values.to(self.device) for name, values in batch.items() if name not in _NOT_FOR_FORWARD}
        if len(inputs["position_ids"]) == 1:
            inputs["position_ids"] = inputs["position_ids"][0]
        return inputs

    def _mean_over_layers(self, layers: Sequence[Tensor] | None) -> Float[Tensor, "B R S"]:
        expected = self.model.config.get_text_config().num_hidden_layers
        if layers is None or len(layers) != expected:
            raise RuntimeError(
                f"rows of {len(layers or ())} layers instead of {expected}: load the model with rows=True"
            )
        return torch.stack(list(layers)).mean(0)


def load_vlm(folder: Path, dtype: torch.dtype, device: torch.device | str, rows: bool = True) -> Vlm:
    """Load a checkpoint's folder in evaluation mode.

    Args:
        folder: configuration, safetensors, tokenizer with chat template, and the processor files.
        dtype: of the weights.
        device: where to put them.
        rows: whether attention rows can be requested.

    Raises:
        ParameterError: not a folder of a supported model.
        DataError: a file is missing, cannot be read or has no safetensors, or tensors, the vocabulary or the chat
            template are missing.
    """
    folder = Path(folder)
    family = _family(folder)
    family.register()
    config = load_part(AutoConfig, folder)
    tokenizer = load_tokenizer(AutoTokenizer, folder)
    if tokenizer.chat_template is None:
        raise DataError("the tokenizer has no chat template", source=str(folder), remedy="fetch the checkpoint again")
    inputs = family.inputs(config, tokenizer, folder)
    read_json(folder / "generation_config.json")  # transformers passes over one that it cannot read
    options: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": ROWS_ATTENTION if rows else "sdpa",
        "ignore_mismatched_sizes": True,
    }
    model = load_weights(AutoModelForImageTextToText, folder, **options)
    stops = model.generation_config.eos_token_id
    named = stops if isinstance(stops, list) else [] if stops is None else [stops]
    end = tokenizer.convert_tokens_to_ids(family.end_of_turn)
    return Vlm(model.to(device).eval(), tokenizer, family, inputs, frozenset([*named, end]))


def open_vlm(folder: Path, rows: bool) -> Vlm:
    """Load a model for inference: bf16 on a GPU, fp32 in one thread on a CPU, so that sums come out the same."""
    if torch.cuda.is_available():
        return load_vlm(folder, torch.bfloat16, "cuda", rows=rows)
    torch.set_num_threads(1)
    return load_vlm(folder, torch.float32, "cpu", rows=rows)


def _family(folder: Path) -> VlmFamily:
    """By the configuration's own word, before transformers would offer to run a checkpoint's own code."""
    config = read_json(folder / "config.json")
    if config is None:
        remedy = "give a folder that transformers' from_pretrained opens"
        raise ParameterError(f"no config.json in {folder}", source="vlm", remedy=remedy)
    known = {model_type: family for family in families() for model_type in family.model_types}
    if (model_type := str(config.get("model_type"))) not in known:
        remedy = f"use one of {', '.join(known)}, in the form of transformers (InternVL3's repository ends in -hf)"
        raise ParameterError(f"model_type {model_type!r}", source=str(folder), remedy=remedy)
    return known[model_type]


def _predicting(labels_BN: Int[Tensor, "B N"], everywhere: bool) -> Int[Tensor, " L"]:
    """Return the positions whose logits are wanted: those before a label of any sample."""
    count = labels_BN.shape[1]
    if everywhere:
        return torch.arange(count, device=labels_BN.device)
    at_L = torch.nonzero((labels_BN[:, 1:] != IGNORED).any(0)).flatten()
    return at_L if len(at_L) else torch.tensor([count - 1], device=labels_BN.device)


def _refuse_reentrant(model: nn.Module) -> None:
    """Reentrant checkpointing runs the forward pass without gradients, so captured rows would carry none."""
    for module in model.modules():
        if module.training and getattr(module, "gradient_checkpointing", False):
            function = getattr(module, "_gradient_checkpointing_func", None)
            if getattr(function, "keywords", {}).get("use_reentrant", True):
                raise ParameterError(
                    "attention rows under reentrant gradient checkpointing",
                    source="the model",
                    remedy="enable it with gradient_checkpointing_kwargs={'use_reentrant': False}",
                )
