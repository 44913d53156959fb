"""CogVideoX: all that is particular to it, with the tiny twins; `FAMILY` at the end lists the parts.

The transformer predicts v = √ᾱ·ε − √(1−ᾱ)·x₀. Text is encoded as the pipeline does it: padded to the model's length,
never masked. CogVideoX1.5 joins two latent frames in a patch: an odd number of latents is padded in front by the first,
and the padding is dropped. The letters in shapes are those of `interface.py`.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from jaxtyping import Float

from components.core.errors import ParameterError
from components.media.sampling import FrameCounts
from components.models.family import Checkpoint, Device, Dtype, Tensor
from components.models.pretrained import load_part, load_tokenizer, load_weights, read_json
from components.models.video.causal import TEMPORAL, CausalVideoModel
from components.models.video.interface import Attend, EncodedText, Sizes, VideoFamily, processors
from components.models.video.noise import DiffusionLevels, diffusion_levels
from components.models.video.twins import SEED, WORDS

FRAMES = FrameCounts(step=8, fewest=9)  # the VAE encodes four frames a latent and decodes latents in pairs
# Some folders of CogVideoX1.5 name the size of its table of positions (diffusers' conversion script does) where others
# name the size that it was trained at.
_POSITIONS, _TRAINED = (300, 300), (96, 170)

# The model ------------------------------------------------------------------------------------------------------------


class CogVideoX(CausalVideoModel):
    """A loaded CogVideoX."""

    @property
    def alphas_cumprod(self) -> Float[Tensor, " steps"]:
        """ᾱ of the training time steps, float64."""
        alphas: Tensor = self.scheduler.alphas_cumprod
        return alphas.double()

    def levels(self, num_steps: int) -> DiffusionLevels:
        return diffusion_levels(self.alphas_cumprod, num_steps)

    def velocity(
        self, latents: Float[Tensor, "B F C h w"], timestep: float, text: EncodedText
    ) -> Float[Tensor, "B F C h w"]:
        """One forward pass of the transformer, which predicts v, float32."""
        import torch

        grid = self.patch_grid((latents.shape[1], latents.shape[3], latents.shape[4]))
        x = latents.to(self.device, self.dtype)
        if (
            missing := -x.shape[1] % self.sizes.patch_t
        ):  # whole temporal patches: the first latent frame is repeated in front
            x = torch.cat([x[:, :1].expand(-1, missing, -1, -1, -1), x], dim=1)
        output: Tensor = self.transformer(
            hidden_states=x,
            encoder_hidden_states=text.tokens.to(self.device, self.dtype),
            timestep=torch.full((len(x),), int(timestep), dtype=torch.int64, device=self.device),
            image_rotary_emb=self._rotary(grid),
            return_dict=False,
        )[0]
        return output[:, missing:].float()

    def _rotary(self, grid: tuple[int, int, int]) -> tuple[Tensor, Tensor] | None:
        """Cosine and sine [S, head width] of the video tokens; None for a model with added position embeddings."""
        config = self.transformer.config
        if not config.use_rotary_positional_embeddings:
            return None
        base = (config.sample_height // self.sizes.patch, config.sample_width // self.sizes.patch)
        return _rotary(grid, base, int(config.attention_head_dim), self.sizes.patch_t > 1, self.device)


@lru_cache(maxsize=4)
def _rotary(
    grid: tuple[int, int, int], base: tuple[int, int], width: int, sliced: bool, device: Device
) -> tuple[Tensor, Tensor]:
    """Count positions from the corner (1.5), or stretch the grid over the largest centred box of its shape (5B)."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    frames, rows, cols = grid
    options: dict[str, Any] = {"embed_dim": width, "grid_size": (rows, cols), "temporal_size": frames, "device": device}
    if not sliced:
        # (top, left), (bottom, right) of the largest box of the grid's aspect ratio that is centred in `base`
        taller = rows / cols > base[0] / base[1]
        box = (base[0], round(base[0] / rows * cols)) if taller else (round(base[1] / cols * rows), base[1])
        top, left = (round((whole - part) / 2.0) for whole, part in zip(base, box, strict=True))
        options["crops_coords"] = (top, left), (top + box[0], left + box[1])
    elif rows > base[0] or cols > base[1]:
        problem = f"{rows} × {cols} tokens a frame exceed the model's {base[0]} × {base[1]}"
        raise ParameterError(problem, source="height, width", remedy="choose a smaller height and width")
    else:
        options |= {"crops_coords": None, "grid_type": "slice", "max_size": base}
    cos, sin = get_3d_rotary_pos_embed(**options)
    return cos, sin


