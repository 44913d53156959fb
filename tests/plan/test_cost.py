"""Cost formulas against what the real classes do: a FLOP counter, and the tensors that live at the peak."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    CogVideoXTransformer3DModel,
    HunyuanVideoTransformer3DModel,
)
from torch.utils.flop_counter import FlopCounterMode

from components.attention_capture import capture
from components.attention_capture.capture import CaptureSpec, UnionAttention
from components.attention_capture.maps import CapturedMaps
from components.attention_capture.memory import reconstruct_with_memory
from components.attention_capture.settings import Params
from components.ddim_inversion.step import Params as Inversion
from components.models.registry import ensure_tiny
from components.models.video import family_of, hunyuanvideo, load_vdm
from components.models.video.cogvideox import attention, sizes, vae_numbers
from components.models.video.interface import Sizes
from components.plan.cost import ClipCost, PlannedVideo, estimate, unlike_training, weights
from tests.plan.live import Live

CHANNELS = (128, 256, 256, 512)
ENCODING, DECODING = vae_numbers(CHANNELS, 3, 16)
PUBLISHED = Sizes(42, 48, 3072, 226, 16, 2, 1, 8, 4, (49, 480, 720), encoding=ENCODING, decoding=DECODING)
LONG = replace(PUBLISHED, patch_t=2, native=(81, 768, 1360))
HUNYUAN_CHANNELS = (128, 256, 512, 512)
HUNYUAN_ENCODING, HUNYUAN_DECODING = hunyuanvideo.vae_numbers(HUNYUAN_CHANNELS)


@pytest.fixture(scope="module")
def hunyuan(tmp_path_factory):
    """Sizes of the published HunyuanVideo, by the classes' own defaults, which are its configuration."""
    folder = tmp_path_factory.mktemp("hunyuan")
    with torch.device("meta"):
        parts = {"transformer": HunyuanVideoTransformer3DModel(), "vae": AutoencoderKLHunyuanVideo()}
    for name, part in parts.items():
        part.save_config(folder / name)
    return hunyuanvideo.sizes(folder)


def test_published_size_gives_the_known_flops():
    clip = ClipCost(PUBLISHED, 49, 480, 720)
    assert clip.tokens == 17550
    # measured on meta tensors: 332.2 TF a forward; the closed form leaves norms, embeddings and the head out
    assert clip.inversion(1, 0) == pytest.approx(332.2e12, rel=0.02)
    assert clip.trajectory_bytes(5, 2) == 6 * 16 * 13 * 60 * 90 * 2


def test_formula_against_a_flop_counter():
    layers, heads, dim = 3, 8, 64
    with torch.device("meta"):
        sizes = {"num_attention_heads": heads, "attention_head_dim": dim, "num_layers": layers, "sample_frames": 17}
        text_sizes = {"text_embed_dim": 32, "time_embed_dim": 64, "max_text_seq_length": 16}
        net = CogVideoXTransformer3DModel(
            **sizes, **text_sizes, sample_width=32, sample_height=32, use_rotary_positional_embeddings=True
        )
        latents, text, time = torch.empty(1, 5, 16, 32, 32), torch.empty(1, 16, 32), torch.empty(1, dtype=torch.long)
        rope = (torch.empty(5 * 256, dim), torch.empty(5 * 256, dim))
        with FlopCounterMode(display=False) as counter:
            net(latents, text, time, image_rotary_emb=rope)
    clip = ClipCost(Sizes(layers, heads, heads * dim, 16, 16, 2, 1, 8, 4, (17, 256, 256)), 17, 256, 256)
    assert clip.inversion(1, 0) == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize(("size", "tokens"), [((129, 720, 1280), 33 * 45 * 80), ((25, 480, 720), 7 * 30 * 45)])
def test_published_hunyuanvideo_gives_the_counted_flops(hunyuan, size, tokens):
    """Of one pass with a text of the longest kind; attention has most of them at the first size, weights at the other.

    The first is that at which it was trained. Two layers and four in place of 20 and 40, one of the refiner.
    """
    clip = ClipCost(replace(hunyuan, layers=6), *size)
    latents = hunyuan.latent_frames(size[0]), size[1] // 8, size[2] // 8
    assert (hunyuan.layers, hunyuan.width, clip.tokens) == (60, 3072, tokens)
    with torch.device("meta"):
        net = HunyuanVideoTransformer3DModel(num_layers=2, num_single_layers=4, num_refiner_layers=1)
        texts = (torch.empty(1, 256, 4096), torch.ones(1, 256))
        given = {"timestep": torch.empty(1), "pooled_projections": torch.empty(1, 768), "guidance": torch.empty(1)}
        given |= dict(zip(("encoder_hidden_states", "encoder_attention_mask"), texts, strict=True))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(torch.empty(1, 16, *latents), **given)
    assert clip.inversion(1, 0) == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("with_memory", [True, False])
