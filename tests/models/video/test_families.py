"""What each family's module promises, against the diffusers pipeline that it stands for, on the tiny twins."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from components.core.errors import DataError, ParameterError
from components.models.registry import TINY
from components.models.video import load_vdm
from components.models.video.hunyuanvideo import SKIPPED
from components.models.video.interface import EncodedText
from components.plan.cost import ClipCost
from tests.arithmetic import rounding
from tests.conftest import VDM_TWINS

TEXT = "The red square moves left;  then it's spinning\nquickly."
# up to three layers of norm, q·k over 16, 144 keys, projections of 64, a layer of 256
TERMS = 3 * (64 + 16 + 144 + 3 * 64 + 256)


@pytest.fixture(scope="module")
def pipeline(vdm_folder):
    return DiffusionPipeline.from_pretrained(vdm_folder)


def frames(count=17, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def of_cogvideox(pipeline, vdm):
    """Text, latents and one forward pass as its pipeline computes them."""

    def encoded(text):
        length = vdm.sizes.text_tokens
        return pipeline.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=length)[0], None

    def velocity(x, timestep, texts):
        padded = torch.cat([x[:, :1], x], 1) if vdm.sizes.patch_t > 1 and x.shape[1] % 2 else x
        rows, cols = x.shape[3:]
        size = (rows * 8, cols * 8, padded.shape[1], torch.device("cpu"))
        rotary = pipeline._prepare_rotary_positional_embeddings(*size)
        embeds, timesteps = torch.cat([encoded(text)[0] for text in texts]), torch.full((len(x),), timestep)
        given = {"timestep": timesteps, "image_rotary_emb": rotary, "return_dict": False}
        return pipeline.transformer(padded, embeds, **given)[0][:, -x.shape[1] :]

    return SimpleNamespace(encoded=encoded, velocity=velocity, decoded=pipeline.decode_latents)


def of_hunyuanvideo(pipeline, vdm):
    def padded(text):
        return pipeline.encode_prompt(text)

    def encoded(text):
        embeds, pooled, mask = padded(text)
        return embeds[:, : int(mask.sum())], pooled

    def velocity(x, timestep, texts):
        embeds, pooled, mask = (torch.cat(parts) for parts in zip(*(padded(text) for text in texts), strict=True))
        assert int(mask[0].sum()) < mask.shape[1] == 256
        given = {"encoder_hidden_states": embeds, "encoder_attention_mask": mask, "pooled_projections": pooled}
        given |= {"timestep": torch.full((len(x),), float(timestep)), "guidance": torch.full((len(x),), 1000.0)}
        return pipeline.transformer(x.transpose(1, 2), **given, return_dict=False)[0].transpose(1, 2)

    def decoded(latents):
        return pipeline.vae.decode(latents.transpose(1, 2) / pipeline.vae.config.scaling_factor).sample

    return SimpleNamespace(encoded=encoded, velocity=velocity, decoded=decoded)


@pytest.fixture(scope="module")
def reference(pipeline, vdm):
    pipelines = {"CogVideoXPipeline": of_cogvideox, "HunyuanVideoPipeline": of_hunyuanvideo}
    return pipelines[type(pipeline).__name__](pipeline, vdm)


def test_all_twins_are_tested():
    assert [name for name, family in TINY.items() if hasattr(family, "transformer")] == VDM_TWINS


def test_twins_are_byte_deterministic_and_leave_the_global_generator_alone(vdm_folder, tmp_path):
    state, family = torch.random.get_rng_state(), TINY[vdm_folder.name]
    again = family.make_tiny(tmp_path / "again", family.tiny[vdm_folder.name])
    assert torch.equal(state, torch.random.get_rng_state())

    def content(root):
        return {file.relative_to(root): file.read_bytes() for file in root.rglob("*") if file.is_file()}

    assert content(vdm_folder) == content(again)
    assert not [file for file in vdm_folder.rglob("*") if file.suffix in (".bin", ".pt", ".pkl")]


def test_encode_is_the_posterior_mode_and_unit_scaled(vdm, pipeline):
    video = frames()
    latents = vdm.encode_video(video)
    pixels = torch.from_numpy(video).permute(3, 0, 1, 2)[None].double() / 255 * 2 - 1
    mean = pipeline.vae.double().encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
    pipeline.vae.float()
    assert latents.shape == (1, 5, 4, 8, 8)
    # twenty 3 × 3 × 3 convolutions of 8 channels, norms, attention over 320 places
    close = rounding(20 * (27 * 8 + 8) + 320, size=float(latents.abs().max()))
    torch.testing.assert_close(latents, mean.transpose(1, 2).float(), atol=close, rtol=0)
    assert 0.5 < float(latents.std()) < 2


def test_decode_agrees_with_the_pipeline(vdm, pipeline, reference):
    latents = vdm.encode_video(frames())
    with torch.no_grad():
        video = pipeline.video_processor.postprocess_video(reference.decoded(latents), output_type="np")[0]
    ours = vdm.decode_latents(latents)
    assert ours.shape == (17, 64, 64, 3)
    assert np.abs(ours.numpy().astype(float) - video * 255).max() <= 0.51


def test_every_number_of_frames_that_it_takes_comes_back(vdm):
    for count in range(vdm.frames.fewest, 26):
        if vdm.frames.largest(count) == count:
            latents = vdm.encode_video(frames(count))
            assert vdm.decode_latents(latents).shape == (count, 64, 64, 3)
            grid = vdm.grid([k / 8 for k in range(count)], 64, 64, (0.0, 1.0, 0.0, 1.0))
            assert grid.shape == vdm.patch_grid((latents.shape[1], 8, 8))
            assert grid.times[0][0] == -1 / 16
            assert grid.times[-1][1] == pytest.approx((count - 0.5) / 8)


@pytest.mark.parametrize("bad", [frames(16), frames(15), frames(17)[:, :60], frames().astype(np.float32)])
@pytest.mark.usefixtures("unchecked")
def test_frames_that_do_not_make_whole_latents_are_refused(vdm, bad):
    with pytest.raises(DataError, match="frames"):
        vdm.encode_video(bad)


def test_text_is_encoded_as_the_pipeline_does(vdm, reference):
    """Where the pipeline masks pads, without them."""
    for text in ("", TEXT, "a red ball " * 140):
        with torch.no_grad():
            tokens, pooled = reference.encoded(text)
        ours = vdm.encode_text(text)
        # up to three layers of norm, q·k over 16, 400 keys, projections of 32, a gated layer of 64
        close = rounding(3 * (32 + 16 + 400 + 3 * 32 + 64), size=float(tokens.abs().max()))
        torch.testing.assert_close(ours.tokens, tokens, atol=close, rtol=0)
        assert (ours.pooled is None) == (pooled is None)
        if pooled is not None:
            torch.testing.assert_close(ours.pooled, pooled, atol=close, rtol=0)


@pytest.mark.parametrize("shape", [(5, 8, 8), (4, 8, 8), (3, 6, 8), (5, 4, 8)])
def test_velocity_is_the_transformer_as_the_pipeline_calls_it(vdm, reference, shape):
    """With the pipeline's own positions, on latents and texts that are padded as it needs them."""
    count, rows, cols = shape
    texts = ["the red square moves left", "a blue circle rolls right"]
    x = torch.randn(2, count, 4, rows, cols, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = reference.velocity(x, 599, texts)
    ours = vdm.velocity(x, 599, EncodedText.batch([vdm.encode_text(text) for text in texts]))
    assert ours.shape == x.shape
    torch.testing.assert_close(ours, theirs, atol=rounding(TERMS, size=float(ours.abs().max())), rtol=0)
    assert vdm.patch_grid(shape) == (-(-count // vdm.sizes.patch_t), rows // 2, cols // 2)


def test_latents_that_make_no_patches_are_refused(vdm):
    with pytest.raises(ParameterError, match="patches"):
        vdm.patch_grid((5, 7, 8))
    with pytest.raises(ParameterError, match="patches"):
        vdm.velocity(torch.zeros(1, 5, 4, 7, 8), 599, vdm.encode_text(""))


@pytest.mark.parametrize("text", [TEXT, "a — b", " leading", "word " * 3, "🙂 smiles", "e", "", "\n\nlines\n"])
def test_pieces_cover_every_visible_character(vdm, text):
    pieces = vdm.read_text(text)
    covered = {place for piece in pieces for place in range(piece.start, piece.end)}
    assert covered == {place for place, character in enumerate(text) if not character.isspace()}
    assert vdm.truncated(text) == 0
    assert vdm.tokenize(text) == [piece for piece in pieces if piece.known]
    assert all(piece.index < vdm.encode_text(text).tokens.shape[1] for piece in pieces)


def test_a_piece_stands_where_its_word_enters_the_network(vdm):
    """Another word of a text changes the states of its own tokens, and of none before it in a causal encoder."""
    one, other = "the red square moves left", "the red square moves right"
    pieces = vdm.read_text(one)
    assert [one[piece.start : piece.end] for piece in pieces] == one.split()
    change = (vdm.encode_text(one).tokens - vdm.encode_text(other).tokens).abs().amax((0, 2))
    last = pieces[-1].index
    assert float(change[last]) > 1e-3
    assert vdm.sizes.distilled is False or float(change[:last].max()) == 0
    ids = vdm.tokenizer(one).input_ids if not vdm.sizes.distilled else _prompted(vdm, one)
    assert [vdm.tokenizer.decode([ids[piece.index]]).strip() for piece in pieces] == one.split()


def _prompted(vdm, text):
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE

    assert DEFAULT_PROMPT_TEMPLATE["crop_start"] == SKIPPED
    return vdm.tokenizer(DEFAULT_PROMPT_TEMPLATE["template"].format(text)).input_ids[SKIPPED:]


def test_truncation_is_counted_in_characters(vdm):
    text = "a red ball moves " * 90
    pieces, room = vdm.tokenize(text), vdm.sizes.text_tokens
    assert room - 1 <= len(pieces) <= room
    assert vdm.encode_text(text).tokens.shape[1] == room
    assert text[pieces[-1].end :].strip()
    assert vdm.truncated(text) == len(text.rstrip()) - pieces[-1].end


def test_a_model_is_loaded_in_the_asked_format(vdm_folder):
    loaded = load_vdm(vdm_folder, "bfloat16", "cpu")
    dtypes = {p.dtype for module in (loaded.transformer, loaded.vae, loaded.text_encoder) for p in module.parameters()}
    assert dtypes == {torch.bfloat16}
    assert loaded.encode_video(frames()).dtype == torch.bfloat16
    x = torch.randn(1, 5, 4, 8, 8)
    assert loaded.velocity(x, 999, loaded.encode_text("")).dtype == torch.float32


def test_its_sizes_are_those_of_its_parts(vdm, vdm_folder):
    sizes, net = vdm.sizes, vdm.transformer.config
    assert sizes.native == (17, 64, 64)
    assert sizes.width == net.num_attention_heads * net.attention_head_dim
    assert ClipCost(sizes, 17, 64, 64).tokens == torch.tensor(vdm.patch_grid((5, 8, 8))).prod()
    assert TINY[vdm_folder.name].sizes(vdm_folder) == sizes