def tokenizer(folder: Path) -> Any:
    """Load the text encoder's tokenizer. Raises DataError: it cannot be read, or lacks the vocabulary."""
    from transformers import T5Tokenizer

    return load_tokenizer(T5Tokenizer, folder, "tokenizer")


def load(folder: Path, dtype: Dtype, device: Device) -> CogVideoX:
    """Load a pipeline's parts.

    Raises:
        ParameterError: another prediction type than v, or a transformer that takes more than the video's latents.
        DataError: a part that cannot be read, has no safetensors, or lacks tensors or the vocabulary.
    """
    from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
    from transformers import T5EncoderModel

    scheduler, words = load_part(CogVideoXDDIMScheduler, folder, "scheduler"), tokenizer(folder)
    encoder = load_weights(T5EncoderModel, folder, "text_encoder", dtype=dtype, ignore_mismatched_sizes=True)
    vae = load_weights(AutoencoderKLCogVideoX, folder, "vae", torch_dtype=dtype)
    transformer = load_weights(CogVideoXTransformer3DModel, folder, "transformer", torch_dtype=dtype)
    if scheduler.config.prediction_type != "v_prediction":
        problem = f"prediction type {scheduler.config.prediction_type!r}"
        raise ParameterError(problem, source=f"{folder}/scheduler", remedy="use a CogVideoX that predicts v")
    if transformer.config.in_channels != vae.config.latent_channels:
        problem = f"{transformer.config.in_channels} input channels for {vae.config.latent_channels} latent channels"
        remedy = "use a text-to-video CogVideoX, not image-to-video"
        raise ParameterError(problem, source=f"{folder}/transformer", remedy=remedy)
    for module in (transformer, vae, encoder):
        module.eval().requires_grad_(False).to(device)
    return CogVideoX(transformer, vae, encoder, words, scheduler, sizes(folder), FRAMES, dtype, device)


# Sizes and grid -------------------------------------------------------------------------------------------------------


def sizes(folder: Path) -> Sizes:
    """Read the sizes of a folder from its configuration.

    Raises:
        ParameterError: the VAE's configuration is missing.
    """
    net, vae = read_json(folder / "transformer" / "config.json"), read_json(folder / "vae" / "config.json")
    if net is None or vae is None:
        problem = "transformer/config.json or vae/config.json is missing"
        raise ParameterError(problem, source=str(folder), remedy="give a whole CogVideoX folder")
    spatial = 2 ** (len(vae["block_out_channels"]) - 1)
    side = net["sample_height"], net["sample_width"]
    height, width = _TRAINED if side == _POSITIONS else side
    encoding, decoding = vae_numbers(vae["block_out_channels"], vae["layers_per_block"], net["in_channels"])
    return Sizes(
        layers=net["num_layers"],
        heads=net["num_attention_heads"],
        width=net["num_attention_heads"] * net["attention_head_dim"],
        text_tokens=net["max_text_seq_length"],
        channels=net["in_channels"],
        patch=net["patch_size"],
        patch_t=net.get("patch_size_t") or 1,
        spatial=spatial,
        temporal=int(vae["temporal_compression_ratio"]),
        native=(net["sample_frames"], height * spatial, width * spatial),
        encoding=encoding,
        decoding=decoding,
    )


