"""What is particular to HunyuanVideo, on its tiny twin; what every family does: test_families.py."""

import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, HunyuanVideoTransformer3DModel
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from safetensors.torch import load
from transformers import LlamaTokenizerFast

from components.attention_capture.capture import CaptureSpec, capture_attention
from components.cli.look import look
from components.core.artifacts import AttentionMaps, HeadSelection, PriorSet, Trajectories
from components.core.errors import DataError, ParameterError
from components.media.video import write_mp4
from components.models.registry import ensure_tiny, resolve
from components.models.video import family_of, load_vdm
from components.models.video.hunyuanvideo import AFTER, BEFORE, SKIPPED, TILE, attention, make_tiny, read_tokens, sizes
from components.models.video.interface import EncodedText
from components.store.entries import Store
from components.synthetic.scenes import draw, make_clip, write_set
from tests.arithmetic import rounding
from tests.chain import Chain
from tests.runner import published

NAME = "tiny-hunyuanvideo"
TEXT = "the red square moves left"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("tiny") / NAME)


@pytest.fixture(scope="module")
def vdm(folder):
    return load_vdm(folder, "float32", "cpu")


def changed(folder, target, file, **values):
    """A copy of a folder with other values in one of its configurations."""
    copied = shutil.copytree(folder, target)
    config = json.loads((copied / file).read_text())
    (copied / file).write_text(json.dumps(config | values))
    return copied


def test_it_is_a_family_by_its_folder(folder):
    assert family_of(folder).name == "HunyuanVideo"


def test_the_prompt_is_the_pipelines():
    assert DEFAULT_PROMPT_TEMPLATE["template"] == BEFORE + "{}" + AFTER
    assert DEFAULT_PROMPT_TEMPLATE["crop_start"] == SKIPPED


def test_a_tokenizer_that_reads_the_prompt_in_another_way_is_refused(folder, tmp_path):
    """As transformers' own class for a Llama does with this very file: it splits at a mark that is not in it."""
    read = LlamaTokenizerFast.from_pretrained(folder / "tokenizer")(BEFORE).input_ids
    assert len(read) != SKIPPED
    copied = shutil.copytree(folder, tmp_path / "copy")
    file = copied / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    del content["model"]["vocab"]["Ġdetailing"]
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"not {SKIPPED}"):
        load_vdm(copied, "float32", "cpu")


@pytest.mark.parametrize(
    ("file", "values", "match"),
    [
        ("transformer/config.json", {"guidance_embeds": False}, "guidance_embeds"),
        ("transformer/config.json", {"image_condition_type": "token_replace"}, "token_replace"),
        ("transformer/config.json", {"patch_size_t": 2}, "patches of 2"),
        ("scheduler/scheduler_config.json", {"use_dynamic_shifting": True}, "use_dynamic_shifting"),
        ("scheduler/scheduler_config.json", {"invert_sigmas": True}, "invert_sigmas"),
        ("model_index.json", {"_class_name": "WanPipeline"}, "WanPipeline"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_relative_is_refused_by_name(folder, tmp_path, file, values, match):
    copied = changed(folder, tmp_path / "copy", file, **values)
    if file == "transformer/config.json":  # with weights that fit
        HunyuanVideoTransformer3DModel.from_config(
            HunyuanVideoTransformer3DModel.load_config(copied / "transformer")
        ).save_pretrained(copied / "transformer")
    with pytest.raises(ParameterError, match=match):
        load_vdm(copied, "float32", "cpu")


def test_levels_are_the_pipelines(vdm):
    scheduler = copy.deepcopy(vdm.scheduler)
    assert isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    assert scheduler.config.shift == 7
    found = vdm.levels(5)
    assert found.sigma.tolist() == pytest.approx([0, 7 / 11, 14 / 17, 21 / 23, 28 / 29, 1])  # 7s / (1 + 6s)
    assert found.timesteps.tolist() == pytest.approx([1000 * sigma for sigma in found.sigma.tolist()[1:]])
    for steps in (0, 1001):
        with pytest.raises(ParameterError, match="num_steps"):
            vdm.levels(steps)


def test_guidance_is_an_input_of_the_network(vdm):
    """The scale reaches the network in thousandths; what is not told is 1."""
    given = []
    seen = vdm.transformer.time_text_embed.register_forward_hook(lambda module, args, output: given.append(args[2]))
    x, text = torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)), vdm.encode_text(TEXT)
    plain, guided = vdm.velocity(x, 500.0, text), vdm.guided(6.0).velocity(x, 500.0, text)
    seen.remove()
    assert [float(scale) for scale in given] == [1000, 6000]
    assert float((plain - guided).abs().max()) > 1e-3
    assert vdm.guidance == 1


def test_a_text_behind_pads_gives_the_same_output_and_maps(vdm):
    """The pads of a batch of equal texts are left out of attention; what attends to them is left as it is."""
    x, text = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)), vdm.encode_text(TEXT)
    length, total = text.tokens.shape[1], 20
    tokens = torch.cat([text.tokens, torch.randn(1, total - length, text.tokens.shape[2])], 1).expand(2, -1, -1)
    mask = (torch.arange(total) < length).float().expand(2, -1)
    given = {"encoder_hidden_states": tokens, "encoder_attention_mask": mask}
    given |= {"pooled_projections": text.pooled.expand(2, -1), "guidance": torch.full((2,), 1000.0)}
    spec = CaptureSpec((0, 1, 4), vdm.patch_grid((3, 8, 8)), rows=48)
    with capture_attention(vdm.transformer, spec) as ours:
        plain = vdm.velocity(x, 500.0, EncodedText.batch([text, text]))
    with capture_attention(vdm.transformer, spec) as padded:
        found = vdm.transformer(x.transpose(1, 2), torch.full((2,), 500.0), **given, return_dict=False)[0]
    close = rounding(3 * (32 + 8 + 70 + 3 * 32 + 64), size=float(plain.abs().max()))
    torch.testing.assert_close(found.transpose(1, 2), plain, atol=close, rtol=0)
    torch.testing.assert_close(padded.t2v, ours.t2v, atol=close, rtol=0)
    torch.testing.assert_close(padded.text_mass, ours.text_mass, atol=close, rtol=0)


