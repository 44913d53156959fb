"""Clips of Qwen3-VL against transformers' own processor: text with its times, frames, sizes, pixels, positions.

transformers' video processor resizes by torchvision; here Pillow takes its place.
"""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.processing_utils import ProcessorMixin
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from components.core.errors import DataError
from components.media.viewing import Viewing
from components.models.registry import ensure_tiny
from components.models.vlm.example import collate
from components.models.vlm.qwen3_vl import FAMILY, cell_times, fps_indices
from components.models.vlm.reader import open_reader
from tests.arithmetic import rounding
from tests.models.vlm.cases import QWEN3, TALK, clip, load
from tests.models.vlm.test_images import close_pixels
from tests.models.vlm.test_reader import manifest, written

SIDE = 32
LIMITS = {"shortest_edge": 4096, "longest_edge": 25165824}


class VideoProcessor(Qwen3VLVideoProcessor):
    """Without torchvision."""

    def convert_to_rgb(self, video):
        return video

    def rescale_and_normalize(self, images, do_rescale, rescale_factor, do_normalize, image_mean, image_std):
        mean, std = (torch.tensor(values)[:, None, None] for values in (image_mean, image_std))
        return (images * rescale_factor - mean) / std


@pytest.fixture
def processor(monkeypatch):
    """transformers' processor; frames have at most `max_pixels` each, a multiple of a cell's."""

    def resize(_, image, size, resample):
        assert resample == Image.BICUBIC
        frames = image.flatten(0, 1).permute(0, 2, 3, 1).numpy()
        small = [Image.fromarray(frame).resize((size.width, size.height), resample) for frame in frames]
        return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).unflatten(0, image.shape[:2])

    monkeypatch.setattr(BaseVideoProcessor, "resize", resize)
    monkeypatch.setattr(ProcessorMixin, "check_argument_for_proper_class", lambda *given: None)

    def opened(vlm, max_pixels):
        folder, cap = ensure_tiny(QWEN3), {"cap_pixels_per_frame": True, "max_video_tokens": max_pixels // SIDE**2}
        videos = VideoProcessor.from_pretrained(folder, **cap)
        return Qwen3VLProcessor(Qwen2VLImageProcessorPil.from_pretrained(folder), vlm.tokenizer, videos)

    return opened


def own(vlm, opened, frames, rate, **sampling):
    """What transformers' processor makes of the conversation about a whole clip."""
    said = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": TALK.question}]}]
    said.append({"role": "assistant", "content": [{"type": "text", "text": TALK.response}]})
    rendered = vlm.tokenizer.apply_chat_template(said, tokenize=False)
    whole = VideoMetadata(total_num_frames=len(frames), fps=rate, duration=len(frames) / rate)
    given = {"videos": [frames], "video_metadata": [whole], "do_sample_frames": True, **sampling}
    return opened(text=[rendered], return_tensors="pt", **given)


CLIPS = {  # frames, frames per second, height, width, frames per second shown, most pixels of one
    "two seconds": (16, 8.0, 64, 96, 2.0, 84 * SIDE**2),
    "odd": (9, 1.0, 131, 217, 1.0, 12 * SIDE**2),
    "a slow clip": (3, 1.0, 64, 64, 2.0, 84 * SIDE**2),
    "one second": (30, 30.0, 300, 90, 2.0, 6 * SIDE**2),
    "narrow": (8, 4.0, 20, 300, 2.0, 84 * SIDE**2),
    "small": (8, 4.0, 33, 33, 2.0, 84 * SIDE**2),
}


@pytest.mark.parametrize("case", CLIPS.values(), ids=CLIPS.keys())
def test_a_clip_is_transformers_own(case, processor):
    """Under `transformers` to the last token; under `qwen` without the outer pair of start and end."""
    total, rate, height, width, fps, most = case
    vlm, (frames, *_) = load(QWEN3), clip(total, height, width)
    frames = frames // 2 + 64  # where bytes overflow, Pillow and torch clip in another order
    theirs = own(vlm, processor(vlm, most), frames, rate, fps=fps)
    viewing = Viewing(fps=fps, max_pixels=most, positions="transformers")
    video = SimpleNamespace(duration=total / rate, times=[k / rate for k in range(total)])
    seen = FAMILY.frames(viewing, video)
    given = frames[seen], [video.times[k] for k in seen], video.duration
    made = vlm.prepare(TALK, *given, viewing)
    assert torch.equal(made.input_ids, theirs["input_ids"][0])
    assert torch.equal(made.pixels["video_grid_thw"], theirs["video_grid_thw"])
    close_pixels(vlm, made.pixels["pixel_values_videos"], theirs["pixel_values_videos"])
    asked = {name: theirs[name] for name in ("input_ids", "mm_token_type_ids", "video_grid_thw")}
    positions, _ = vlm.model.model.get_rope_index(**asked)
    assert torch.equal(made.position_ids, positions[:, 0])

    plain = vlm.prepare(TALK, *given, viewing.model_copy(update={"positions": "qwen"}))
    start, end = "<|vision_start|>", "<|vision_end|>"
    first, last = made.text.index(start), made.text.rindex(end)
    assert plain.text == made.text[:first] + made.text[first + len(start) : last] + made.text[last + len(end) :]
    asked["input_ids"] = plain.input_ids[None]
    asked["mm_token_type_ids"] = torch.where(asked["input_ids"] == vlm.inputs.visual_id, 2, 0)
    positions, _ = vlm.model.model.get_rope_index(**asked)
    assert torch.equal(plain.position_ids, positions[:, 0])
    gap = int(plain.position_ids[0, -1] - made.position_ids[0, -1])
    assert FAMILY.position_gap(viewing, video.duration) == gap


@pytest.mark.parametrize("rule", ["qwen", "transformers"])
def test_logits_are_the_plain_models_without_positions(rule):
    """The model finds its positions and adds its DeepStack features itself."""
    vlm = load(QWEN3)
    made = vlm.prepare(TALK, *clip(7), Viewing(positions=rule))
    ids = made.input_ids[None]
    with torch.no_grad():
        kinds = torch.where(ids == vlm.inputs.visual_id, 2, 0)
        theirs = vlm.model(input_ids=ids, mm_token_type_ids=kinds, **made.pixels).logits
        ours = vlm.forward(collate([made]), all_logits=True).logits_BLV
    torch.testing.assert_close(ours, theirs, atol=rounding(64, float(theirs.abs().max())), rtol=0)


def slow_positions(ids, visual_id, rows, cols):
    """Token by token: text counts on from the largest position so far, each block's cells from there."""
    out, largest, cell = [], -1, 0
    for token in ids:
        if token != visual_id:
            largest += 1
            out.append([largest] * 3)
            continue
        if cell == 0:
            base = largest + 1
        y, x = divmod(cell, cols)
        out.append([base, base + y, base + x])
        cell = (cell + 1) % (rows * cols)
        if cell == 0:
            largest = base + max(rows, cols) - 1
    return torch.tensor(out).T


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 3, 2), (3, 2, 5), (2, 4, 4)])
def test_positions_token_by_token(shape):
    inputs = load(QWEN3).inputs
    frames, rows, cols = shape
    block = [7, 7, 7, *[inputs.visual_id] * (rows * cols), 7]
    ids = torch.tensor([5, *block * frames, 9, 9])
    found = inputs.positions(ids, shape, 1.0, Viewing())
    assert torch.equal(found, slow_positions(ids.tolist(), inputs.visual_id, rows, cols))