def vae_numbers(channels: Sequence[int], layers: int, latent_channels: int) -> tuple[float, float]:
    """Return the numbers per pixel that diffusers' VAE holds at its peak: while it encodes, and while it decodes.

    It works on eight frames at a time, and keeps for the next eight the last two that went into each convolution; until
    a pass has ended, those of the pass before are there as well. While it decodes, each norm keeps both its copies of
    the latents, brought to the frames' size. At the peak whole frames go through the blocks of full resolution.

    Args:
        channels: of its levels, from full resolution down.
        layers: residual blocks of a level; the decoder has one more.
        latent_channels: z.
    """
    n, z, top = 2 * TEMPORAL, latent_channels, len(channels) - 1
    down, up = (list(pairwise([sides[0], *sides])) for sides in (channels, channels[::-1]))  # into and out of a level

    def inputs(level: tuple[int, int], blocks: int) -> int:  # channels into all convolutions of a level
        return level[0] + (2 * blocks - 1) * level[1]

    encoder = [2 * inputs(one, layers + 2 * (i == top)) / 4**i for i, one in enumerate(down)]
    # eight frames seven times over, once with two more in front: above 2 GiB a convolution's input is cut into parts
    encoding = (7 * n + 2) * channels[0] + encoder[0] + sum(encoder)
    decoder = []
    for i, one in enumerate(up):
        blocks, frames = layers + 1 + 2 * (i == 0), 2 * min(2**i, TEMPORAL)
        decoder.append(4 * (inputs(one, blocks) + blocks * z * (2 * frames + 1)) / 4 ** (top - i))
    (wide, narrow), kept = up[-1], sum(decoder) + 2 * z * (n + 1)
    first = n * (6 * wide + z) + kept - decoder[-1] / 2  # in the first norm of full resolution
    return encoding, max(first, n * (7 * narrow + wide + z) + kept)


# Attention ------------------------------------------------------------------------------------------------------------


def attention(transformer: Any, attend: Attend) -> AbstractContextManager[None]:
    """Let `attend` compute the output of every layer inside the block."""
    return processors(transformer, _Processor(attend))


@dataclass(frozen=True)
class _Processor:
    """CogVideoX's joint attention, [text; video]; what happens between q, k, v and the output is `attend`'s."""

    attend: Attend

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        import torch

        if attention_mask is not None:
            remedy = "capture without a mask: CogVideoX uses none"
            raise ParameterError("an attention mask", source="attention_kwargs", remedy=remedy)
        text = encoder_hidden_states.shape[1]
        joint = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        output = self.attend(*_heads(attn, joint, text, image_rotary_emb))
        states: Tensor = attn.to_out[1](attn.to_out[0](output.transpose(1, 2).flatten(2)))
        return states[:, text:], states[:, :text]