def test_every_weight_of_a_layer_is_used_where_it_belongs(vdm):
    """With weights that all differ, the norms' too, which are ones in a fresh network."""
    generator, network = torch.Generator().manual_seed(0), copy.deepcopy(vdm.transformer)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    other = replace(vdm, transformer=network)
    x, text = torch.randn(1, 3, 4, 8, 8, generator=generator), vdm.encode_text(TEXT)
    plain = other.velocity(x, 500.0, text)
    with attention(network, torch.nn.functional.scaled_dot_product_attention):
        found = other.velocity(x, 500.0, text)
    close = rounding(3 * (32 + 8 + 70 + 3 * 32 + 64), size=float(plain.abs().max()))
    torch.testing.assert_close(found, plain, atol=close, rtol=0)


def test_texts_of_different_lengths_are_captured_one_after_the_other():
    mask = torch.ones(2, 1, 1, 12, dtype=torch.bool)
    assert read_tokens(mask, 4) == 4
    mask[:, ..., -1] = False
    assert read_tokens(mask, 4) == 3
    mask[1, ..., -2:] = False
    with pytest.raises(ParameterError, match="2 and 3 tokens"):
        read_tokens(mask, 4)


def test_a_published_folder_needs_no_size_of_its_own(folder, tmp_path):
    """The twin's native size stands in its configuration, under a name that diffusers passes over."""
    assert sizes(folder).native == (17, 64, 64)
    copied = shutil.copytree(folder, tmp_path / "copy")
    file = copied / "transformer" / "config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "_native"}))
    assert sizes(copied).native == (129, 720, 1280)
    (copied / "vae" / "config.json").unlink()
    with pytest.raises(ParameterError, match="vae/config"):
        sizes(copied)


def test_tiling_is_what_the_plan_counts_on(vdm):
    """A frame of more than a tile is encoded in tiles, and 17 frames at a time."""
    vae, seen = vdm.vae, []
    assert vae.tile_sample_min_height == vae.tile_sample_min_width == vdm.sizes.tile == TILE
    reading = vae.encoder.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[2:]))
    vdm.encode_video(torch.zeros(21, 32, TILE + 32, 3, dtype=torch.uint8))
    reading.remove()
    assert {tuple(shape) for shape in seen} == {(17, 32, TILE), (9, 32, TILE), (17, 32, 96), (9, 32, 96)}


def test_the_steps_run_on_it(tmp_path):
    """Steps 0 to prior set, with pictures; an emptied scratch is inverted again to the same maps."""
    write_set(tmp_path / "scenes", "scenes", 2, seed=3, size=(64, 64), num_frames=17)
    chain = Chain(tmp_path, tmp_path / "store", tmp_path / "scenes", 1, vdm=NAME, num_steps=2)
    store = Store(f"file://{tmp_path}/store")
    videos = chain.task("dataset_import", form="training")["videos"]
    inverted = chain.task("ddim_inversion", {"videos": videos}, shard="0/1", pictures=1)
    assert "largest residual" in inverted["preview"].read_text()
    lines = [*published(inverted, "trajectories", Trajectories).lines]
    assert [line.grid.shape for line in lines] == [(5, 4, 4)] * 2
    assert load(store.read(lines[0].latents))["latents"].shape == (3, 5, 4, 8, 8)
    maps = []
    for _ in range(2):
        given = {"trajectories": inverted["trajectories"]}
        captured = chain.task("attention_capture", given, shard="0/1", pictures=1)
        line = next(iter(published(captured, "maps", AttentionMaps).lines))
        maps.append(load(store.read(line.maps))["t2v"])
        assert maps[-1].shape == (4, len(store.pieces(line)), 80)
        shutil.rmtree(tmp_path / "store" / "scratch", ignore_errors=True)
        shutil.rmtree(tmp_path / "store" / "attention_capture")
    assert torch.equal(*maps)
    captured = chain.task("attention_capture", {"trajectories": inverted["trajectories"]}, shard="0/1")
    heads = chain.task("head_selection", {"maps": captured["maps"]})["heads"]
    assert all(len(line.heads) == 2 for line in published({"heads": heads}, "heads", HeadSelection).lines)
    part = chain.task("token_selection", {"heads": heads}, shard="0/1")["prior"]
    priors = chain.task("prior_set", {"shards": [part]}, form="collected")
    for line in published(priors, "priors", PriorSet).lines:
        assert load(store.read(line.prior))["prior"].shape == (line.piece_counts.selected, 5, 4, 4)
    assert resolve(NAME, store).path == ensure_tiny(NAME)


def test_look_takes_its_own_size(tmp_path):
    """Its tokenizer spells what it does not know, so that no character is unread."""
    write_mp4(tmp_path / "clip.mp4", draw(make_clip("scenes", 31, 0, (64, 64), 17).scene, (64, 64))[0], fps=8)
    page = look(tmp_path / "clip.mp4", "the dog ✈ jumps", NAME, settings={"num_steps": 2})
    assert "Random weights" in page
    assert "does not know" not in page
