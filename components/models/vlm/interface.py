"""A vision-language model behind one interface: a conversation about one video in, logits, attention rows or a greedy reply out.

Qwen2.5-VL and InternVL3 (transformers form) are loaded by the same path, without torchvision: pixels and positions are
made in `vlm_family`, the chat text comes from the checkpoint's own template. The video stands first in the first user
turn, because under a causal mask only tokens after it can attend to it. Where a part of the conversation lies in the
rendered text is found by rendering it once more with a private-use character in its place, so repeated words or a
question called "user" confuse nothing.

Legend: B samples, N tokens, S visual cells (t-major), P axes of positions, L positions with logits, V vocabulary, R
rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from components.core.errors import DataError, ParameterError
from components.core.records import Grid
from components.media.grids import sampled_grid
from components.models.pretrained import load_part, load_tokenizer, load_weights, read_json
from components.models.vlm.families import MAX_PIXELS, Family, InternVL, Qwen, Seen

IGNORED = -100
ROWS_ATTENTION = "sdpa_rows"  # registered by components.vlm_attention.rows
END_OF_TURN = "<|im_end|>"
SENTINEL = "\ue000"
Field = Literal["question", "response"]
Batch = dict[str, Tensor]
_FORWARD = (
    "input_ids",
    "attention_mask",
    "position_ids",
    "pixel_values",
    "video_grid_thw",
)  # what the model itself takes
_FAMILIES: dict[str, type[Qwen] | type[InternVL]] = {"qwen2_5_vl": Qwen, "internvl": InternVL}


@dataclass(frozen=True)
class Conversation:
    """Earlier (question, response) turns, the question with its options rendered, and the response; None: still to be generated."""

    earlier: Sequence[tuple[str, str]]
    question: str
    response: str | None


@dataclass(frozen=True)
class Example:
    """One conversation about one video as tensors on the CPU.

    `labels` holds the response's tokens and the end of its turn, -100 elsewhere; `video_columns[s]` is the sequence
    index of visual cell s; `offsets` are character spans in `text`, the rendered conversation with its placeholder
    expanded; `spans` where a field lies there.
    """

    input_ids: Int[Tensor, " N"]
    position_ids: Int[Tensor, "P N"]
    labels: Int[Tensor, " N"]
    pixels: dict[str, Tensor]
    video_columns: Int[Tensor, " S"]
    grid: Grid
    offsets: Int[Tensor, "N 2"]
    text: str
    spans: dict[Field, tuple[int, int]]


@dataclass(frozen=True)
class VlmOutput:
    """Logits, the tokens they predict (-100 where nothing is learned), and, where requested, rows averaged over heads and layers."""

    logits_BLV: Float[Tensor, "B L V"]
    targets_BL: Int[Tensor, "B L"]
    rows_BRS: Float[Tensor, "B R S"] | None


@dataclass
class Vlm:
    """A loaded model; `model` may be wrapped (low-rank updates) and stays usable."""

    model: Any
    tokenizer: Any
    inputs: Family
    stops: frozenset[int]

    @property
    def family(self) -> str:
        """`qwen` or `internvl`: which frames it sees follows from it."""
        return self.inputs.name

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        found: torch.device = next(self.model.parameters()).device
        return found

    def prepare(
        self,
        conversation: Conversation,
        frames: UInt8[np.ndarray, "n H W 3"],
        frame_times: Sequence[float],
        duration: float,
        max_pixels: int = MAX_PIXELS,
    ) -> Example:
        """One conversation about one video as tensors.

        Args:
            conversation: its text must be free of the model's control tokens.
            frames: whole upright frames, RGB.
            frame_times: seconds of each frame.
            duration: seconds of the clip.
            max_pixels: most pixels of a frame (Qwen; InternVL has a fixed size).

        Raises:
            DataError: control tokens in the text, not one time a frame, or more tokens than the model has positions.
            ParameterError: the chat template changes the text.
        """
        if len(frames) != len(frame_times) or not len(frames):
            raise DataError(
                f"{len(frames)} frames, {len(frame_times)} times",
                source="prepare",
                remedy="give one time for every frame",
            )
        self._refuse_control_tokens(conversation)
        seen = self.inputs.see(frames, max_pixels)
        text, spans = self._render(conversation, seen)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        input_ids_N, offsets_N2 = torch.tensor(encoded["input_ids"]), torch.tensor(encoded["offset_mapping"])
        if len(input_ids_N) > (most := self.model.config.get_text_config().max_position_embeddings):
            remedy = "take fewer or smaller frames, or shorten the text"
            raise DataError(
                f"{len(input_ids_N)} tokens, the model has {most} positions", source="the conversation", remedy=remedy
            )
        _, rows, cols = seen.shape
        return Example(
            input_ids=input_ids_N,
            position_ids=self.inputs.positions(input_ids_N, seen.shape, self.inputs.group * duration / len(frames)),
            labels=self._labels(input_ids_N, offsets_N2, spans.get("response")),
            pixels=seen.pixels,
            video_columns=torch.nonzero(input_ids_N == self.inputs.visual_id).flatten(),
            grid=sampled_grid(frame_times, self.inputs.group, rows, cols, duration),
            offsets=offsets_N2,
            text=text,
            spans=spans,
        )

    def forward(self, batch: Batch, row_request: object | None = None, all_logits: bool = False) -> VlmOutput:
        """One teacher-forced pass.

        Args:
            batch: from `collate`.
            row_request: a `components.vlm_attention.rows.RowRequest`; needs a model loaded with `rows=True`.
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
        out = self.model(**self._arguments(batch), use_cache=False, logits_to_keep=at_L, **extra)
        shifted_BN = nn.functional.pad(labels_BN[:, 1:], (0, 1), value=IGNORED)
        rows_BRS = None if row_request is None else self._mean_over_layers(out.attentions)
        return VlmOutput(out.logits, shifted_BN[:, at_L], rows_BRS)

    @torch.inference_mode()
    def generate(self, example: Example, max_new_tokens: int = 256) -> str:
        """The greedy reply to a conversation without response: the most likely token each time, until the turn ends."""
        training = self.model.training
        self.model.eval()  # checkpointing in training mode would drop the cache
        batch = collate([example])
        inputs, mask_1N = self._arguments(batch), batch["attention_mask"].to(self.device)
        next_position = int(example.position_ids.max()) + 1
        reply: list[int] = []
        out = self.model(**inputs, use_cache=True, logits_to_keep=1)
        while len(reply) < max_new_tokens and (token := int(out.logits[0, -1].argmax())) not in self.stops:
            reply.append(token)
            mask_1N = nn.functional.pad(mask_1N, (0, 1), value=1)
            position = torch.full((*inputs["position_ids"].shape[:-1], 1), next_position, device=self.device)
            next_position += 1
            ids_11 = torch.tensor([[token]], device=self.device)
            out = self.model(
                input_ids=ids_11,
                attention_mask=mask_1N,
                position_ids=position,
                past_key_values=out.past_key_values,
                use_cache=True,
            )
        self.model.train(training)
        decoded: str = self.tokenizer.decode(reply, skip_special_tokens=True)
        return decoded

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by the recipe's learning rates: `vision` (the tower), `llm` (merger or projector, and the LLM)."""
        groups: dict[str, list[nn.Parameter]] = {"vision": [], "llm": []}
        for name, parameter in self.model.named_parameters():
            parts = name.split(".")
            tower = "vision_tower" in parts or ("visual" in parts and "merger" not in parts)
            if parameter.requires_grad:
                groups["vision" if tower else "llm"].append(parameter)
        return groups

    # -- parts --------------------------------------------------------------------------------------------------------

    def _refuse_control_tokens(self, conversation: Conversation) -> None:
        control = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        control |= {SENTINEL, self.inputs.placeholder}
        texts = [
            *(text for turn in conversation.earlier for text in turn),
            conversation.question,
            conversation.response or "",
        ]
        if found := sorted(token for token in control if any(token in text for text in texts)):
            raise DataError(
                f"control tokens {found} in the text",
                source="the conversation",
                remedy="remove them from the sample's text",
            )

    def _render(self, conversation: Conversation, seen: Seen) -> tuple[str, dict[Field, tuple[int, int]]]:
        """The whole text with the video's tokens in it, and the character span of each field."""
        rendered = self._chat(conversation.earlier, conversation.question, conversation.response)
        if rendered.count(self.inputs.placeholder) != 1:
            problem = f"{rendered.count(self.inputs.placeholder)} × {self.inputs.placeholder!r} for one video"
            raise ParameterError(problem, source="the chat template", remedy="use the checkpoint's own chat_template")
        text = rendered.replace(self.inputs.placeholder, seen.text)
        fields: dict[Field, str] = {"question": conversation.question}
        marked = {"question": self._chat(conversation.earlier, SENTINEL, conversation.response)}
        if conversation.response is not None:
            fields["response"] = conversation.response
            marked["response"] = self._chat(conversation.earlier, conversation.question, SENTINEL)
        spans: dict[Field, tuple[int, int]] = {}
        for name, value in fields.items():  # every field stands behind the video
            start = marked[name].index(SENTINEL) + len(text) - len(rendered)
            if text[start : start + len(value)] != value:
                raise ParameterError(
                    f"the chat template changes the {name}", source="chat_template", remedy="use the checkpoint's own"
                )
            spans[name] = (start, start + len(value))
        return text, spans

    def _chat(self, earlier: Sequence[tuple[str, str]], question: str, response: str | None) -> str:
        turns = [*earlier, (question, response)]
        messages: list[dict[str, Any]] = []
        for k, (asked, answered) in enumerate(turns):
            video = [] if k else [{"type": "video"}]
            messages.append({"role": "user", "content": [*video, {"type": "text", "text": asked}]})
            if answered is not None:
                messages.append({"role": "assistant", "content": [{"type": "text", "text": answered}]})
        rendered: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=response is None
        )
        return rendered

    def _labels(self, input_ids_N: Tensor, offsets_N2: Tensor, span: tuple[int, int] | None) -> Int[Tensor, " N"]:
        """The response's tokens and the token that ends the turn."""
        if span is None:
            return torch.full_like(input_ids_N, IGNORED)
        inside_N = (offsets_N2[:, 1] > span[0]) & (offsets_N2[:, 0] < span[1])
        end = int(torch.nonzero(offsets_N2[:, 0] >= span[1])[0])
        if int(input_ids_N[end]) != self.tokenizer.convert_tokens_to_ids(END_OF_TURN):
            raise ParameterError(
                f"no {END_OF_TURN} after the response", source="chat_template", remedy="use the checkpoint's own"
            )
        inside_N[end] = True
        return torch.where(inside_N, input_ids_N, IGNORED)

    def _arguments(self, batch: Batch) -> dict[str, Tensor]:
        inputs = {name: values.to(self.device) for name, values in batch.items() if name.startswith(_FORWARD)}
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
        rows: whether attention rows can be requested; `components.vlm_attention.rows` must be imported, which registers
            how.

    Raises:
        ParameterError: not a folder of a supported model.
        DataError: a file is missing, cannot be read or has no safetensors, or tensors, the vocabulary or the chat
            template are missing.
    """
    folder = Path(folder)
    if rows and ROWS_ATTENTION not in ALL_ATTENTION_FUNCTIONS:
        raise RuntimeError("import components.vlm_attention.rows before load_vlm(rows=True), or load with rows=False")
    family = _family(folder)
    config = load_part(AutoConfig, folder)
    tokenizer = load_tokenizer(AutoTokenizer, folder)
    if tokenizer.chat_template is None:
        raise DataError("the tokenizer has no chat template", source=str(folder), remedy="fetch the checkpoint again")
    inputs: Family = family.load(config, tokenizer, folder)
    read_json(folder / "generation_config.json")  # transformers passes over one that it cannot read
    options: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": ROWS_ATTENTION if rows else "sdpa",
        "ignore_mismatched_sizes": True,
    }
    model = load_weights(AutoModelForImageTextToText, folder, **options)
    stops = model.generation_config.eos_token_id
    named = stops if isinstance(stops, list) else [] if stops is None else [stops]
    return Vlm(
        model.to(device).eval(), tokenizer, inputs, frozenset([*named, tokenizer.convert_tokens_to_ids(END_OF_TURN)])
    )


def _family(folder: Path) -> type[Qwen] | type[InternVL]:
    """By the configuration's own word, before transformers would offer to run a checkpoint's code: these it never takes from there."""
    config = read_json(folder / "config.json")
    if config is None:
        raise ParameterError(
            f"no config.json in {folder}", source="vlm", remedy="give a folder that transformers' from_pretrained opens"
        )
    family = _FAMILIES.get(str(config.get("model_type")))
    if family is None:
        remedy = f"use one of {', '.join(_FAMILIES)} (InternVL3: the repository whose name ends in -hf)"
        raise ParameterError(f"model_type {config.get('model_type')!r}", source=str(folder), remedy=remedy)
    return family


def collate(examples: Sequence[Example], padding_side: Literal["left", "right"] = "right") -> Batch:
    """Examples as one batch.

    Returns:
        `input_ids, attention_mask, labels [B, N]`, `position_ids [P, B, N]`, the pixel tensors one after the other,
        `start [B]` (index of each sample's first token), `video_columns [B, S]` of the padded sequence and `video_mask
        [B, S]`.
    """
    lengths = [len(example.input_ids) for example in examples]
    cells = [len(example.video_columns) for example in examples]
    before = [max(lengths) - length if padding_side == "left" else 0 for length in lengths]

    def padded(values: Sequence[Tensor], fill: int) -> Tensor:
        return torch.stack(
            [
                nn.functional.pad(v, (b, max(lengths) - n - b), value=fill)
                for v, b, n in zip(values, before, lengths, strict=True)
            ],
            dim=-2,
        )

    def columns(values: Sequence[Tensor], fill: int) -> Tensor:
        return torch.stack([nn.functional.pad(v, (0, max(cells) - len(v)), value=fill) for v in values])

    return {
        "input_ids": padded([example.input_ids for example in examples], 0),  # masked: any text token will do
        "attention_mask": padded([torch.ones_like(example.input_ids) for example in examples], 0),
        "position_ids": padded([example.position_ids for example in examples], 0),
        "labels": padded([example.labels for example in examples], IGNORED),
        "start": torch.tensor(before),
        "video_columns": columns([example.video_columns + b for example, b in zip(examples, before, strict=True)], 0),
        "video_mask": columns([torch.ones_like(example.video_columns) for example in examples], 0).bool(),
        **{name: torch.cat([example.pixels[name] for example in examples]) for name in examples[0].pixels},
    }


def _predicting(labels_BN: Int[Tensor, "B N"], everywhere: bool) -> Int[Tensor, " L"]:
    """Positions whose logits are wanted: those before a label of any sample."""
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
                remedy = "enable it with gradient_checkpointing_kwargs={'use_reentrant': False}"
                raise ParameterError(
                    "attention rows under reentrant gradient checkpointing", source="the model", remedy=remedy
                )
