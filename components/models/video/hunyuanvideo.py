"""HunyuanVideo: all that is particular to it, with the tiny twin; `FAMILY` at the end lists the parts.

The transformer is trained by flow matching and predicts v = ε − x₀ at σ; it is guidance-distilled: the guidance scale
is one of its inputs. Layers of two streams (text and video have projections of their own) are followed by layers of
one; both attend over [video; text]. The text is read inside a prompt, by a Llama whose third last states of the text's
tokens a refiner of the transformer takes, and by CLIP, of which one vector is left. The refiner's own attention sees
text alone and is no layer of the method. The letters in shapes are those of `interface.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float

from components.core.errors import DataError, ParameterError
from components.media.sampling import FrameCounts
from components.models.family import Device, Dtype, Tensor
from components.models.pretrained import load_part, load_tokenizer, load_weights, read_json
from components.models.video.causal import TEMPORAL, CausalVideoModel
from components.models.video.interface import (
    Attend,
    EncodedText,
    Sizes,
    TextPiece,
    VideoFamily,
    processors,
    text_pieces,
)
from components.models.video.noise import FlowLevels, check_steps, flow_levels
from components.models.video.twins import SEED, WORDS

FRAMES = FrameCounts(step=TEMPORAL, fewest=2 * TEMPORAL + 1)  # three latents: two would show hardly any motion
NATIVE = (129, 720, 1280)  # of the published model, whose configuration does not name it
# What diffusers' pipeline puts around a text, the tokens of it in front that the transformer never gets, and those that
# it gets from there on at most
BEFORE = (
    "<|start_header_id|>system<|end_header_id|>\n\nDescribe the video by detailing the following aspects: "
    "1. The main content and theme of the video."
    "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects."
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects."
    "4. background environment, light, style and atmosphere."
    "5. camera angles, movements, and transitions used in the video:<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n"
)
AFTER = "<|eot_id|>"
SKIPPED, TEXT_LENGTH = 95, 256
TILE = 256  # pixels: diffusers' own, as are 17 frames at a time
_THIRD_LAST = -3  # of the Llama's states
_LAYERS = ("transformer_blocks.", "single_transformer_blocks.")
_OTHER_SIGMAS = ("use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
_OTHER_STEPS = ("shift_terminal", "invert_sigmas", "stochastic_sampling")

# The model ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class HunyuanVideo(CausalVideoModel):
    """A loaded HunyuanVideo."""

    clip: Any  # the text encoder whose pooled output is the text's one vector
    clip_tokenizer: Any
    guidance: float = 1.0  # the scale that the network is given; `guided` sets another

    def guided(self, guidance_scale: float) -> HunyuanVideo:
        return replace(self, guidance=guidance_scale)

    def levels(self, num_steps: int) -> FlowLevels:
        """σ falls evenly from 1 to 0 in N steps, then the scheduler's shift s raises it: s·σ / (1 + (s − 1)·σ)."""
        total, shift = int(self.scheduler.config.num_train_timesteps), float(self.scheduler.config.shift)
        check_steps(num_steps, total)
        even = [k / num_steps for k in range(1, num_steps + 1)]
        return flow_levels([shift * sigma / (1 + (shift - 1) * sigma) for sigma in even], total)

    def encode_text(self, text: str) -> EncodedText:
        """States of the text's tokens and the vector of the whole; pads, which nothing attends to, are left out."""
        import torch

        ids = self.tokenizer(BEFORE + text + AFTER, max_length=SKIPPED + TEXT_LENGTH, truncation=True).input_ids
        given = torch.tensor([ids], device=self.device)
        options = {"output_hidden_states": True, "use_cache": False}
        states = self.text_encoder(given, torch.ones_like(given), **options).hidden_states[_THIRD_LAST]
        padded = {"padding": "max_length", "max_length": self.clip.config.max_position_embeddings, "truncation": True}
        words = self.clip_tokenizer(text, **padded, return_tensors="pt").input_ids.to(self.device)
        pooled = self.clip(words).pooler_output
        return EncodedText(states[:, SKIPPED:].to(self.dtype), pooled.to(self.dtype))

    def _pieces(self, text: str, length: int | None) -> list[TextPiece]:
        return pieces(self.tokenizer, text, length)

    def velocity(
        self, latents: Float[Tensor, "B F C h w"], timestep: float, text: EncodedText
    ) -> Float[Tensor, "B F C h w"]:
        """One forward pass of the transformer, which predicts ε − x₀, float32."""
        import torch

        self.patch_grid((latents.shape[1], latents.shape[3], latents.shape[4]))
        assert text.pooled is not None
        x, tokens = latents.to(self.device, self.dtype), text.tokens.to(self.device, self.dtype)
        output: Tensor = self.transformer(
            hidden_states=x.permute(0, 2, 1, 3, 4),
            timestep=torch.full((len(x),), timestep, dtype=torch.float32, device=self.device),
            encoder_hidden_states=tokens,
            encoder_attention_mask=torch.ones(tokens.shape[:2], dtype=self.dtype, device=self.device),
            pooled_projections=text.pooled.to(self.device, self.dtype),
            # the network counts guidance in thousandths, as diffusers' pipeline hands it over
            guidance=torch.full((len(x),), self.guidance, dtype=self.dtype, device=self.device) * 1000.0,
            return_dict=False,
        )[0]
        return output.permute(0, 2, 1, 3, 4).float()


