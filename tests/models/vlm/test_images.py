"""Images as images: tokens, positions, pixels and logits against transformers' own processors and models."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
    get_optimal_tiled_canvas,
)
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.processing_utils import ProcessorMixin

from components.core.errors import DataError, ParameterError
from components.media.viewing import Viewing
from components.models.registry import ensure_tiny
from components.models.vlm.example import collate
from components.models.vlm.internvl3 import tiling
from components.models.vlm.model import load_vlm
from components.models.vlm.pixels import ImageSettings
from tests.arithmetic import rounding
from tests.models.vlm.cases import INTERN, NAMES, QWEN, QWEN3, TALK, clip, load
from tests.models.vlm.test_reader import manifest, written

SIZES = {  # height, width
    "small": (20, 31),
    "wide": (64, 200),
    "tall": (300, 90),
    "the tower's square": (112, 112),
    "two by two": (224, 224),
    "large": (331, 517),
}


def picture(size, seed=0):
    """Smooth in places and noisy in others, in middle tones: where bytes overflow, the order of the axes shows."""
    height, width = size
    noise = np.random.default_rng(seed).integers(64, 192, (height, width, 3))
    ramp = np.linspace(64, 192, width)[None, :, None] * np.ones((height, 1, 3))
    return np.where(np.arange(height)[:, None, None] % 40 < 20, noise, ramp).astype(np.uint8)


def prepared(vlm, frame, talk=TALK, viewing=Viewing()):
    return vlm.prepare(talk, frame[None], [0.0], 0.0, viewing, kind="image")


def with_processor(name, folder, **settings):
    """A twin whose image processor has other settings; None removes one."""
    shutil.copytree(ensure_tiny(name), folder, dirs_exist_ok=True)
    file = folder / "preprocessor_config.json"
    changed = json.loads(file.read_text()) | settings
    file.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))
    return folder


@pytest.fixture
def processor(monkeypatch):
    """transformers' processor of a folder. Images go through Pillow; its video processor, not used here, needs more."""
    monkeypatch.setattr(ProcessorMixin, "check_argument_for_proper_class", lambda *given: None)

    def opened(vlm, folder):
        if vlm.family.name == "InternVL3":
            images = GotOcr2ImageProcessorPil.from_pretrained(folder)
            return InternVLProcessor(images, vlm.tokenizer, None, vlm.model.config.image_seq_length)
        images = Qwen2VLImageProcessorPil.from_pretrained(folder)
        named = {"Qwen2.5-VL": Qwen2_5_VLProcessor, "Qwen3-VL": Qwen3VLProcessor}
        return named[vlm.family.name](images, vlm.tokenizer, None)

    return opened


def own(vlm, opened, frame, talk=TALK):
    """What transformers' processor makes of the conversation."""
    text = {"type": "text", "text": talk.question}
    said = [{"role": "user", "content": [{"type": "image"}, text]}]
    if talk.response is not None:
        said.append({"role": "assistant", "content": [{"type": "text", "text": talk.response}]})
    rendered = vlm.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=talk.response is None)
    return dict(opened(images=[Image.fromarray(frame)], text=[rendered], return_tensors="pt"))


def close_pixels(vlm, ours, theirs):
    """Pillow and torch round differently, once per axis: one grey level each, and of few values."""
    assert ours.shape == theirs.shape
    levels = (ours - theirs).abs() * max(vlm.images.image.std) * 255
    assert levels.max() < 2.2
    assert levels.mean() < 0.2


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_transformers_own(name, size, processor):
    vlm, frame = load(name), picture(size)
    made, theirs = prepared(vlm, frame), own(vlm, processor(vlm, ensure_tiny(name)), frame)
    assert torch.equal(made.input_ids, theirs["input_ids"][0])
    assert vlm.tokenizer.decode(made.input_ids) == made.text
    close_pixels(vlm, made.pixels["pixel_values"], theirs["pixel_values"])
    if name != INTERN:
        assert torch.equal(made.pixels["image_grid_thw"], theirs["image_grid_thw"])
        given = {key: theirs[key] for key in ("input_ids", "mm_token_type_ids", "image_grid_thw")}
        positions, _ = vlm.model.model.get_rope_index(**given)
        assert torch.equal(made.position_ids, positions[:, 0])
        other = prepared(vlm, frame, viewing=Viewing(positions="transformers"))
        assert torch.equal(made.position_ids, other.position_ids)
    given = {**theirs, "pixel_values": made.pixels["pixel_values"]}
    given.pop("num_patches", None)
    with torch.no_grad():
        logits = vlm.model(**given).logits
        batch = collate([made])
        ours = vlm.forward(batch, all_logits=True).logits_BLV
    assert batch["video_columns"].shape[1] == int((theirs["input_ids"] == vlm.images.visual_id).sum())
    torch.testing.assert_close(ours, logits, atol=rounding(64, float(logits.abs().max())), rtol=0)


