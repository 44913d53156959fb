"""What the steps need of a video model of any family: `VideoFamily`, without torch, and what it loads, `VideoModel`.

The method reads joint attention: every layer attends over one sequence of the text's tokens and the video's. A family
hands each layer's queries, keys and values over in this order, text first, video tokens frame-major; its network may
keep another one inside.

Legend: B batch, n frames of a clip, F C h w latent frames, channels, rows, columns, T text tokens, D text width, L text
and video tokens, H heads, d head width.
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
class Sizes:
    """Sizes of a model of joint attention, from its configuration: what the plan's cost follows from."""

    layers: int  # attention layers
    heads: int  # attention heads of a layer
    width: int  # of a token
    text_tokens: int  # of the text encoder's sequence, pads included
    channels: int  # of the latents
    patch: int  # latent rows (and columns) of a token
    patch_t: int  # latent frames of a token
    spatial: int  # pixels of a latent's side
    temporal: int  # frames of a latent but the first, which has one
    native: tuple[int, int, int]  # frames, height and width (pixels) that the model was trained at
    weights: int = 12  # of a layer's matrices that a token passes, in units of width²
    encoding: float = 0.0  # numbers per pixel of a frame's area that the VAE holds at its peak while it encodes a clip,
    decoding: float = 0.0  # and while it decodes one; beside the clip's own pixels, whatever the number of frames

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


def text_pieces(tokenizer: Any, text: str, length: int | None) -> list[TextPiece]:
    """Return the visible tokens of a fast tokenizer of transformers, cut at `length` tokens; unknown ones are marked.

    Specials, pads and tokens without a visible character (a lone word start) are left out; spans lose their white
    space.
    """
    wanted = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "verbose": False}
    tokens = tokenizer(text, max_length=length, truncation=length is not None, **wanted)
    ids, unknown = tokens["input_ids"], tokenizer.unk_token_id
    found: list[TextPiece] = []
    spans = zip(ids, tokenizer.convert_ids_to_tokens(ids), tokens["offset_mapping"], strict=True)
    for index, (number, name, (start, end)) in enumerate(spans):
        start += len(text[start:end]) - len(text[start:end].lstrip())
        end = start + len(text[start:end].rstrip())
        if not tokens["special_tokens_mask"][index] and name.strip("▁") and start < end:
            found.append(TextPiece(index, name, start, end, number != unknown))
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

    @property
    def alphas_cumprod(self) -> Float[Tensor, " steps"]:
        """ᾱ of the training time steps, float64."""
        alphas: Tensor = self.scheduler.alphas_cumprod
        return alphas.double()

    def encode_text(self, text: str) -> Float[Tensor, "1 T D"]:
        """Embeddings of the whole padded sequence; pads are encoded and attended to, as in diffusers' pipelines."""
        padded = {"padding": "max_length", "max_length": self.sizes.text_tokens, "truncation": True}
        tokens = self.tokenizer(text, **padded, return_tensors="pt")
        embeds: Tensor = self.text_encoder(tokens.input_ids.to(self.device))[0]
        return embeds.to(self.dtype)

    def read_text(self, text: str) -> list[TextPiece]:
        """Return the tokens of `text` that fit the text encoder's length, in order, unknown ones among them."""
        return text_pieces(self.tokenizer, text, self.sizes.text_tokens)

    def tokenize(self, text: str) -> list[TextPiece]:
        """Return those of them that carry text."""
        return [piece for piece in self.read_text(text) if piece.known]

    def truncated(self, text: str) -> int:
        """Count the characters at the end of `text` that the text encoder never sees."""
        whole, kept = text_pieces(self.tokenizer, text, None), self.read_text(text)
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
        self, latents: Float[Tensor, "B F C h w"], timestep: int, embeds: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B F C h w"]:
        """Return v = √ᾱ·ε − √(1−ᾱ)·x₀ at a training time step by one forward pass, whatever it predicts; float32."""


@dataclass(frozen=True, kw_only=True)
class VideoFamily(Family):
    """A family of video models. Its folders are in the layout of diffusers."""

    pipeline: str  # how `_class_name` of a folder's `model_index.json` begins
    transformer: str  # class name of its transformer
    frames: FrameCounts  # numbers of frames that its models encode and decode
    sizes: Callable[[Path], Sizes]  # of the model in a folder
    tokenizer: Callable[[Path], Any]  # of the text encoder in a folder, a fast one of transformers
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
def processors(transformer: Any, processor: Any) -> Iterator[None]:
    """Put a processor into every attention layer, and the old ones back after the block, also after an exception."""
    before = dict(transformer.attn_processors)
    transformer.set_attn_processor(processor)
    try:
        yield
    finally:
        transformer.set_attn_processor(before)