def pieces(words: Any, text: str, length: int | None) -> list[TextPiece]:
    """Return the tokens of a text as the transformer gets them: behind the prompt's first part, cut at a length."""
    return text_pieces(words, text, length, BEFORE, AFTER, SKIPPED)


def tokenizer(folder: Path) -> Any:
    """Load the Llama's tokenizer as its file has it; transformers' own Llama class would read text in another way.

    Raises:
        DataError: it cannot be read, lacks the vocabulary, or does not read the prompt in as many tokens as the
            transformer was trained to skip.
    """
    from transformers import PreTrainedTokenizerFast

    words = load_tokenizer(PreTrainedTokenizerFast, folder, "tokenizer")
    if (found := len(words(BEFORE).input_ids)) != SKIPPED:
        problem = f"the prompt before a text is {found} tokens, not {SKIPPED}"
        remedy = "use the tokenizer.json of a Llama 3, as HunyuanVideo has it"
        raise DataError(problem, source=f"{folder}/tokenizer", remedy=remedy)
    return words


def load(folder: Path, dtype: Dtype, device: Device) -> HunyuanVideo:
    """Load a pipeline's parts. The VAE works in tiles above 256 × 256 pixels, as its memory allows nothing else.

    Raises:
        ParameterError: a transformer without guidance as an input, with an image as another, or with patches of several
            latent frames, or a scheduler with another schedule than shifted even steps.
        DataError: a part that cannot be read, has no safetensors, or lacks tensors or the vocabulary.
    """
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoTransformer3DModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer, LlamaModel

    scheduler = load_part(FlowMatchEulerDiscreteScheduler, folder, "scheduler")
    words, clip_words = tokenizer(folder), load_tokenizer(CLIPTokenizer, folder, "tokenizer_2")
    encoder = load_weights(LlamaModel, folder, "text_encoder", dtype=dtype, ignore_mismatched_sizes=True)
    clip = load_weights(CLIPTextModel, folder, "text_encoder_2", dtype=dtype, ignore_mismatched_sizes=True)
    vae = load_weights(AutoencoderKLHunyuanVideo, folder, "vae", torch_dtype=dtype)
    transformer = load_weights(HunyuanVideoTransformer3DModel, folder, "transformer", torch_dtype=dtype)
    _check(transformer.config, vae.config, scheduler.config, folder)
    vae.enable_tiling()
    for module in (transformer, vae, encoder, clip):
        module.eval().requires_grad_(False).to(device)
    parts = (transformer, vae, encoder, words, scheduler)
    return HunyuanVideo(*parts, sizes(folder), FRAMES, dtype, device, clip, clip_words)