@pytest.mark.parametrize("scale", [1.0, 6.0])
@pytest.mark.parametrize("twin", ["tiny-cogvideox", "tiny-hunyuanvideo"])
def test_a_reconstruction_runs_as_many_samples_as_it_is_said_to_cost(monkeypatch, twin, scale, with_memory):
    """Each attention call of the code itself: queries times the keys that they look at."""
    folder = ensure_tiny(twin)
    vdm, looked, forwards, kernel = load_vdm(folder, "float32"), [], [], capture.attention_with_lse
    monkeypatch.setattr(
        capture,
        "attention_with_lse",
        lambda q, k, v: looked.append(len(q) * q.shape[2] * k.shape[2]) or kernel(q, k, v),
    )
    run = type(vdm).velocity
    monkeypatch.setattr(type(vdm), "velocity", lambda *given: forwards.append(len(given[1])) or run(*given))
    schedule, spec = vdm.levels(2), CaptureSpec((0, 1), (5, 4, 4), rows=4, memory=with_memory)
    trajectory = torch.randn(3, 1, 5, vdm.sizes.channels, 8, 8)
    given = {"guidance_scale": scale, "capture": spec, "memory": with_memory}
    reconstruct_with_memory(vdm, trajectory, schedule, vdm.encode_text("a ball " * 150), **given)
    clip = ClipCost(family_of(folder).sizes(folder), 17, 64, 64)
    length, model, guided = clip.tokens + clip.model.text_tokens, clip.model, scale > 1 and twin == "tiny-cogvideox"
    assert {sum(clip.streams(memory=with_memory, guided=guided))} == set(forwards)
    linear = sum(forwards) * 2 * length * model.layers * model.weights * model.width**2
    rows = 2 * 2 * (4 + model.text_tokens) * length * model.width * model.layers
    counted = linear + 4 * model.width * sum(looked) + rows
    assert clip.capture(2, 4, memory=with_memory, guided=guided) == pytest.approx(counted, rel=1e-9)


@pytest.mark.parametrize("twin", ["tiny-cogvideox", "tiny-hunyuanvideo"])
def test_guidance_as_an_input_of_the_network_costs_no_second_pass(twin):
    shared, inversion = SimpleNamespace(num_steps=5, token_ratio=0.5), Inversion(height=64, width=64)
    videos, folder = [PlannedVideo("a", 17, [6])], ensure_tiny(twin)
    plain, guided = (
        estimate(folder, videos, inversion, Params(guidance_scale=scale, rows=2), shared, None)[2] for scale in (1, 6)
    )
    assert (plain.step, plain.to_compute) == ("attention_capture", 1)
    assert guided.hours / plain.hours == pytest.approx(1 if twin == "tiny-hunyuanvideo" else 2, rel=0.1)
    assert (guided.peak.device == plain.peak.device) == (twin == "tiny-hunyuanvideo")


# Memory ---------------------------------------------------------------------------------------------------------------