@pytest.mark.parametrize("fps", [0.5, 1.0, 2.0, 24.0])
def test_frames_are_the_processors(fps):
    own = Qwen3VLVideoProcessor()
    for total, rate in [(17, 8.0), (60, 30.0), (181, 30.0), (3000, 10.0), (90000, 30.0), (5, 1.0), (2, 1.0), (1, 25.0)]:
        theirs = own.sample_frames(VideoMetadata(total_num_frames=total, fps=rate), fps=fps).tolist()
        assert fps_indices(total / rate, total, fps, own.max_frames) == theirs
    assert len(fps_indices(5.999, 180, 1.0, 768)) == 6  # a millisecond clock's 6 s
    assert len(fps_indices(100.0, 3000, 1.0, 33)) == 33


@pytest.mark.parametrize("limits", [LIMITS, {"shortest_edge": 128 * 1024, "longest_edge": 768 * 1024}])
def test_sizes_are_the_processors(limits, monkeypatch):
    """Within the viewing's pixels of a frame, and the checkpoint's of a whole clip."""
    inputs = load(QWEN3).inputs
    changed = type(inputs)(**{**vars(inputs), "limits": (limits["shortest_edge"], limits["longest_edge"])})
    sizes = np.random.default_rng(0).integers(8, 2000, (200, 2)).tolist()
    counts = (2, 3, 4, 5, 7, 60, 250, 767, 768)
    cut = 0
    for k, (height, width) in enumerate(sizes):
        count, tokens = counts[k % len(counts)], (4, 84, 147, 768)[k % 4]
        own = Qwen3VLVideoProcessor(size=limits, cap_pixels_per_frame=True, max_video_tokens=tokens)
        viewing = Viewing(max_pixels=tokens * SIDE**2)
        h, w = changed.frame_size(count, height, width, viewing)
        rows, cols = h // SIDE, w // SIDE
        assert changed.shape(count, height, width, viewing) == (-(-count // 2), rows, cols)
        assert 4 * -(-count // 2) * rows * cols == own.get_num_of_video_patches(count, height, width)
        cut += h * w * count > 0.5 * limits["longest_edge"]
    assert cut > 10  # the clip's limit was at work
    assert changed.frame_size(1, 480, 640, Viewing()) == changed.frame_size(2, 480, 640, Viewing())
    with pytest.raises(DataError, match="aspect ratio"):
        changed.frame_size(4, 5, 2000, Viewing())


@pytest.mark.parametrize("size", [LIMITS, {"shortest_edge": 4096, "longest_edge": 64 * 1024}, None])
def test_a_clips_limits_come_from_the_checkpoint(size, tmp_path):
    """And hold for layout and pixels of a file alike."""
    folder = shutil.copytree(ensure_tiny(QWEN3), tmp_path / "model")
    file = folder / "video_preprocessor_config.json"
    settings = json.loads(file.read_text()) | {"size": size}
    file.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
    path = written(tmp_path / "clip.mkv", 12, 2, 64, 96)
    made, seen = open_reader(folder).read(TALK, manifest(path), path, Viewing(fps=2.0, max_pixels=147 * SIDE**2))
    own = Qwen3VLVideoProcessor.from_pretrained(folder, cap_pixels_per_frame=True, max_video_tokens=147)
    patches = own.get_num_of_video_patches(len(seen), 64, 96)
    assert len(seen) == 12
    assert 4 * len(made.video_columns) == len(made.pixels["pixel_values_videos"]) == patches
    assert math.prod(made.pixels["video_grid_thw"][0].tolist()) == patches


def test_a_block_has_the_mean_time_of_its_frames():
    assert cell_times([0.0, 0.5, 1.0, 2.5, 4.0], 2) == [0.25, 1.75, 4.0]
    assert cell_times([0.0, 1.0, 2.0], 4) == [1.0]
    assert cell_times([3.0], 2) == [3.0]