def _check(net: Any, vae: Any, scheduler: Any, folder: Path) -> None:
    """Refuse a relative of the model that this family does not know how to run."""
    problem = ""
    if not net.guidance_embeds:
        problem = "guidance_embeds is false: the network does not take guidance as an input"
    elif net.image_condition_type is not None or net.in_channels != vae.latent_channels:
        problem = f"{net.in_channels} input channels for {vae.latent_channels} latent channels, image condition "
        problem += repr(net.image_condition_type)
    elif net.patch_size_t != 1:
        problem = f"patches of {net.patch_size_t} latent frames"
    if problem:
        remedy = "use the text-to-video HunyuanVideo"
        raise ParameterError(problem, source=f"{folder}/transformer", remedy=remedy)
    if changed := [name for name in (*_OTHER_SIGMAS, *_OTHER_STEPS) if getattr(scheduler, name)]:
        remedy = "use the scheduler of HunyuanVideo: even steps, shifted"
        raise ParameterError(f"{', '.join(changed)} set", source=f"{folder}/scheduler", remedy=remedy)


# Sizes ----------------------------------------------------------------------------------------------------------------


def sizes(folder: Path) -> Sizes:
    """Read the sizes of a folder from its configuration.

    Raises:
        ParameterError: the VAE's configuration is missing.
    """
    net, vae = read_json(folder / "transformer" / "config.json"), read_json(folder / "vae" / "config.json")
    if net is None or vae is None:
        problem = "transformer/config.json or vae/config.json is missing"
        raise ParameterError(problem, source=str(folder), remedy="give a whole HunyuanVideo folder")
    frames, height, width = net.get("_native", NATIVE)
    encoding, decoding = vae_numbers(vae["block_out_channels"])
    return Sizes(
        layers=net["num_layers"] + net["num_single_layers"],
        heads=net["num_attention_heads"],
        width=net["num_attention_heads"] * net["attention_head_dim"],
        text_tokens=TEXT_LENGTH,
        channels=net["in_channels"],
        patch=net["patch_size"],
        patch_t=net["patch_size_t"],
        spatial=vae["spatial_compression_ratio"],
        temporal=vae["temporal_compression_ratio"],
        native=(frames, height, width),
        weights=4 + int(2 * net["mlp_ratio"]),  # of both kinds of layer
        states=10 + int(net["mlp_ratio"]),  # a layer of one stream computes its feed-forward part beside attention
        encoding=encoding,
        decoding=decoding,
        tile=TILE,
        # codes of tiles, which overlap; decoded tiles, of which those of 16 frames follow each other by 12
        clips=(1.1, 1.6),
        distilled=True,
    )


def vae_numbers(channels: Sequence[int]) -> tuple[float, float]:
    """Return what the VAE holds at its peak while it encodes and decodes, in numbers per pixel of a tile's frame.

    It works on 17 frames at a time, and a convolution takes a copy of its input with two frames more in front and a
    border around. The encoder's peak is in its first block; the decoder's in the last enlargement, whose input has half
    of the frames and a quarter of the area, or else in the last block. All else is freed by then.

    Args:
        channels: `block_out_channels` of the VAE, four levels.
    """
    n, half = 17, 9
    bordered = (n + 2) * (1 + 2 / 64) ** 2  # of tiles of 64 pixels and more
    top, above, third = channels[:3]
    encoding = top * (4 * n + bordered)
    enlarging = above * (3 * n + bordered) + (third + above) * half / 4
    return encoding, max(enlarging, above * n + top * (3 * n + bordered))


# Attention ------------------------------------------------------------------------------------------------------------


