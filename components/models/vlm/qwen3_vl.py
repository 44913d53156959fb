"""Qwen3-VL: every frame pair is a block of its own behind its time as text, and the pixels of a whole clip are limited.

A clip reads `<0.5 seconds>`, block, `<2.5 seconds>`, block, … Time is text, so positions (interleaved M-RoPE) need no
seconds: they count on block by block. The chat template writes one start and one end for a clip. Under the position
rule `qwen` the blocks take the place of this pair, as in the model's first processor; under `transformers` they stand
inside it, as in transformers 5.18. Features of some of the tower's blocks enter the language model's first layers, each
through a merger of its own (DeepStack). Frames are sampled by time. An image is one block without a time.

Legend: N tokens. Cells are (t, y, x), frame-major.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from components.core.records import MediaKind
from components.media.viewing import Viewing
from components.models.family import Tensor
from components.models.vlm.interface import Cells, TowerWork, VlmFamily
from components.models.vlm.qwen2_5_vl import CONTROL, IMAGE_AREAS, Patches, area_limits, smart_resize

_AREAS: dict[MediaKind, dict[str, int]] = {  # where a processor names none
    "video": {"shortest_edge": 128 * 32 * 32, "longest_edge": 768 * 32 * 32},
    "image": IMAGE_AREAS,
}


@dataclass(frozen=True)
class Qwen3(Patches):
    """How a checkpoint reads a video: `cell` per cell, the cells of a frame pair between `start` and `end`.

    `limits` are the fewest and the most pixels of all frames together.
    """

    limits: tuple[int, int]
    start: str
    cell: str
    end: str

    @classmethod
    def load(cls, config: Any, tokenizer: Any, folder: Path, **more: Any) -> Patches:
        """Return what the checkpoint's configuration and its processor say."""
        limits = area_limits(folder, cls.kind, _AREAS[cls.kind])
        visual = config.video_token_id if cls.kind == "video" else config.image_token_id
        ids = (config.vision_start_token_id, visual, config.vision_end_token_id)
        start, cell, end = (tokenizer.convert_ids_to_tokens(token) for token in ids)
        placeholder = f"{start}{cell}{end}" if cls.kind == "video" else cell
        tokens = {"placeholder": placeholder, "start": start, "cell": cell, "end": end}
        return super().load(config, tokenizer, folder, limits=limits, **tokens, **more)

    def text(self, shape: Cells, times: Sequence[float], viewing: Viewing) -> str:
        """Return the blocks, each behind the mean time of its first and its last frame."""
        block = f"{self.start}{self.cell * math.prod(shape[1:])}{self.end}"
        blocks = "".join(f"<{seconds:.1f} seconds>{block}" for seconds in cell_times(times, self.group))
        return f"{self.start}{blocks}{self.end}" if viewing.positions == "transformers" else blocks

    def frame_size(self, count: int, height: int, width: int, viewing: Viewing) -> tuple[int, int]:
        """Return multiples of a cell's side near the source's size, within the viewing's pixels and the clip's.

        The most pixels of a frame are the viewing's or its share of the clip's, whichever are fewer; but no fewer than
        1.05 times the clip's fewest. Source: `resize` of transformers' `Qwen3VLVideoProcessor`, with its cap.
        """
        least, most = self.limits
        count = max(count, self.group)  # a single frame is repeated
        share = max(min(viewing.max_pixels, most // count), int(1.05 * least))
        enlarged = max(1.0, self.side / min(height, width))
        height, width = int(height * enlarged), int(width * enlarged)
        return smart_resize(height, width, self.side, least, share * count, count, self.group)

    def positions(
        self, input_ids_N: Int[Tensor, " N"], shape: Cells, seconds: float, viewing: Viewing
    ) -> Int[Tensor, "3 N"]:
        """Return M-RoPE positions (time, row, column): what follows a block goes on at max(rows, columns) behind it."""
        import torch

        visual_N = (input_ids_N == self.visual_id).long()
        rows, cols = shape[1:]
        cell_N = visual_N.cumsum(0) - visual_N  # cells before a token
        inside_N = cell_N % (rows * cols)  # of its own block; text has none
        first_N = torch.arange(len(input_ids_N)) - cell_N + cell_N // (rows * cols) * max(rows, cols)
        return first_N + torch.stack([torch.zeros_like(inside_N), inside_N // cols, inside_N % cols])


@dataclass(frozen=True)
class Qwen3Image(Qwen3):
    """How a checkpoint reads an image: `limits` are the fewest and the most pixels at the model's size."""

    kind: ClassVar[MediaKind] = "image"

    def text(self, shape: Cells, times: Sequence[float], viewing: Viewing) -> str:
        """Return a cell's token per cell; the chat template has start and end."""
        return self.cell * math.prod(shape)

    def frame_size(self, count: int, height: int, width: int, viewing: Viewing) -> tuple[int, int]:
        """Return multiples of a cell's side near the image's size, within the checkpoint's own limits."""
        return smart_resize(height, width, self.side, *self.limits)


def cell_times(times: Sequence[float], group: int) -> list[float]:
    """Return the mean of the first and the last frame's time of each group, in seconds; the last frame is repeated."""
    starts = range(0, len(times), group)
    return [(times[first] + times[min(first + group, len(times)) - 1]) / 2 for first in starts]


def fps_indices(duration: float, total: int, fps: float, max_frames: int) -> list[int]:
    """Return `duration · fps` frames spread evenly, at least 4, at most `max_frames` or all.

    Source: `sample_frames` of transformers' `Qwen3VLVideoProcessor`, whose own rate is 2 frames per second.
    """
    seconds = duration + 2e-3  # a container's clock may tick in milliseconds: 5.999 s at 1 fps are 6 frames
    count = min(max(int(seconds * fps), 4), max_frames, total)
    return [int(index) for index in np.linspace(0, total - 1, count).round()]


def tower_work(config: Any, shape: Cells) -> TowerWork:
    """Return patches and attention: in every block a patch attends to all of its frame pair."""
    vision, (frames, rows, cols) = config.vision_config, shape
    patches = rows * cols * vision.spatial_merge_size**2
    pairs = vision.depth * frames * patches**2
    return TowerWork(frames * patches, frames * patches, 4 * vision.hidden_size * pairs)


# The tiny twin: two DeepStack mergers, heads wider than their share of the width, tied embeddings (as in 4B) ----------

_PATCH = 16


def make_tiny(folder: Path, variant: str = "") -> Path:
    """Write a tiny Qwen3-VL into `folder`, which is made if it is not there, and return the folder."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    from components.models.vlm.twins import byte_tokenizer, chat_template, small_llm, write_twin

    template = chat_template(
        image="<|vision_start|><|image_pad|><|vision_end|>",
        video="<|vision_start|><|video_pad|><|vision_end|>",
        text="'text' in part",
    )
    tokenizer = byte_tokenizer(CONTROL, "<|im_end|>", template)
    ids = tokenizer.convert_tokens_to_ids
    text = small_llm(tokenizer, mrope_section=[6, 5, 5], mrope_interleaved=True) | {"head_dim": 32}
    width = {"hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": text["hidden_size"]}
    cells = {"patch_size": _PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 36}
    vision = {"depth": 3, **width, **cells, "deepstack_visual_indexes": [0, 1]}
    tokens = {f"{name}_token_id": ids(f"<|{name}_pad|>") for name in ("image", "video")}
    edges = {f"vision_{edge}_token_id": ids(f"<|vision_{edge}|>") for edge in ("start", "end")}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **tokens, **edges)
    processor: dict[str, Any] = {"processor_class": "Qwen3VLProcessor"}
    processor |= {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    processor |= {"patch_size": _PATCH, "temporal_patch_size": 2, "merge_size": 2}
    sizes = {"image": {"shortest_edge": 65536, "longest_edge": 16777216}}
    sizes["video"] = {"shortest_edge": 4096, "longest_edge": 25165824}
    image = {"image_processor_type": "Qwen2VLImageProcessorFast", "size": sizes["image"]}
    video = {"video_processor_type": "Qwen3VLVideoProcessor", "size": sizes["video"], "fps": 2}
    files = {
        "preprocessor_config.json": processor | image,
        "video_preprocessor_config.json": processor | video | {"min_frames": 4, "max_frames": 768},
    }
    sampling = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8}
    return write_twin(folder, Qwen3VLForConditionalGeneration, config, tokenizer, files, sampling)


FAMILY = VlmFamily(
    name="Qwen3-VL",
    make_tiny=make_tiny,
    tiny={"tiny-qwen3-vl": "4b"},
    model_types=("qwen3_vl",),
    inputs=Qwen3.load,
    images=Qwen3Image.load,
    frames=lambda viewing, video: fps_indices(video.duration, len(video.times), viewing.fps, viewing.max_frames),
    by_time=lambda viewing, fps, duration: viewing,
    ignores=frozenset({"num_frames"}),
    tower=r"\bvisual\.(?!merger\.|deepstack_merger_list\.)",
    merger=r"\bvisual\.(?:merger|deepstack_merger_list)\.",
    position_gap=lambda viewing, duration: -2,  # a start before the clip and an end behind it
    tower_work=tower_work,
)