def _heads(attn: Any, joint: Tensor, text: int, rotary: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [B, H, L, d] after the head norms; video tokens of q and k are rotated, text tokens are not."""
    import torch
    from diffusers.models.embeddings import apply_rotary_emb

    layers = (attn.to_q, attn.to_k, attn.to_v)
    q, k, v = (layer(joint).unflatten(2, (attn.heads, -1)).transpose(1, 2) for layer in layers)
    q = q if attn.norm_q is None else attn.norm_q(q)
    k = k if attn.norm_k is None else attn.norm_k(k)
    if rotary is not None:
        q, k = (torch.cat([x[:, :, :text], apply_rotary_emb(x[:, :, text:], rotary)], dim=2) for x in (q, k))
    return q, k, v


# Tiny twins -----------------------------------------------------------------------------------------------------------

LATENT_CHANNELS = 4
TEXT_LENGTH = 64
TEXT_WIDTH = 32
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "clip_sample": False,
    "snr_shift_scale": 1.0,
}
_ENDINGS = ("ing", "ed", "er", "ly", "es", "s", "tion")


def make_tiny(folder: Path, variant: str = "5b") -> Path:
    """Write a tiny CogVideoX pipeline of the real classes (safetensors only) into `folder`; returns the folder.

    Weights are drawn from a fixed seed with each class's own initialization; two calls write equal bytes. 64 × 64
    pixels and 17 frames are 5 latents of 8 × 8, which is 5 × 4 × 4 tokens (`5b`) or 3 × 4 × 4 (`1.5`).

    `variant` is the patch layout: `5b` (patches of one latent frame, resized rotary grid) or `1.5` (two latent frames
    per patch, no patch bias, sliced rotary grid).
    """
    import torch
    from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel

    blocks = {"down_block_types": ("CogVideoXDownBlock3D",) * 4, "up_block_types": ("CogVideoXUpBlock3D",) * 4}
    narrow = {"block_out_channels": (8,) * 4, "latent_channels": LATENT_CHANNELS, "layers_per_block": 1}
    square = {"sample_height": 64, "sample_width": 64, "temporal_compression_ratio": TEMPORAL}
    heads = {"num_layers": 2, "num_attention_heads": 4, "attention_head_dim": 16, "time_embed_dim": 32}
    text = {"text_embed_dim": TEXT_WIDTH, "max_text_seq_length": TEXT_LENGTH}
    latents = {
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "use_rotary_positional_embeddings": True,
    }
    clip = {"sample_frames": 17, "sample_height": 8, "sample_width": 8}
    joined = variant == "1.5"
    patches = {"patch_size": 2, "patch_size_t": 2 if joined else None, "patch_bias": not joined}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        tokenizer = _tiny_tokenizer()
        pipeline = CogVideoXPipeline(
            tokenizer=tokenizer,
            text_encoder=t5_encoder(len(tokenizer), TEXT_WIDTH, feed_forward=64, heads=2),
            # with this factor latents of random weights have unit variance, as a trained model's have
            vae=AutoencoderKLCogVideoX(**blocks, **narrow, **square, norm_num_groups=2, scaling_factor=3.26),
            transformer=CogVideoXTransformer3DModel(**heads, **text, **latents, **clip, **patches),
            scheduler=CogVideoXDDIMScheduler(**SCHEDULER),
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return Path(folder)


def _tiny_tokenizer() -> Any:
    """Return a Unigram T5 tokenizer: words of motion captions, single characters for other ASCII, `<unk>` beyond."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    characters = string.digits + string.ascii_letters + string.punctuation
    capitalized = [word.capitalize() for word in WORDS]
    pieces = {"▁": -6.0}
    pieces |= {f"▁{word}": -8.0 - 0.001 * rank for rank, word in enumerate(dict.fromkeys([*WORDS, *capitalized]))}
    pieces |= {ending: -9.0 - 0.001 * rank for rank, ending in enumerate(_ENDINGS) if ending not in characters}
    pieces |= {character: -12.0 - 0.001 * rank for rank, character in enumerate(characters)}
    return T5Tokenizer(vocab=[*special, *pieces.items()], extra_ids=0, model_max_length=TEXT_LENGTH)


def t5_encoder(vocabulary: int, width: int, feed_forward: int, heads: int, dropout: float = 0.1) -> Any:
    """Return a T5 encoder of two layers with heads of 16, with the class's own initialization."""
    from transformers import T5Config, T5EncoderModel

    size = {"vocab_size": vocabulary, "d_model": width, "d_kv": 16, "d_ff": feed_forward, "num_heads": heads}
    layers = {"num_layers": 2, "feed_forward_proj": "gated-gelu", "dropout_rate": dropout}
    alone = {"tie_word_embeddings": False, "is_encoder_decoder": False, "use_cache": False}  # without a decoder
    return T5EncoderModel(T5Config(**size, **layers, **alone))


FAMILY = VideoFamily(
    name="CogVideoX",
    pipeline="CogVideoX",
    transformer="CogVideoXTransformer3DModel",
    frames=FRAMES,
    sizes=sizes,
    tokenizer=tokenizer,
    load=load,
    attention=attention,
    make_tiny=make_tiny,
    tiny={"tiny-cogvideox": "5b", "tiny-cogvideox1.5": "1.5"},
    checkpoints={
        "cogvideox-5b": Checkpoint("zai-org/CogVideoX-5b", "8d6ea3f817438460b25595a120f109b88d5fdfad"),
        "cogvideox1.5-5b": Checkpoint("zai-org/CogVideoX1.5-5B", "fdc5267c90b5c06492985b966e43aae984e189e0"),
    },
)
