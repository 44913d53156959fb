"""InternVL3 in its transformers form: every frame stretched to the vision tower's square, text between the frames.

Each frame is one block of tokens behind its own line of text; positions count the tokens, by either position rule. A
fixed number of frames is sampled, as the paper's main text does. An image is cut into tiles of the tower's square, with
the whole of it as the last, and all of them are one block.

Legend: n frames, H W pixels of the source, N tokens of the sequence. Cells are (t, y, x), frame-major.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Int, UInt8

from components.core.errors import ParameterError
from components.core.records import MediaKind
from components.media.viewing import Viewing
from components.models.family import Checkpoint, Tensor
from components.models.vlm.interface import Cells, Inputs, TowerWork, VlmFamily

if TYPE_CHECKING:
    from components.models.vlm.pixels import ImageSettings

_FRAME_TOKENS = ("video_token", "start_image_token", "end_image_token")


@dataclass(frozen=True)
class InternVL(Inputs):
    """How a checkpoint reads a video: `size` pixels and `rows` × `cols` cells per frame, between `start` and `end`."""

    image: ImageSettings
    size: tuple[int, int]
    rows: int
    cols: int
    start: str
    cell: str
    end: str

    @classmethod
    def load(cls, config: Any, tokenizer: Any, folder: Path, **more: Any) -> InternVL:
        """Return what the checkpoint's configuration says.

        Raises:
            ParameterError: a frame's tokens do not follow from the vision tower, or the tokenizer lacks frame tokens.
        """
        from components.models.vlm.pixels import ImageSettings

        (height, width), patches = config.vision_config.image_size, config.vision_config.patch_size
        sides = zip((height, width), patches, strict=True)
        rows, cols = (round(size // patch * config.downsample_ratio) for size, patch in sides)
        placeholder, start, end = edges = [getattr(tokenizer, name, None) for name in _FRAME_TOKENS]
        missing = [name for name, token in zip(_FRAME_TOKENS, edges, strict=True) if token is None]
        if rows * cols != config.image_seq_length or missing:
            problem = f"{rows} × {cols} cells a frame, image_seq_length={config.image_seq_length}; "
            problem += f"tokenizer lacks {missing or 'nothing'}"
            remedy = "use the transformers form of the checkpoint (`…-hf`)"
            raise ParameterError(problem, source=str(folder), remedy=remedy)
        cell = tokenizer.convert_ids_to_tokens(config.image_token_id)
        tokens = {"placeholder": placeholder if cls.kind == "video" else cell, "start": start, "cell": cell, "end": end}
        sizes = {"group": 1, "size": (height, width), "rows": rows, "cols": cols}
        image = ImageSettings.read(folder, cls.kind)
        return cls(visual_id=config.image_token_id, image=image, **sizes, **tokens, **more)

    def shape(self, count: int, height: int, width: int, viewing: Viewing) -> Cells:
        """Return the cells, as many in every frame whatever its size is."""
        return count, self.rows, self.cols

    def text(self, shape: Cells, times: Sequence[float], viewing: Viewing) -> str:
        """Return a line per frame."""
        cells = self.cell * (self.rows * self.cols)
        return "\n".join(f"Frame{k + 1}: {self.start}{cells}{self.end}" for k in range(shape[0]))

    def frame_size(self, count: int, height: int, width: int, viewing: Viewing) -> tuple[int, int]:
        """Return the tower's size, whatever the frame's is."""
        return self.size

    def pixels(self, frames_nHW3: UInt8[np.ndarray, "n H W 3"], size: tuple[int, int]) -> dict[str, Tensor]:
        """Return the frames at the tower's size."""
        from components.models.vlm.pixels import to_pixels

        return {"pixel_values": to_pixels(frames_nHW3, *size, self.image)}

    def positions(
        self, input_ids_N: Int[Tensor, " N"], shape: Cells, seconds: float, viewing: Viewing
    ) -> Int[Tensor, "1 N"]:
        """Return the tokens' numbers."""
        import torch

        return torch.arange(len(input_ids_N))[None]


@dataclass(frozen=True)
class InternVLImage(InternVL):
    """How a checkpoint reads an image; `tiles` are the fewest and the most that it is cut into."""

    tiles: tuple[int, int]
    kind: ClassVar[MediaKind] = "image"

    @classmethod
    def load(cls, config: Any, tokenizer: Any, folder: Path, **more: Any) -> InternVL:
        """Return what the checkpoint's configuration and its image processor say.

        Its `crop_to_patches` does not count: InternVL's processor cuts images whatever that says.
        """
        from components.models.vlm.pixels import read_processor

        found, _ = read_processor(folder, cls.kind)
        tiles = (found.get("min_patches") or 1, found.get("max_patches") or 12)
        return super().load(config, tokenizer, folder, tiles=tiles, **more)

    def shape(self, count: int, height: int, width: int, viewing: Viewing) -> Cells:
        """Return the cells of all tiles, and of the whole where there are several."""
        tiles = math.prod(tiling(height, width, self.size, *self.tiles))
        return tiles + (tiles > 1), self.rows, self.cols

    def text(self, shape: Cells, times: Sequence[float], viewing: Viewing) -> str:
        """Return one block."""
        return f"{self.start}{self.cell * math.prod(shape)}{self.end}"

    def frame_size(self, count: int, height: int, width: int, viewing: Viewing) -> tuple[int, int]:
        """Return the image's own size: tiles and whole are resized from it."""
        return height, width

    def pixels(self, frames_nHW3: UInt8[np.ndarray, "n H W 3"], size: tuple[int, int]) -> dict[str, Tensor]:
        """Return the tiles row by row, then the whole."""
        from components.models.vlm.pixels import resized, to_pixels

        (frame_HW3,), (height, width) = frames_nHW3, self.size
        down, across = tiling(*size, self.size, *self.tiles)
        canvas_HW3 = resized(frame_HW3, down * height, across * width)
        parts_nhw3 = canvas_HW3.reshape(down, height, across, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3)
        if len(parts_nhw3) > 1:
            parts_nhw3 = np.concatenate([parts_nhw3, resized(frame_HW3, height, width)[None]])
        return {"pixel_values": to_pixels(parts_nhw3, height, width, self.image)}