def test_text_of_each_family():
    qwen, intern, qwen3 = (prepared(load(name), picture((224, 224))) for name in NAMES)
    assert "<|vision_start|>" + "<|image_pad|>" * 64 + "<|vision_end|>" + TALK.question in qwen.text
    block = "<img>" + "<IMG_CONTEXT>" * (5 * 16) + "</img>\n"
    assert f"<|im_start|>user\n{block}{TALK.question}" in intern.text
    block = "<|vision_start|>" + "<|image_pad|>" * 64 + "<|vision_end|>"  # 256 × 256 pixels are the fewest
    assert f"<|im_start|>user\n{block}{TALK.question}" in qwen3.text


LIMITS = {
    "older names": {"min_pixels": 80 * 80, "max_pixels": 100 * 100, "size": None},
    "as sizes": {"min_pixels": None, "max_pixels": None, "size": {"shortest_edge": 6400, "longest_edge": 10000}},
    "none": {"min_pixels": None, "max_pixels": None, "size": None},
}


@pytest.mark.parametrize("name", [QWEN, QWEN3])
@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS.keys())
@pytest.mark.parametrize("size", [(20, 31), (331, 517), (1100, 1300)])
def test_qwens_limits_are_the_image_processors(name, limits, size, processor, tmp_path):
    folder = with_processor(name, tmp_path / "model", **limits)
    vlm, frame = load_vlm(folder, torch.float32, "cpu", weights=False), picture(size)
    made = prepared(vlm, frame, viewing=Viewing(max_pixels=60 * 60))  # of a video's frames
    theirs = own(vlm, processor(vlm, folder), frame)
    assert torch.equal(made.input_ids, theirs["input_ids"][0])
    assert torch.equal(made.pixels["image_grid_thw"], theirs["image_grid_thw"])


@pytest.mark.parametrize("tiles", [(1, 4), (3, 6), (1, 1), (None, None)])
@pytest.mark.parametrize("size", [(56, 60), (224, 224), (331, 517)])
def test_internvls_tiles_are_the_image_processors(tiles, size, processor, tmp_path):
    fewest, most = tiles
    folder = with_processor(INTERN, tmp_path / "model", min_patches=fewest, max_patches=most)
    vlm, frame = load_vlm(folder, torch.float32, "cpu", weights=False), picture(size)
    made, theirs = prepared(vlm, frame), own(vlm, processor(vlm, folder), frame)
    assert torch.equal(made.input_ids, theirs["input_ids"][0])
    close_pixels(vlm, made.pixels["pixel_values"], theirs["pixel_values"])


