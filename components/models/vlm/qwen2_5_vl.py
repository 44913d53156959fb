"""Qwen2.5-VL: frames in pairs, patches in 2 × 2 blocks, M-RoPE positions by Qwen's own rule or by transformers'.

Time counts `tokens_per_second`; where the text behind a video goes on is the rule's matter (`text_behind`). Frames are
sampled by time. An image is a pair of the same frame, with tokens and limits of its size of its own.

Legend: n frames, H W pixels of the source, h w pixels of the model, p patches, c values of a patch, N tokens, S cells.
Cells are (t, y, x), frame-major.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np
from jaxtyping import Float, Int, Int64, UInt8

from components.core.errors import DataError
from components.core.records import MediaKind
from components.media.choices import PositionRule
from components.media.sampling import spread
from components.media.viewing import Viewing
from components.models.family import Checkpoint, Tensor
from components.models.vlm.interface import Cells, Inputs, TowerWork, VlmFamily

if TYPE_CHECKING:
    from components.models.vlm.pixels import ImageSettings


_TOKENS: dict[MediaKind, str] = {"video": "video_token_id", "image": "image_token_id"}
_ARGUMENTS: dict[MediaKind, tuple[str, str]] = {
    "video": ("pixel_values_videos", "video_grid_thw"),
    "image": ("pixel_values", "image_grid_thw"),
}
IMAGE_AREAS = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}  # where an image processor names none


@dataclass(frozen=True)
class Patches(Inputs):
    """How any Qwen reads a clip: `group` frames per cell, `merge` × `merge` patches of `patch` pixels per cell."""

    image: ImageSettings
    patch: int
    merge: int
    axes: ClassVar[int] = 3

    @classmethod
    def load(cls, config: Any, tokenizer: Any, folder: Path, **more: Any) -> Patches:
        """Return what the checkpoint's configuration says, with `more` of the class's fields."""
        from components.models.vlm.pixels import ImageSettings

        vision, visual = config.vision_config, getattr(config, _TOKENS[cls.kind])
        text = {"placeholder": tokenizer.convert_ids_to_tokens(visual), "visual_id": visual}
        sizes = {"group": vision.temporal_patch_size, "patch": vision.patch_size, "merge": vision.spatial_merge_size}
        return cls(**{"image": ImageSettings.read(folder, cls.kind), **text, **sizes, **more})

    @property
    def side(self) -> int:
        """Pixels along a cell."""
        return self.patch * self.merge

    def shape(self, count: int, height: int, width: int, viewing: Viewing) -> Cells:
        """Return the cells of the frames at the model's size; an incomplete last group is a cell as well."""
        rows, cols = (pixels // self.side for pixels in self.frame_size(count, height, width, viewing))
        return math.ceil(count / self.group), rows, cols

    def pixels(self, frames_nHW3: UInt8[np.ndarray, "n H W 3"], size: tuple[int, int]) -> dict[str, Tensor]:
        """Return patches and their grid (frame groups, rows, columns); an incomplete last group repeats its frame."""
        import torch

        from components.models.vlm.pixels import to_pixels

        height, width = size
        patches_pc = patchify(to_pixels(frames_nHW3, height, width, self.image), self.patch, self.merge, self.group)
        grid = (math.ceil(len(frames_nHW3) / self.group), height // self.patch, width // self.patch)
        patches, sizes = _ARGUMENTS[self.kind]
        return {patches: patches_pc, sizes: torch.tensor([grid])}


@dataclass(frozen=True)
class Qwen(Patches):
    """How a checkpoint reads a video, whose time counts `tokens_per_second`."""

    tokens_per_second: int

    @classmethod
    def load(cls, config: Any, tokenizer: Any, folder: Path, **more: Any) -> Patches:
        """Return what the checkpoint's configuration says."""
        rate = config.vision_config.tokens_per_second
        return super().load(config, tokenizer, folder, tokens_per_second=rate, **more)

    def text(self, shape: Cells, times: Sequence[float], viewing: Viewing) -> str:
        """Return a placeholder per cell."""
        return self.placeholder * math.prod(shape)

    def frame_size(self, count: int, height: int, width: int, viewing: Viewing) -> tuple[int, int]:
        """Return multiples of a cell's side near the source's size, within the viewing's pixels."""
        return smart_resize(height, width, self.side, 4 * self.side**2, viewing.max_pixels)

    def positions(
        self, input_ids_N: Int[Tensor, " N"], shape: Cells, seconds: float, viewing: Viewing
    ) -> Int[Tensor, "3 N"]:
        """Return M-RoPE positions (time, row, column)."""
        import torch

        visual = torch.nonzero(input_ids_N == self.visual_id).flatten()
        first, count = int(visual[0]), math.prod(shape)
        times = torch.from_numpy(cell_times(shape[0], seconds, self.tokens_per_second))
        axes = torch.meshgrid(times, torch.arange(shape[1]), torch.arange(shape[2]), indexing="ij")
        video_3S = torch.stack([axis.flatten() for axis in axes]) + first
        before_3N = torch.arange(first).expand(3, -1)
        behind = first + text_behind(shape, seconds, self.tokens_per_second, viewing.positions)
        after_3N = (torch.arange(len(input_ids_N) - first - count) + behind).expand(3, -1)
        return torch.cat([before_3N, video_3S, after_3N], dim=1)


@dataclass(frozen=True)
class QwenImage(Qwen):
    """How a checkpoint reads an image; `limits` are the fewest and the most pixels at the model's size."""

    limits: tuple[int, int]
    kind: ClassVar[MediaKind] = "image"

    @classmethod
    def load(cls, config: Any, tokenizer: Any, folder: Path, **more: Any) -> Patches:
        """Return what the checkpoint's configuration and its image processor say."""
        limits = area_limits(folder, cls.kind, IMAGE_AREAS)
        return super().load(config, tokenizer, folder, limits=limits, **more)

    def frame_size(self, count: int, height: int, width: int, viewing: Viewing) -> tuple[int, int]:
        """Return multiples of a cell's side near the image's size, within the checkpoint's own limits."""
        return smart_resize(height, width, self.side, *self.limits)


def area_limits(folder: Path, kind: MediaKind, areas: Mapping[str, int]) -> tuple[int, int]:
    """Return the fewest and the most pixels that a checkpoint's processor says, or else `areas`."""
    from components.models.vlm.pixels import read_processor

    found, _ = read_processor(folder, kind)
    edges = {**areas, **(found.get("size") or {})}  # whatever the names of the edges say
    return found.get("min_pixels") or edges["shortest_edge"], found.get("max_pixels") or edges["longest_edge"]


def cell_times(cells: int, seconds: float, tokens_per_second: float) -> Int64[np.ndarray, " t"]:
    """Return the positions in time of a video's cells, which are `seconds` apart, from its first position on."""
    # fp32, multiplied in this order and truncated, as the reference implementation does
    times = np.arange(cells, dtype=np.float32) * np.float32(seconds) * np.float32(tokens_per_second)
    return times.astype(np.int64)


def text_behind(shape: Cells, seconds: float, tokens_per_second: float, rule: PositionRule) -> int:
    """Return how far from a video's first position the text behind it goes on.

    `qwen`: behind the largest position of the three axes, as Qwen's own code and vLLM have it. `transformers`: at
    max(rows, columns) however long the clip is, as `get_rope_index` of transformers 5.18 has it.
    """
    if rule == "transformers":
        return max(shape[1:])
    return max(int(cell_times(shape[0], seconds, tokens_per_second)[-1]) + 1, *shape[1:])


def position_gap(viewing: Viewing, duration: float) -> int:
    """Return by how much the rules differ behind a clip of 1280 × 720 pixels at 30 frames per second.

    The sizes are those of all published checkpoints.
    """
    side, group, tokens_per_second = 28, 2, 2
    height, width = smart_resize(720, 1280, side, 4 * side * side, viewing.max_pixels)
    count = len(fps_indices(duration, round(30 * duration), viewing.fps, 4, viewing.max_frames))
    shape, seconds = (math.ceil(count / group), height // side, width // side), group * duration / count
    qwen, transformers = (text_behind(shape, seconds, tokens_per_second, rule) for rule in get_args(PositionRule))
    return qwen - transformers


def fps_indices(duration: float, total: int, fps: float = 1.0, min_frames: int = 4, max_frames: int = 768) -> list[int]:
    """Return `duration · fps` frames spread evenly: an even number, at least `min_frames`, at most `max_frames` or all.

    A clip of one frame gives that frame; its token repeats it. Source: qwen-vl-utils, `smart_nframes`.
    """
    most = min(max_frames, total) // 2 * 2
    seconds = duration + 2e-3  # a container's clock may tick in milliseconds: 5.999 s at 1 fps are 6 frames
    wanted = min(max(seconds * fps, math.ceil(min_frames / 2) * 2), most)
    return spread(total, max(int(wanted) // 2 * 2, 1))


def smart_resize(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int, frames: int = 1, group: int = 1
) -> tuple[int, int]:
    """Return Qwen's size of a frame: multiples of `factor` near the source's, scaled into [min_pixels, max_pixels].

    Where the limits are those of several `frames` together, these count as the nearest number of groups.

    Raises:
        DataError: a frame more than 200 times as long as it is wide, which the model never saw.
    """
    if max(height, width) > 200 * min(height, width):
        problem = f"a frame of {width} × {height} pixels"
        raise DataError(problem, source="the clip", remedy="leave the clip out: its aspect ratio exceeds 200")
    rows, cols = round(height / factor), round(width / factor)
    pixels = rows * cols * factor * factor * round(frames / group) * group
    if pixels > max_pixels:
        shrink = math.sqrt(frames * height * width / max_pixels)
        rows, cols = (max(1, math.floor(side / shrink / factor)) for side in (height, width))
    elif pixels < min_pixels:
        stretch = math.sqrt(min_pixels / (frames * height * width))
        rows, cols = (math.ceil(side * stretch / factor) for side in (height, width))
    return rows * factor, cols * factor


def patchify(pixels_n3hw: Float[Tensor, "n 3 h w"], patch: int, merge: int, group: int) -> Float[Tensor, "p c"]:
    """Return the patches by cell (t, y, x), within a cell row by row.

    A patch's values are (channel, frame of the group, row, column).
    """
    import torch

    lacking = -len(pixels_n3hw) % group
    padded = torch.cat([pixels_n3hw, pixels_n3hw[-1:].expand(lacking, -1, -1, -1)])
    rows, cols = (side // (merge * patch) for side in pixels_n3hw.shape[-2:])
    # t, frame, channel, y, row of the cell, pixel row, x, column of the cell, pixel column
    cells = padded.reshape(-1, group, 3, rows, merge, patch, cols, merge, patch)
    return cells.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, 3 * group * patch * patch)


def tower_work(config: Any, shape: Cells) -> TowerWork:
    """Return patches and attention: most blocks attend within square windows, a few within their whole frame pair."""
    vision, (frames, rows, cols) = config.vision_config, shape
    unit = vision.spatial_merge_size**2  # patches per cell
    side: int = vision.window_size // vision.spatial_merge_size // vision.patch_size  # cells along a window

    def squares(length: int) -> int:  # of the parts that windows cut a side into
        return length // side * side**2 + (length % side) ** 2

    whole = len(vision.fullatt_block_indexes)
    windowed = (vision.depth - whole) * squares(rows) * squares(cols)
    pairs = frames * unit**2 * (whole * (rows * cols) ** 2 + windowed)
    return TowerWork(frames * rows * cols * unit, frames * rows * cols * unit, 4 * vision.hidden_size * pairs)


# The tiny twin: windowed vision blocks, frame pairs, M-RoPE, tied embeddings (as in 3B) -----------------------------

_PATCH = 14
CONTROL = """
    <|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|>
    <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"""


def make_tiny(folder: Path, variant: str = "") -> Path:
    """Write a tiny Qwen2.5-VL into `folder`, which is made if it is not there, and return the folder."""
    from components.models.vlm.twins import byte_tokenizer, small_llm

    tokenizer = byte_tokenizer(CONTROL, "<|endoftext|>", qwen_template())
    text = small_llm(tokenizer, mrope_section=[2, 3, 3])
    width = {"hidden_size": 32, "intermediate_size": 64, "num_heads": 2}
    vision = {"depth": 2, **width, "patch_size": _PATCH, "window_size": 4 * _PATCH, "fullatt_block_indexes": [1]}
    return write_small(folder, tokenizer, text, vision)


def qwen_template(system: str = "You are a helpful assistant.") -> str:
    """Return what the published checkpoints' chat template renders; with no `system` no prompt stands first."""
    from components.models.vlm.twins import chat_template

    return chat_template(
        image="<|vision_start|><|image_pad|><|vision_end|>",
        video="<|vision_start|><|video_pad|><|vision_end|>",
        text="'text' in part",
        system=system,
    )


def write_small(
    folder: Path, tokenizer: Any, text: dict[str, Any], vision: dict[str, Any], seed: int | None = None, **more: Any
) -> Path:
    """Write a small Qwen2.5-VL of random weights into `folder`, and return the folder.

    `text` and `vision` are the sizes of its two parts, `more` further fields of the configuration; pairs of frames,
    2 × 2 patches per cell, positions in time and tied embeddings are as in the published 3B.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from components.models.vlm.twins import SEED, write_twin

    ids = tokenizer.convert_tokens_to_ids
    vision = {**vision, "spatial_merge_size": 2, "temporal_patch_size": 2, "tokens_per_second": 2}
    vision |= {"out_hidden_size": text["hidden_size"]}
    tokens = {f"{name}_token_id": ids(f"<|{name}_pad|>") for name in ("image", "video")}
    edges = {f"vision_{edge}_token_id": ids(f"<|vision_{edge}|>") for edge in ("start", "end")}
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=True, **tokens, **edges, **more
    )
    processor: dict[str, Any] = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }
    processor |= {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    sizes = {"min_pixels": 3136, "max_pixels": 12845056, "temporal_patch_size": 2, "merge_size": 2}
    sampling = {"do_sample": True, "repetition_penalty": 1.05, "temperature": 1e-6}
    files = {"preprocessor_config.json": processor | sizes | {"patch_size": vision["patch_size"]}}
    model_class, drawn = Qwen2_5_VLForConditionalGeneration, SEED if seed is None else seed
    return write_twin(folder, model_class, config, tokenizer, files, sampling, drawn)


FAMILY = VlmFamily(
    name="Qwen2.5-VL",
    make_tiny=make_tiny,
    tiny={"tiny-qwen2.5-vl": "3b"},
    checkpoints={
        "qwen2.5-vl-3b": Checkpoint("Qwen/Qwen2.5-VL-3B-Instruct", "66285546d2b821cf421d4f5eb2576359d3770cd3"),
        "qwen2.5-vl-7b": Checkpoint("Qwen/Qwen2.5-VL-7B-Instruct", "cc594898137f460bfe9f0759e9844b3ce807cfb5"),
    },
    model_types=("qwen2_5_vl",),
    inputs=Qwen.load,
    images=QwenImage.load,
    frames=lambda viewing, video: fps_indices(video.duration, len(video.times), viewing.fps, 4, viewing.max_frames),
    by_time=lambda viewing, fps, duration: viewing,
    ignores=frozenset({"num_frames"}),
    tower=r"\bvisual\.(?!merger\.)",
    merger=r"\bvisual\.merger\.",
    position_gap=position_gap,
    tower_work=tower_work,
)