def tiling(height: int, width: int, tile: tuple[int, int], fewest: int, most: int) -> tuple[int, int]:
    """Return rows and columns of the tiles whose aspect ratio is nearest to an image's.

    Of several, the most tiles of which the image has more than half of the pixels. Source: `dynamic_preprocess` of
    InternVL's repository, `get_optimal_tiled_canvas` of transformers.
    """
    sides = range(1, most + 1)
    grids = sorted(
        ((down, across) for across in sides for down in sides if fewest <= down * across <= most), key=math.prod
    )
    gaps = [abs(width / height - across / down) for down, across in grids]
    nearest = [grid for grid, gap in zip(grids, gaps, strict=True) if gap == min(gaps)]
    filled = [grid for grid in nearest if 2 * height * width > math.prod(tile) * math.prod(grid)]
    return (filled or nearest[:1])[-1]


def segment_indices(n_total: int, n: int) -> list[int]:
    """Return about the middle of each of `n` equal segments; frames repeat where the clip has fewer than `n`.

    Of a clip that has just `n` frames each is taken: they are a sample already, as SEED-Bench's eight are.
    """
    if n_total == n:
        return list(range(n))
    segment = (n_total - 1) / n
    return [int(segment / 2 + round(segment * i)) for i in range(n)]


def tower_work(config: Any, shape: Cells) -> TowerWork:
    """Return patches and attention: every patch of a frame, and its class token, attends to all of them."""
    vision, (frames, rows, cols) = config.vision_config, shape
    patches = round(rows * cols / config.downsample_ratio**2)
    pairs = vision.num_hidden_layers * frames * (patches + 1) ** 2
    return TowerWork(frames * patches, frames * (patches + 1), 4 * vision.hidden_size * pairs)


# The tiny twin: pixel shuffle, text between the frames, untied embeddings ---------------------------------------------

_PATCH = 14
_CONTROL = """
    <|endoftext|> <|im_start|> <|im_end|> <img> </img> <IMG_CONTEXT> <quad> </quad> <ref> </ref> <box> </box>
    <video>"""


def make_tiny(folder: Path, variant: str = "") -> Path:
    """Write a tiny InternVL3 into `folder`, which is made if it is not there, and return the folder."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    from components.models.vlm.twins import byte_tokenizer, chat_template, small_llm, write_twin

    roles = dict(zip(_FRAME_TOKENS, ("<video>", "<img>", "</img>"), strict=True))
    roles["context_image_token"] = "<IMG_CONTEXT>"
    template = chat_template(image="<IMG_CONTEXT>\\n", video="<video>\\n")
    tokenizer = byte_tokenizer(_CONTROL, "<|im_end|>", template, roles)
    text, size = small_llm(tokenizer) | {"model_type": "qwen2"}, 8 * _PATCH
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    vision = {**sizes, "attention_bias": True, "image_size": [size, size], "patch_size": [_PATCH, _PATCH]}
    tokens = {"image_token_id": tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"), "image_seq_length": 16}
    config = InternVLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **tokens)
    processor = {"processor_class": "InternVLProcessor"}
    pixels = {**processor, "do_resize": True, "size": {"height": size, "width": size}, "resample": 3}
    pixels |= {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    pixels |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    images = {"image_processor_type": "GotOcr2ImageProcessorFast", "crop_to_patches": False}
    files = {
        "preprocessor_config.json": pixels | images,
        "video_preprocessor_config.json": pixels | {"video_processor_type": "InternVLVideoProcessor"},
        "processor_config.json": processor | {"image_seq_length": 16},
    }
    return write_twin(folder, InternVLForConditionalGeneration, config, tokenizer, files, {})


FAMILY = VlmFamily(
    name="InternVL3",
    make_tiny=make_tiny,
    tiny={"tiny-internvl3": "2b"},
    checkpoints={
        "internvl3-2b": Checkpoint("OpenGVLab/InternVL3-2B-hf", "cb57a075cb75a2e6d1b668b128d48bb00ae321d2"),
        "internvl3-8b": Checkpoint("OpenGVLab/InternVL3-8B-hf", "259a3b64a14623c0ec91a045cb43f7c5af5fa6af"),
    },
    model_types=("internvl",),
    inputs=InternVL.load,
    images=InternVLImage.load,
    frames=lambda viewing, video: segment_indices(len(video.times), viewing.num_frames),
    by_time=lambda viewing, fps, duration: viewing.model_copy(update={"num_frames": max(1, round(fps * duration))}),
    ignores=frozenset({"fps", "max_frames", "max_pixels", "positions"}),
    tower=r"\bvision_tower\.",
    merger=r"\bmulti_modal_projector\.",
    tower_work=tower_work,
)