def vae(channels, layers, latents):
    parts = {"down_block_types": ("CogVideoXDownBlock3D",) * 4, "up_block_types": ("CogVideoXUpBlock3D",) * 4}
    parts |= {"block_out_channels": channels, "layers_per_block": layers, "latent_channels": latents}
    with torch.device("meta"):
        made = AutoencoderKLCogVideoX(**parts, norm_num_groups=min(32, channels[0] // 2))
    return made.to(torch.bfloat16).eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("channels", "layers", "latents", "frames", "height", "width"),
    [(CHANNELS, 3, 16, 81, 768, 1360), (CHANNELS, 3, 16, 49, 480, 720), ((8,) * 4, 1, 4, 49, 64, 64)],
)
def test_peaks_of_the_vae_are_those_of_the_real_one(channels, layers, latents, frames, height, width):
    model, (encoding, decoding) = vae(channels, layers, latents), vae_numbers(channels, layers, latents)
    clip = ClipCost(replace(PUBLISHED, encoding=encoding, decoding=decoding), frames, height, width)
    whole = {"device": "meta", "dtype": torch.bfloat16}
    with torch.no_grad(), Live() as decoded:
        model.decode(torch.empty(1, latents, (frames - 1) // 4 + 1, height // 8, width // 8, **whole))
    assert decoded.peak <= clip.decoding_bytes(2) <= 1.06 * decoded.peak
    with torch.no_grad(), Live() as encoded:
        model.encode(torch.empty(1, 3, frames, height, width, **whole))
    assert encoded.peak <= clip.encoding_bytes(2) <= 1.4 * encoded.peak
    if frames == 81:
        assert decoded.peak == pytest.approx(47.8e9, rel=0.001)


@pytest.mark.parametrize(("samples", "layers"), [(4, None), (2, None), (4, 2)])
@pytest.mark.parametrize("clip", [ClipCost(PUBLISHED, 49, 480, 720), ClipCost(LONG, 81, 768, 1360)], ids=["5B", "1.5"])
def test_peak_of_a_capture_is_that_of_the_real_network(monkeypatch, clip, samples, layers):
    """Two layers in place of 42, which work one after the other; the fused kernel takes nothing beside its output.

    With `layers` their maps are kept apart.
    """
    model, rows, words = clip.model, 512 if layers is None else 64, 40
    joined = model.patch_t if model.patch_t > 1 else None
    shape = {"num_attention_heads": 48, "attention_head_dim": 64, "num_layers": 2, "sample_frames": clip.frames}
    with torch.device("meta"):
        net = CogVideoXTransformer3DModel(
            **shape, patch_size_t=joined, patch_bias=joined is None, use_rotary_positional_embeddings=True
        )
    net = net.to(torch.bfloat16).eval().requires_grad_(False)
    monkeypatch.setattr(
        capture,
        "attention_with_lse",
        lambda q, k, v: (torch.empty_like(q.contiguous()), torch.empty(q.shape[:3], device="meta")),
    )
    frames, places = model.latent_frames(clip.frames), (clip.height // 8, clip.width // 8)
    grid = (frames // model.patch_t, places[0] // 2, places[1] // 2)
    maps = CapturedMaps(CaptureSpec(tuple(range(words)), grid, rows=rows, memory=True, layers=layers))
    whole = {"device": "meta", "dtype": torch.bfloat16}
    given = {"hidden_states": torch.empty(samples, frames, 16, *places, **whole)}
    given |= {"encoder_hidden_states": torch.empty(samples, 226, 4096, **whole)}
    given |= {"timestep": torch.empty(samples, dtype=torch.int64, device="meta")}
    given |= {"image_rotary_emb": (torch.empty(clip.tokens, 64, device="meta"),) * 2}
    with torch.no_grad(), Live() as live, attention(net, UnionAttention(memory=True, maps=maps)):
        for _ in range(2):  # from the second step on all accumulators are there
            net(**given)
    predicted = clip.forward_bytes(samples, 2) + clip.map_accumulators(rows, words, layers=layers or 1)
    assert predicted == pytest.approx(live.peak, rel=0.03)


@pytest.mark.parametrize(
    ("channels", "latents", "frames", "height", "width", "above"),
    [
        (HUNYUAN_CHANNELS, 16, 33, 256, 480, 1.06),
        (HUNYUAN_CHANNELS, 16, 33, 256, 256, 1.06),
        (HUNYUAN_CHANNELS, 16, 17, 128, 128, 1.06),
        ((8,) * 4, 4, 33, 64, 64, 1.25),  # the clip's own pixels count here
    ],
)
def test_peaks_of_a_vae_that_works_in_tiles_are_those_of_the_real_one(
    hunyuan, channels, latents, frames, height, width, above
):
    encoding, decoding = hunyuanvideo.vae_numbers(channels)
    clip = ClipCost(replace(hunyuan, encoding=encoding, decoding=decoding), frames, height, width)
    whole = {"device": "meta", "dtype": torch.bfloat16}
    layers = 2 if latents == 16 else 1
    parts = {"block_out_channels": channels, "latent_channels": latents, "layers_per_block": layers}
    with torch.device("meta"):
        model = AutoencoderKLHunyuanVideo(**parts, norm_num_groups=min(32, channels[0] // 2))
    model.to(torch.bfloat16).eval().requires_grad_(False).enable_tiling()
    with torch.no_grad(), Live() as decoded:
        model.decode(torch.empty(1, latents, (frames - 1) // 4 + 1, height // 8, width // 8, **whole))
    assert decoded.peak <= clip.decoding_bytes(2) <= above * decoded.peak
    with torch.no_grad(), Live() as encoded:
        model.encode(torch.empty(1, 3, frames, height, width, **whole))
    assert encoded.peak <= clip.encoding_bytes(2) <= 1.2 * above * encoded.peak


@pytest.mark.parametrize("size", [(129, 720, 1280), (49, 480, 720)], ids=str)
def test_peak_of_a_capture_is_that_of_the_real_hunyuanvideo(monkeypatch, hunyuan, size):
    """One layer of two streams and two of one in place of 20 and 40, with nothing but the fused kernel's output."""
    clip, rows, words = ClipCost(hunyuan, *size), 512, 40
    with torch.device("meta"):
        net = HunyuanVideoTransformer3DModel(num_layers=1, num_single_layers=2, num_refiner_layers=1)
    net.to(torch.bfloat16).eval().requires_grad_(False)
    monkeypatch.setattr(
        capture,
        "attention_with_lse",
        lambda q, k, v: (torch.empty_like(q.contiguous()), torch.empty(q.shape[:3], device="meta")),
    )
    monkeypatch.setattr(hunyuanvideo, "read_tokens", lambda mask, text: text)  # nothing can be read of a meta tensor
    frames, height, width = hunyuan.latent_frames(size[0]), size[1] // 8, size[2] // 8
    spec = CaptureSpec(tuple(range(words)), (frames, height // 2, width // 2), rows=rows, memory=True)
    whole, maps = {"device": "meta", "dtype": torch.bfloat16}, CapturedMaps(spec)
    given = {"encoder_hidden_states": torch.empty(2, 256, 4096, **whole), "timestep": torch.empty(2, device="meta")}
    given |= {"encoder_attention_mask": torch.ones(2, 256, **whole), "guidance": torch.empty(2, **whole)}
    given |= {"pooled_projections": torch.empty(2, 768, **whole)}
    with torch.no_grad(), Live() as live, hunyuanvideo.attention(net, UnionAttention(memory=True, maps=maps)):
        net(torch.empty(2, 16, frames, height, width, **whole), **given)
    predicted = clip.forward_bytes(2, 2) + clip.map_accumulators(rows, words)
    assert predicted == pytest.approx(live.peak, rel=0.03)


@pytest.mark.parametrize("twin", ["tiny-cogvideox", "tiny-hunyuanvideo"])
def test_numbers_of_a_checkpoint_are_its_parameters(twin):
    folder = ensure_tiny(twin)
    vdm = load_vdm(folder, "float32")
    parts = [vdm.transformer, vdm.vae, vdm.text_encoder, *([vdm.clip] if twin == "tiny-hunyuanvideo" else [])]
    assert weights(folder) == sum(tensor.numel() for part in parts for tensor in part.parameters())


# Size -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "size", "warned"),
    [
        (PUBLISHED, (49, 480, 720), False),
        (PUBLISHED, (25, 480, 720), False),
        (PUBLISHED, (57, 480, 720), True),
        (PUBLISHED, (49, 768, 1360), True),
        (LONG, (49, 480, 720), True),
        (LONG, (81, 768, 1360), False),
    ],
)
def test_another_size_than_the_model_was_trained_at_is_a_warning(model, size, warned):
    found = unlike_training(model, "its name", *size)
    assert bool(found) == warned
    if warned:
        native = "params_ddim_inversion.num_frames={}, params_ddim_inversion.height={}, params_ddim_inversion.width={}"
        assert native.format(*model.native) in found
        assert "its name was trained at" in found


def test_a_table_of_positions_is_not_the_size_that_a_model_was_trained_at(tmp_path):
    """As diffusers' conversion script writes CogVideoX1.5."""
    folder = shutil.copytree(ensure_tiny("tiny-cogvideox1.5"), tmp_path / "model")
    config = json.loads((file := folder / "transformer/config.json").read_text())
    file.write_text(json.dumps(config | {"sample_height": 300, "sample_width": 300, "sample_frames": 81}))
    assert sizes(folder).native == (81, 768, 1360)
