"""A video model family in one file, as an example: Stable Diffusion 3's transformer on a sheet of all frames.

The frames' latents stand below each other as one tall picture. What differs from CogVideoX: an image VAE (any number of
frames, a latent per frame), BERT as text encoder, separate projections of text and video in a sequence [video; text],
a network that predicts ε.

Legend: B batch, n = F frames, C h w latent channels, rows, columns, T text tokens, D text width, L text and video
tokens, H heads, d head width.
"""

import json
from typing import Any

from jaxtyping import Float, UInt8

from components.core.records import Grid
from components.media.sampling import FrameCounts
from components.models.family import Tensor
from components.models.pretrained import load_part, load_tokenizer, load_weights, read_json
from components.models.video.interface import EncodedText, Sizes, VideoFamily, VideoModel, processors

FRAMES = FrameCounts(step=1, fewest=2)
TEXT_LENGTH, WIDTH, CHANNELS, SPATIAL, PATCH, SIDE, NATIVE_FRAMES = 16, 32, 4, 4, 2, 32, 8
WORDS = "[PAD] [CLS] [UNK] a the and while square circle disc triangle moves red green blue"


class FrameSheet(VideoModel):
    def grid(self, frame_times, height, width, box):
        from components.media.grids import frame_intervals

        side = SPATIAL * PATCH
        return Grid(times=frame_intervals(frame_times), rows=height // side, cols=width // side, box=box)

    def encode_video(self, frames: UInt8[Any, "n height width 3"]) -> Float[Tensor, "1 F C h w"]:
        import torch

        pixels = torch.as_tensor(frames).to(self.device, self.dtype).permute(0, 3, 1, 2) / 127.5 - 1
        return self.vae.encode(pixels).latent_dist.mode()[None] * self.vae.config.scaling_factor

    def decode_latents(self, latents: Float[Tensor, "1 F C h w"]) -> UInt8[Tensor, "n height width 3"]:
        codes = latents[0].to(self.device, self.dtype) / self.vae.config.scaling_factor
        pixels = self.vae.decode(codes).sample.float().add_(1).mul_(127.5).round_().clamp_(0, 255)
        return pixels.byte().permute(0, 2, 3, 1).cpu()

    def levels(self, num_steps):
        from components.models.video.noise import diffusion_levels

        return diffusion_levels(self.scheduler.alphas_cumprod, num_steps)

    def velocity(self, latents: Float[Tensor, "B F C h w"], timestep: float, text: EncodedText):
        """v = (ε − √(1−ᾱ)·x) / √ᾱ, which is finite as this schedule's last ᾱ is not 0."""
        import torch

        x = latents.to(self.device, self.dtype)
        sheet = x.transpose(1, 2).flatten(2, 3)  # B C F·h w
        texts = text.tokens.to(self.device, self.dtype)
        noise = self.transformer(
            hidden_states=sheet,
            encoder_hidden_states=texts,
            pooled_projections=texts[:, 0],
            timestep=torch.full((len(x),), int(timestep), device=self.device),
            return_dict=False,
        )[0]
        noise = noise.unflatten(2, (x.shape[1], x.shape[3])).transpose(1, 2).float()
        level = float(self.scheduler.alphas_cumprod[int(timestep)].double())
        return (noise - (1 - level) ** 0.5 * x.float()) / level**0.5


def tokenizer(folder):
    from transformers import PreTrainedTokenizerFast

    return load_tokenizer(PreTrainedTokenizerFast, folder, "tokenizer")


def load(folder, dtype, device):
    from diffusers import AutoencoderKL, DDIMScheduler, SD3Transformer2DModel
    from transformers import BertModel

    model = FrameSheet(
        transformer=load_weights(SD3Transformer2DModel, folder, "transformer", torch_dtype=dtype),
        vae=load_weights(AutoencoderKL, folder, "vae", torch_dtype=dtype),
        text_encoder=load_weights(BertModel, folder, "text_encoder", dtype=dtype),
        tokenizer=tokenizer(folder),
        scheduler=load_part(DDIMScheduler, folder, "scheduler"),
        sizes=sizes(folder),
        frames=FRAMES,
        dtype=dtype,
        device=device,
    )
    for module in (model.transformer, model.vae, model.text_encoder):
        module.eval().requires_grad_(False).to(device)
    return model


def sizes(folder):
    net = read_json(folder / "transformer" / "config.json")
    return Sizes(
        layers=net["num_layers"],
        heads=net["num_attention_heads"],
        width=net["num_attention_heads"] * net["attention_head_dim"],
        text_tokens=TEXT_LENGTH,
        channels=CHANNELS,
        patch=PATCH,
        patch_t=1,
        spatial=SPATIAL,
        temporal=1,
        native=(NATIVE_FRAMES, SIDE, SIDE),
    )


def attention(transformer, attend):
    return processors(transformer, Processor(attend))


class Processor:
    """`attend` sees text before video; the network has them the other way round."""

    def __init__(self, attend):
        self.attend = attend

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None):
        import torch

        def heads(states, *layers):
            return [layer(states).unflatten(2, (attn.heads, -1)).transpose(1, 2) for layer in layers]

        video = heads(hidden_states, attn.to_q, attn.to_k, attn.to_v)
        text = heads(encoder_hidden_states, attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        output = self.attend(*(torch.cat(pair, dim=2) for pair in zip(text, video, strict=True)))
        lengths = [encoder_hidden_states.shape[1], hidden_states.shape[1]]
        text, video = output.transpose(1, 2).flatten(2).split(lengths, 1)
        return attn.to_out[1](attn.to_out[0](video)), text if attn.context_pre_only else attn.to_add_out(text)


def make_tiny(folder, variant="sheet"):
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, SD3Transformer2DModel
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = WORDS.split()
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "unk_token": "[UNK]"}
    bert = {"vocab_size": len(words), "hidden_size": WIDTH, "intermediate_size": WIDTH}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    narrow = {"block_out_channels": (8, 8, 8), "latent_channels": CHANNELS, "norm_num_groups": 2, "sample_size": SIDE}
    sheet = NATIVE_FRAMES * SIDE // SPATIAL
    latents = {"in_channels": CHANNELS, "out_channels": CHANNELS, "patch_size": PATCH, "sample_size": sheet}
    heads = {"num_layers": 2, "num_attention_heads": 4, "attention_head_dim": 16, "pos_embed_max_size": sheet // PATCH}
    texts = {"joint_attention_dim": WIDTH, "pooled_projection_dim": WIDTH, "caption_projection_dim": 64}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = {
            "tokenizer": PreTrainedTokenizerFast(tokenizer_object=backend, **special),
            "text_encoder": BertModel(BertConfig(**bert, num_hidden_layers=1, num_attention_heads=2)),
            "vae": AutoencoderKL(**blocks, **narrow),
            "transformer": SD3Transformer2DModel(**latents, **heads, **texts),
            "scheduler": DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "FrameSheetPipeline"}))
    return folder


FAMILY = VideoFamily(
    name="Frame sheet",
    pipeline="FrameSheet",
    transformer="SD3Transformer2DModel",
    frames=FRAMES,
    sizes=sizes,
    tokenizer=tokenizer,
    load=load,
    attention=attention,
    make_tiny=make_tiny,
    tiny={"tiny-frame-sheet": "sheet"},
)