def attention(transformer: Any, attend: Attend) -> AbstractContextManager[None]:
    """Let `attend` compute the output of every layer of two streams and of one inside the block, not of the refiner."""
    return processors(transformer, _Processor(attend), within=_LAYERS)


@dataclass(frozen=True)
class _Processor:
    """HunyuanVideo's joint attention; `attend` sees [text; video] without the text's pads: nothing attends to them."""

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
        from torch.nn.functional import pad

        text = encoder_hidden_states.shape[1]
        read = text if attention_mask is None else read_tokens(attention_mask, text)
        heads = _two_streams if attn.add_q_proj is not None else _one_stream
        q, k, v = heads(attn, encoder_hidden_states[:, :read], hidden_states, image_rotary_emb)
        output = self.attend(q, k, v).transpose(1, 2).flatten(2)
        words, video = pad(output[:, :read], (0, 0, 0, text - read)), output[:, read:]
        if attn.to_out is not None:
            video = attn.to_out[1](attn.to_out[0](video))
        if attn.to_add_out is not None:
            words = attn.to_add_out(words)
        assert isinstance(video, torch.Tensor)
        return video, words


def read_tokens(attention_mask: Tensor, text: int) -> int:
    """Return how many of the text's tokens, the last `text` of the mask's columns, are no pads.

    Raises:
        ParameterError: not equally many in all rows of the batch.
    """
    counts = set(attention_mask[:, 0, 0, -text:].sum(-1).tolist())
    if len(counts) > 1:
        problem = f"texts of {' and '.join(map(str, sorted(counts)))} tokens in one batch"
        remedy = "capture texts of different lengths one after the other"
        raise ParameterError(problem, source="encoder_attention_mask", remedy=remedy)
    return int(counts.pop())


def _two_streams(attn: Any, text: Tensor, video: Tensor, rotary: Any) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [B, H, L, d] of [text; video], each with projections and norms of its own."""
    import torch

    words = _project(text, (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj), attn)
    places = _project(video, (attn.to_q, attn.to_k, attn.to_v), attn)
    q, k = (
        torch.cat([norm_text(word), _rotated(norm(place), 0, rotary)], dim=2)
        for word, place, norm_text, norm in zip(
            words[:2], places[:2], (attn.norm_added_q, attn.norm_added_k), (attn.norm_q, attn.norm_k), strict=True
        )
    )
    return q, k, torch.cat([words[2], places[2]], dim=2)


def _one_stream(attn: Any, text: Tensor, video: Tensor, rotary: Any) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [B, H, L, d] of [text; video], which share projections and norms."""
    import torch

    joint = torch.cat([text, video], dim=1)
    q, k, v = _project(joint, (attn.to_q, attn.to_k, attn.to_v), attn)
    start = text.shape[1]
    return _rotated(attn.norm_q(q), start, rotary), _rotated(attn.norm_k(k), start, rotary), v


def _project(states: Tensor, layers: tuple[Any, Any, Any], attn: Any) -> list[Tensor]:
    return [layer(states).unflatten(2, (attn.heads, -1)).transpose(1, 2) for layer in layers]


