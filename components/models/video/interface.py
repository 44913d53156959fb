"""What the steps need of a video model of any family: `VideoFamily`, without torch, and what it loads, `VideoModel`.

The method reads joint attention: every layer attends over one sequence of the text's tokens and the video's. A family
hands each layer's queries, keys and values over in this order, text first, video tokens frame-major; its network may
keep another one inside.

Legend: B batch, n frames of a clip, F C h w latent frames, channels, rows, columns, T text tokens, D text width, P
width of a text's one vector, L text and video tokens, H heads, d head width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float, UInt8

from components.core.errors import ParameterError
from components.core.records import Grid
from components.media.sampling import FrameCounts
from components.models.family import Device, Dtype, Family, Tensor
from components.models.video.noise import Levels

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The output [B, H, L, d] of an attention layer from its q, k and v, each [B, H, L, d] after norms and rotation."""


@dataclass(frozen=True)
class TextPiece:
    """A token that stands for characters: its place in the text encoder's sequence, and its `text[start:end]`.

    `known` is false of the one that stands for what the vocabulary lacks (`<unk>`): it carries nothing of the text.
    """

    index: int
    token: str
    start: int
    end: int
    known: bool = True


@dataclass(frozen=True)
class EncodedText:
    """Encoded texts, one per row of a batch: their tokens, and one vector of each where the network takes one."""

    tokens: Float[Tensor, "B T D"]
    pooled: Float[Tensor, "B P"] | None = None

    @classmethod
    def batch(cls, texts: Sequence[EncodedText]) -> EncodedText:
        """Return the rows of several, which have equally many tokens."""
        import torch

        pooled = [text.pooled for text in texts if text.pooled is not None]
        return cls(torch.cat([text.tokens for text in texts]), torch.cat(pooled) if pooled else None)


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model of joint attention, from its configuration: what the plan's cost follows from."""

    layers: int  # attention layers
    heads: int  # attention heads of a layer
    width: int  # of a token
    text_tokens: int  # of the text encoder's sequence, pads included; at most so many where pads are left out
    channels: int  # of the latents
    patch: int  # latent rows (and columns) of a token
    patch_t: int  # latent frames of a token
    spatial: int  # pixels of a latent's side
    temporal: int  # frames of a latent but the first, which has one
    native: tuple[int, int, int]  # frames, height and width (pixels) that the model was trained at
    weights: int = 12  # of a layer's matrices that a token passes, in units of width²
    states: int = 8  # of a token that live at a layer's peak, in units of width
    encoding: float = 0.0  # numbers per pixel of a frame's area that the VAE holds at its peak while it encodes a clip,
    decoding: float = 0.0  # and while it decodes one; beside the clip's own pixels, whatever the number of frames
    tile: int | None = None  # pixels of a side of the tiles into which the VAE cuts a larger frame
    clips: tuple[float, float] = (1.0, 1.0)  # the clip's own pixels, so many times, while it is encoded and decoded
    distilled: bool = False  # guidance is an input of the network; no second pass without the text

    @property
    def side(self) -> int:
        """Pixels of a token's side."""
        return self.spatial * self.patch

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip, padded to whole tokens."""
        count = (frames - 1) // self.temporal + 1
        return count + (-count) % self.patch_t

    def tokens(self, frames: int, height: int, width: int) -> int:
        """Video tokens of a clip."""
        return self.latent_frames(frames) // self.patch_t * (height // self.side) * (width // self.side)

    def forward(self, tokens: int, keys: int) -> float:
        """FLOPs of one forward pass over so many video tokens, each of which attends to so many keys."""
        length = tokens + self.text_tokens
        linear = 2 * length * self.layers * self.weights * self.width**2
        return linear + 4 * length * keys * self.width * self.layers


def text_pieces(
    tokenizer: Any, text: str, length: int | None, before: str = "", after: str = "", skipped: int = 0
) -> list[TextPiece]:
    """Return the visible tokens of a fast tokenizer of transformers, cut at `length` tokens; unknown ones are marked.

    Specials, pads and tokens without a visible character (a lone word start) are left out; spans lose their white
    space. Where the text stands in a prompt, `before` and `after` are the rest of it, and the first `skipped` tokens
    do not count.
    """
    limit = None if length is None else length + skipped
    wanted = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "verbose": False}
    tokens = tokenizer(before + text + after, max_length=limit, truncation=limit is not None, **wanted)
    ids, unknown = tokens["input_ids"], tokenizer.unk_token_id
    found: list[TextPiece] = []
    spans = zip(ids, tokenizer.convert_ids_to_tokens(ids), tokens["offset_mapping"], strict=True)
    for place, (number, name, span) in enumerate(spans):
        start, end = (min(max(edge - len(before), 0), len(text)) for edge in span)
        start += len(text[start:end]) - len(text[start:end].lstrip())
        end = start + len(text[start:end].rstrip())
        if not tokens["special_tokens_mask"][place] and name.strip("▁") and start < end:
            found.append(TextPiece(place - skipped, name, start, end, number != unknown))
    return found


def unread_characters(pieces: Sequence[TextPiece]) -> tuple[int, int]:
    """Return how many characters the unknown ones of a text's tokens stand for, and how many all of them do."""
    known = {place for piece in pieces if piece.known for place in range(piece.start, piece.end)}
    every = {place for piece in pieces for place in range(piece.start, piece.end)}
    return len(every - known), len(every)


