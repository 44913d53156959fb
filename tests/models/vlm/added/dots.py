"""Dots, a toy family: one linear layer sees 16 × 16 pixels per cell, and all cells of a frame share one position.

The model is none of transformers' own, so `register` makes it known to the Auto classes. Everything that needs torch is
imported where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from components.core.records import Video
from components.media.viewing import Viewing
from components.models.family import Tensor
from components.models.vlm.interface import Seen, VlmFamily

SIDE, CELL = 64, 16  # pixels of a frame and of a cell


@dataclass(frozen=True)
class Dots:
    """How a checkpoint reads a video: one token per cell, frame by frame."""

    visual_id: int
    placeholder: str = "<clip>"
    group: int = 1

    @classmethod
    def load(cls, config: Any, tokenizer: Any, folder: Path) -> Dots:
        """Return what the checkpoint's configuration says."""
        return cls(config.dot_id)

    def see(self, frames_nHW3: UInt8[np.ndarray, "n H W 3"], viewing: Viewing) -> Seen:
        """Return the frames at 64 × 64 pixels and a dot per cell."""
        from components.models.vlm.pixels import ImageSettings, to_pixels

        pixels = to_pixels(frames_nHW3, SIDE, SIDE, ImageSettings((0.5,) * 3, (0.5,) * 3, 1 / 255))
        shape = (len(frames_nHW3), SIDE // CELL, SIDE // CELL)
        return Seen({"pixel_values": pixels}, shape, "<dot>" * (shape[0] * shape[1] * shape[2]))

    def positions(
        self, input_ids_N: Int[Tensor, " N"], shape: tuple[int, int, int], seconds: float
    ) -> Int[Tensor, "1 N"]:
        """Return one position per frame and one per token of text."""
        import torch

        first = int(torch.nonzero(input_ids_N == self.visual_id)[0])
        steps = torch.ones_like(input_ids_N)
        for start in range(first, first + shape[0] * shape[1] * shape[2], shape[1] * shape[2]):
            steps[start + 1 : start + shape[1] * shape[2]] = 0
        return (steps.cumsum(0) - 1)[None]


def frames(viewing: Viewing, video: Video) -> list[int]:
    """Return the last frame of each of `num_frames` equal segments."""
    return [(k + 1) * len(video.times) // viewing.num_frames - 1 for k in range(viewing.num_frames)]


@cache
def classes() -> tuple[Any, Any]:
    """Return the classes of the configuration and the model."""
    from torch import nn
    from torch.nn.functional import pixel_unshuffle
    from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel, Qwen2Config, Qwen2Model
    from transformers.modeling_outputs import CausalLMOutputWithPast

    class DotsConfig(PreTrainedConfig):
        model_type = "dots"
        sub_configs = {"text_config": Qwen2Config}

        def __init__(self, text_config: Any = None, dot_id: int = 0, **kwargs: Any) -> None:
            text = text_config or {}
            self.text_config = Qwen2Config(**text) if isinstance(text, dict) else text
            self.dot_id = dot_id
            super().__init__(**kwargs)

    class DotsModel(PreTrainedModel, GenerationMixin):
        config_class = DotsConfig
        supports_gradient_checkpointing = _supports_sdpa = _supports_attention_backend = True
        _no_split_modules = ["Qwen2DecoderLayer"]

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            text = config.text_config
            self.eye = nn.Linear(3 * CELL * CELL, text.hidden_size)
            self.language_model = Qwen2Model(text)
            self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
            self.post_init()

        def forward(self, input_ids: Any, pixel_values: Any = None, logits_to_keep: Any = 0, **given: Any) -> Any:
            embeds = self.language_model.embed_tokens(input_ids)
            if pixel_values is not None:
                cells = pixel_unshuffle(pixel_values.to(embeds.dtype), CELL).flatten(2).transpose(1, 2)
                embeds = embeds.masked_scatter((input_ids == self.config.dot_id)[..., None], self.eye(cells))
            out = self.language_model(inputs_embeds=embeds, **given)
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(out.last_hidden_state[:, kept])
            return CausalLMOutputWithPast(None, logits, out.past_key_values, out.hidden_states, out.attentions)

    return DotsConfig, DotsModel


def register() -> None:
    """Make the model known to transformers' Auto classes."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    config, model = classes()
    AutoConfig.register("dots", config, exist_ok=True)
    AutoModelForImageTextToText.register(config, model, exist_ok=True)


def make_tiny(folder: Path, variant: str = "") -> Path:
    """Write a tiny model into `folder`, which is made if it is not there, and return the folder."""
    from components.models.vlm.twins import byte_tokenizer, chat_template, small_llm, write_twin

    control = "<|endoftext|> <|im_start|> <|im_end|> <clip> <dot>"
    tokenizer = byte_tokenizer(control, "<|im_end|>", chat_template(image="<dot>", video="<clip>"))
    config, model = classes()
    made = config(small_llm(len(tokenizer)), tokenizer.convert_tokens_to_ids("<dot>"))
    return write_twin(folder, model, made, tokenizer, {}, {})


FAMILY = VlmFamily(
    name="Dots",
    make_tiny=make_tiny,
    tiny={"tiny-dots": ""},
    model_types=("dots",),
    inputs=Dots.load,
    frames=frames,
    by_time=lambda viewing, fps, duration: viewing,
    tower=r"\beye\.",
    lora_targets=r"language_model\..*\.[qkvo]_proj",
    register=register,
)