def test_tiling_is_transformers_canvas():
    rng = np.random.default_rng(0)
    ties = [[448, 448], [672, 448], [1000, 1000], [633, 634], [300, 600], [400, 300]]
    sizes = [*rng.integers(8, 3000, (300, 2)).tolist(), *ties]
    for fewest, most in ((1, 12), (1, 6), (2, 4), (1, 1)):
        for height, width in sizes:
            across, down = get_optimal_tiled_canvas((height, width), (448, 448), fewest, most)
            assert tiling(height, width, (448, 448), fewest, most) == (down, across)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_alone_give_the_layout_of_a_file(name, tmp_path):
    path = written(tmp_path / "image.mkv", 1, 1, 131, 217)
    image = manifest(path).model_copy(update={"kind": "image"})
    vlm = load(name)
    made, seen = vlm.lay_out(TALK, image, Viewing())
    whole, indices = vlm.read(TALK, image, path, Viewing())
    frame = np.random.default_rng(0).integers(0, 256, (1, 131, 217, 3), dtype=np.uint8)[0]
    decoded = prepared(vlm, frame)
    assert seen == indices == [0]
    for one in (made, whole):
        assert torch.equal(one.input_ids, decoded.input_ids)
        assert torch.equal(one.position_ids, decoded.position_ids)
        assert torch.equal(one.video_columns, decoded.video_columns)
        with pytest.raises(DataError, match="no motion"):
            _ = one.video_grid
    assert whole.pixels.keys() == decoded.pixels.keys()
    assert all(torch.equal(value, decoded.pixels[key]) for key, value in whole.pixels.items())
    video, _ = vlm.lay_out(TALK, manifest(path), Viewing())
    assert not torch.equal(video.input_ids, made.input_ids)


@pytest.mark.parametrize("name", NAMES)
def test_a_reply_about_an_image_is_the_plain_models(name, processor):
    vlm, frame, talk = load(name), picture((100, 180)), replace(TALK, response=None)
    made, given = prepared(vlm, frame, talk), own(vlm, processor(vlm, ensure_tiny(name)), frame, talk)
    given.pop("num_patches", None)
    given["pixel_values"] = made.pixels["pixel_values"]
    greedy = {"do_sample": False, "temperature": None, "repetition_penalty": 1.0, "max_new_tokens": 6}
    theirs = vlm.model.generate(**given, eos_token_id=[], **greedy)
    reply = vlm.tokenizer.decode(theirs[0, len(made.input_ids) :], skip_special_tokens=True)
    assert replace(vlm, stops=frozenset()).generate(made, 6) == reply


@pytest.mark.parametrize("side", ["left", "right"])
def test_one_batch_of_images_videos_and_text(vlm, side):
    made = [
        prepared(vlm, picture((224, 224))),
        vlm.prepare(TALK, *clip(3)),
        vlm.text_only(TALK),
        prepared(vlm, picture((64, 200), seed=1)),
    ]
    batch = collate(made, side)
    with torch.no_grad():
        together = vlm.forward(batch, all_logits=True).logits_BLV
        for b, one in enumerate(made):
            alone = vlm.forward(collate([one]), all_logits=True).logits_BLV[0]
            at = slice(int(batch["start"][b]), int(batch["start"][b]) + len(one.input_ids))
            close = rounding(64, float(alone.abs().max()))
            torch.testing.assert_close(together[b, at], alone, atol=close, rtol=0)


def test_an_image_has_one_frame():
    frames, times, duration = clip(2)
    with pytest.raises(DataError, match="2 frames, 2 times of one image"):
        load(QWEN).prepare(TALK, frames, times, duration, kind="image")
    with pytest.raises(DataError, match="aspect ratio exceeds 200"):
        prepared(load(QWEN), picture((5, 2000)))


def test_settings_come_from_the_image_processor(tmp_path):
    def write(name, content):
        (tmp_path / name).write_text(json.dumps(content))

    values = {"image_std": [0.5, 0.5, 0.5]}
    write("video_preprocessor_config.json", values | {"image_mean": [0.2, 0.2, 0.2]})
    with pytest.raises(ParameterError, match="image_mean"):
        ImageSettings.read(tmp_path, "image")
    write("preprocessor_config.json", values | {"image_mean": [0.1, 0.1, 0.1]})
    assert ImageSettings.read(tmp_path, "image").mean == (0.1, 0.1, 0.1)
    both = {f"{kind}_processor": values | {"image_mean": [mean] * 3} for kind, mean in (("image", 0.3), ("video", 0.4))}
    write("processor_config.json", both)
    assert ImageSettings.read(tmp_path, "image").mean == (0.3, 0.3, 0.3)
    assert ImageSettings.read(tmp_path, "video").mean == (0.4, 0.4, 0.4)