@dataclass(frozen=True, eq=False)
class VideoModel(ABC):
    """A loaded model: its parts, classes of diffusers and transformers, and what the steps ask of them.

    Latents are scaled as the transformer sees them; weights need no gradient.
    """

    transformer: Any  # the network whose attention is read
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    sizes: Sizes
    frames: FrameCounts  # numbers of frames that the model encodes and decodes
    dtype: Dtype  # of weights and latents
    device: Device  # where the weights are

    @abstractmethod
    def levels(self, num_steps: int) -> Levels:
        """Return the model's noise levels for so many steps.

        Raises:
            ParameterError: a number of steps that the model does not have.
        """

    def guided(self, guidance_scale: float) -> VideoModel:
        """Return the model under a guidance scale that its network takes as an input (`sizes.distilled`), else 1."""
        raise NotImplementedError(f"{type(self).__name__} is guided by a second pass")

    def encode_text(self, text: str) -> EncodedText:
        """Embeddings of the whole padded sequence; pads are encoded and attended to, as in diffusers' pipelines."""
        padded = {"padding": "max_length", "max_length": self.sizes.text_tokens, "truncation": True}
        tokens = self.tokenizer(text, **padded, return_tensors="pt")
        embeds: Tensor = self.text_encoder(tokens.input_ids.to(self.device))[0]
        return EncodedText(embeds.to(self.dtype))

    def read_text(self, text: str) -> list[TextPiece]:
        """Return the tokens of `text` that fit the text encoder's length, in order, unknown ones among them."""
        return self._pieces(text, self.sizes.text_tokens)

    def _pieces(self, text: str, length: int | None) -> list[TextPiece]:
        return text_pieces(self.tokenizer, text, length)

    def tokenize(self, text: str) -> list[TextPiece]:
        """Return those of them that carry text."""
        return [piece for piece in self.read_text(text) if piece.known]

    def truncated(self, text: str) -> int:
        """Count the characters at the end of `text` that the text encoder never sees."""
        whole, kept = self._pieces(text, None), self.read_text(text)
        return 0 if len(kept) == len(whole) else len(text.rstrip()) - (kept[-1].end if kept else 0)

    def patch_grid(self, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Frames, rows and columns of the video tokens, for latents of (frames, rows, columns).

        Raises:
            ParameterError: patches do not divide rows or columns.
        """
        frames, rows, cols = latent_shape
        patch = self.sizes.patch
        if rows % patch or cols % patch:
            problem = f"latents of {rows} × {cols} are not made of patches of {patch}"
            remedy = f"choose multiples of {self.sizes.side} pixels"
            raise ParameterError(problem, source="height, width", remedy=remedy)
        return -(-frames // self.sizes.patch_t), rows // patch, cols // patch

    @abstractmethod
    def grid(
        self, frame_times: Sequence[float], height: int, width: int, box: tuple[float, float, float, float]
    ) -> Grid:
        """Return what each video token covers, from frame times (seconds), pixels, and the part of the source shown."""

    @abstractmethod
    def encode_video(self, frames: UInt8[Any, "n height width 3"]) -> Float[Tensor, "1 F C h w"]:
        """Latents of a clip, in the model's format, without randomness."""

    @abstractmethod
    def decode_latents(self, latents: Float[Tensor, "1 F C h w"]) -> UInt8[Tensor, "n height width 3"]:
        """Frames on the CPU."""

    @abstractmethod
    def velocity(
        self, latents: Float[Tensor, "B F C h w"], timestep: float, text: EncodedText
    ) -> Float[Tensor, "B F C h w"]:
        """Return v, the direction along which `levels` steps, at a time step by one forward pass; float32."""


@dataclass(frozen=True, kw_only=True)
class VideoFamily(Family):
    """A family of video models. Its folders are in the layout of diffusers."""

    pipeline: str  # how `_class_name` of a folder's `model_index.json` begins
    transformer: str  # class name of its transformer
    frames: FrameCounts  # numbers of frames that its models encode and decode
    sizes: Callable[[Path], Sizes]  # of the model in a folder
    tokenizer: Callable[[Path], Any]  # of the text encoder in a folder, a fast one of transformers
    # the visible tokens of a text by that tokenizer, cut at a length
    pieces: Callable[[Any, str, int | None], list[TextPiece]] = text_pieces
    load: Callable[[Path, Dtype, Device], VideoModel]  # from a folder whose class names fit
    # inside the block each attention layer's output comes from the given function; then all is as before
    attention: Callable[[Any, Attend], AbstractContextManager[None]]

    def check(self, num_frames: int) -> None:
        """Refuse a bound on frames that lets no clip through.

        Raises:
            ParameterError: fewer frames than the models take.
        """
        if num_frames < self.frames.fewest:
            remedy = f"choose at least {self.frames.fewest}: {self.name} takes no fewer"
            source = "params_ddim_inversion.num_frames"
            raise ParameterError(f"num_frames = {num_frames}", source=source, remedy=remedy)


@contextmanager
def processors(transformer: Any, processor: Any, within: Sequence[str] = ("",)) -> Iterator[None]:
    """Put a processor into attention layers, and the old ones back after the block, also after an exception.

    `within` are the parts of the network whose layers are meant, by the beginning of their names; by default all.
    """
    before = dict(transformer.attn_processors)
    inside = {name: processor if name.startswith(tuple(within)) else old for name, old in before.items()}
    transformer.set_attn_processor(inside)
    try:
        yield
    finally:
        transformer.set_attn_processor(before)