def _rotated(x: Tensor, start: int, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
    """Rotate the tokens from `start` on, which are the video's."""
    import torch
    from diffusers.models.embeddings import apply_rotary_emb

    if rotary is None:
        return x
    return torch.cat([x[:, :, :start], apply_rotary_emb(x[:, :, start:], rotary)], dim=2)


# Tiny twin ------------------------------------------------------------------------------------------------------------

LATENT_CHANNELS = 4
TEXT_WIDTH = 32
# how a Llama 3 cuts a text before it looks pieces up: contractions, words, numbers, marks, line ends, white space
_CUTS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_SPECIAL = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<pad>")


def make_tiny(folder: Path, variant: str = "") -> Path:
    """Write a tiny HunyuanVideo pipeline of the real classes (safetensors only) into `folder`; returns the folder.

    Weights are drawn from a fixed seed with each class's own initialization; two calls write equal bytes. 64 × 64
    pixels and 17 frames are 5 latents of 8 × 8, which is 5 × 4 × 4 tokens. One layer of two streams, two of one.
    """
    import torch
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoPipeline,
        HunyuanVideoTransformer3DModel,
    )

    layers = {"num_layers": 1, "num_single_layers": 2, "num_refiner_layers": 1, "mlp_ratio": 2.0}
    heads = {"num_attention_heads": 4, "attention_head_dim": 8, "rope_axes_dim": (2, 2, 4)}
    texts = {"text_embed_dim": TEXT_WIDTH, "pooled_projection_dim": TEXT_WIDTH}
    latents = {"in_channels": LATENT_CHANNELS, "out_channels": LATENT_CHANNELS}
    narrow = {"block_out_channels": (8,) * 4, "latent_channels": LATENT_CHANNELS, "layers_per_block": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        words, clip_words = _tiny_tokenizer(), _tiny_clip_tokenizer()
        pipeline = HunyuanVideoPipeline(
            tokenizer=words,
            text_encoder=_tiny_llama(len(words)),
            tokenizer_2=clip_words,
            text_encoder_2=_tiny_clip(clip_words),
            # with this factor latents of random weights have unit variance, as a trained model's have
            vae=AutoencoderKLHunyuanVideo(**narrow, norm_num_groups=2, scaling_factor=3.26),
            transformer=HunyuanVideoTransformer3DModel(**layers, **heads, **texts, **latents),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    config = Path(folder) / "transformer" / "config.json"  # where diffusers passes over names with a dash in front
    made = json.loads(config.read_text(encoding="utf-8")) | {"_native": [17, 64, 64]}
    config.write_text(json.dumps(made, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return Path(folder)


def _tiny_tokenizer() -> Any:
    """Return a byte-level tokenizer like a Llama 3's: whole words of the prompt and of motion captions, else bytes."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Split(Regex(_CUTS), "isolated")
    cut = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    prompt = [cut.pre_tokenize_str(part) for part in re.split(r"<\|\w+\|>", BEFORE)]
    words = [word for known in WORDS for word in (known, f"Ġ{known}", known.capitalize())]
    letters, of_prompt = sorted(pre_tokenizers.ByteLevel.alphabet()), [word for part in prompt for word, _ in part]
    known = dict.fromkeys([*_SPECIAL, *letters, *of_prompt, *words])
    vocabulary = {word: number for number, word in enumerate(known)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    backend.pre_tokenizer, backend.decoder = cut, decoders.ByteLevel()
    backend.post_processor = TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A $B", special_tokens=[(_SPECIAL[0], 0)]
    )
    backend.add_special_tokens(list(_SPECIAL))
    special = {"bos_token": _SPECIAL[0], "eos_token": AFTER, "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special, padding_side="right")


def _tiny_clip_tokenizer() -> Any:
    """Return a CLIP tokenizer that spells every word in bytes."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    known = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: number for number, token in enumerate(known)}, merges=[], model_max_length=77)


def _tiny_llama(vocabulary: int) -> Any:
    from transformers import LlamaConfig, LlamaModel

    size = {"hidden_size": TEXT_WIDTH, "intermediate_size": 64, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512}
    return LlamaModel(LlamaConfig(vocab_size=vocabulary, **size, **heads))


def _tiny_clip(words: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    size = {"hidden_size": TEXT_WIDTH, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": 0}
    return CLIPTextModel(CLIPTextConfig(vocab_size=len(words), max_position_embeddings=77, **size, **special))


FAMILY = VideoFamily(
    name="HunyuanVideo",
    pipeline="HunyuanVideo",
    transformer="HunyuanVideoTransformer3DModel",
    frames=FRAMES,
    sizes=sizes,
    tokenizer=tokenizer,
    pieces=pieces,
    load=load,
    attention=attention,
    make_tiny=make_tiny,
    tiny={"tiny-hunyuanvideo": ""},
)
