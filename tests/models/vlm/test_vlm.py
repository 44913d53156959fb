"""The VLM room on tiny twins of the real classes: pixels, positions, layout, labels, batches, replies."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from components.core.errors import DataError, ParameterError
from components.kubeflow.tree import ROOT
from components.media.viewing import Viewing
from components.models.registry import ensure_tiny
from components.models.vlm import internvl3, qwen2_5_vl, qwen3_vl
from components.models.vlm.example import IGNORED, collate
from components.models.vlm.interface import Conversation
from components.models.vlm.internvl3 import segment_indices
from components.models.vlm.model import load_vlm
from components.models.vlm.pixels import ImageSettings, to_pixels
from components.models.vlm.qwen2_5_vl import FAMILY, fps_indices, patchify, smart_resize
from tests.arithmetic import rounding
from tests.models.vlm.cases import INTERN, NAMES, QWEN, TALK, clip, example, load

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


# The twins ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [qwen2_5_vl.make_tiny, internvl3.make_tiny, qwen3_vl.make_tiny])
def test_twins_are_small_and_byte_deterministic(make, tmp_path):
    first, second = make(tmp_path / "a"), make(tmp_path / "b")
    files = {file.name: file.read_bytes() for file in first.iterdir()}
    assert files == {file.name: file.read_bytes() for file in second.iterdir()}
    assert files.keys() >= {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert 200_000 < sum(p.numel() for p in AutoModelForImageTextToText.from_pretrained(first).parameters()) < 300_000


def test_saved_model_opens_with_plain_transformers(vlm, tmp_path):
    vlm.model.save_pretrained(tmp_path)
    assert "sdpa_rows" not in (tmp_path / "config.json").read_text()
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path)
    batch = collate([example(vlm)])
    with torch.no_grad():
        ours = vlm.forward(batch, all_logits=True).logits_BLV
        theirs = plain(**vlm.arguments(batch)).logits
    assert torch.equal(ours, theirs)


# Pixels ---------------------------------------------------------------------------------------------------------------


def slow_bicubic(plane, size):
    """Antialiased bicubic (a = −0.5) along axis 0 in float64, weight by weight, clipped to what a byte holds."""
    n = plane.shape[0]
    scale = n / size
    width = max(scale, 1.0)
    out = np.zeros((size, *plane.shape[1:]))
    for i in range(size):
        centre = (i + 0.5) * scale
        weights = np.zeros(n)
        for j in range(n):
            d = abs(j + 0.5 - centre) / width
            weights[j] = 1.5 * d**3 - 2.5 * d**2 + 1 if d < 1 else -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0
        out[i] = np.tensordot(weights / weights.sum(), plane, 1)
    return out.clip(0, 255)


def slow_resize(frame, height, width):
    """Columns first, as bytes are clipped after each axis."""
    narrow = slow_bicubic(frame.astype(float).swapaxes(0, 1), width).swapaxes(0, 1)
    return slow_bicubic(narrow, height)


@pytest.mark.parametrize("source", [(37, 90), (120, 64), (56, 84), (20, 31)])
def test_pixels_against_a_slow_reference(source):
    frames, *_ = clip(3, *source)
    size, image = (56, 84), ImageSettings(CLIP_MEAN, CLIP_STD, 1 / 255)
    pixels = to_pixels(frames, *size, image)
    smooth = np.stack([slow_resize(frame, *size) for frame in frames])
    expected = (smooth / 255 - CLIP_MEAN) / CLIP_STD
    grey = np.abs(pixels.permute(0, 2, 3, 1).double().numpy() - expected) * CLIP_STD * 255
    assert grey.max() < (1e-3 if source == size else 1.2)  # bytes are rounded after each axis
    assert grey.mean() < 0.5


def test_patches_against_loops():
    """Cells frame-major, in a cell 2 × 2 patches, in a patch channel, frame, row, column; the last frame repeats."""
    patch, merge, group = 2, 2, 2
    pixels = torch.arange(3 * 3 * 8 * 12, dtype=torch.float32).reshape(3, 3, 8, 12)
    found = patchify(pixels, patch, merge, group)
    rows = []
    for t, y, x, my, mx in np.ndindex(2, 2, 3, merge, merge):
        top, left = (y * merge + my) * patch, (x * merge + mx) * patch
        cells = np.ndindex(3, group, patch, patch)
        rows.append([pixels[min(t * group + k, 2), c, top + i, left + j] for c, k, i, j in cells])
    assert torch.equal(found, torch.tensor(rows))


def test_smart_resize():
    # √(720·1280/151200) = 2.469: ⌊291.6/28⌋ = 10, ⌊518.4/28⌋ = 18
    assert smart_resize(720, 1280, 28, 3136, 360 * 420) == (280, 504)
    assert smart_resize(64, 96, 28, 3136, 360 * 420) == (56, 84)
    assert smart_resize(10, 10, 28, 3136, 360 * 420) == (56, 56)
    rng = np.random.default_rng(0)
    for height, width in rng.integers(8, 2000, (200, 2)).tolist():
        h, w = smart_resize(height, width, 28, 3136, 360 * 420)
        assert h % 28 == w % 28 == 0
        assert min(h, w) == 28 or 3136 <= h * w <= 360 * 420
        assert min(h, w) <= 84 or abs(math.log(h / w) - math.log(height / width)) < 0.3
    with pytest.raises(DataError, match="aspect ratio"):
        smart_resize(5, 2000, 28, 3136, 360 * 420)


def test_image_settings_come_from_the_video_processor_first(tmp_path):
    def write(name, content):
        (tmp_path / name).write_text(json.dumps(content))

    values = {"image_std": [0.5, 0.5, 0.5]}
    with pytest.raises(ParameterError, match="image_mean"):
        ImageSettings.read(tmp_path)
    write("preprocessor_config.json", values | {"image_mean": [0.1, 0.1, 0.1]})
    assert ImageSettings.read(tmp_path).mean == (0.1, 0.1, 0.1)
    write("video_preprocessor_config.json", values | {"image_mean": [0.2, 0.2, 0.2], "rescale_factor": 0.5})
    write("processor_config.json", {"image_seq_length": 16})
    assert ImageSettings.read(tmp_path) == ImageSettings((0.2, 0.2, 0.2), (0.5, 0.5, 0.5), 0.5)
    write("processor_config.json", {"video_processor": values | {"image_mean": [0.3, 0.3, 0.3], "resample": 2}})
    with pytest.raises(ParameterError, match="bicubic"):
        ImageSettings.read(tmp_path)


# Frames ---------------------------------------------------------------------------------------------------------------

CLIPS = [(17, 8), (60, 30), (150, 30), (180, 30), (181, 30), (450, 30), (3000, 10), (90000, 30), (5, 1), (2, 1)]


@pytest.mark.parametrize(("total", "rate"), CLIPS)
@pytest.mark.parametrize("fps", [1.0, 2.0])
def test_qwen_samples_by_time(total, rate, fps):
    frames = min(min(max(total / rate * fps, 4), 768), total)
    frames = int(frames // 2) * 2
    expected = np.linspace(0, total - 1, frames).round().astype(int).tolist()
    assert fps_indices(total / rate, total, fps) == expected


def test_qwen_samples_at_the_edges():
    assert len(fps_indices(4.9, 147)) == 4  # every clip of up to 5 s gets 4 frames
    assert len(fps_indices(5.999, 180)) == 6  # a millisecond clock's 6 s
    assert fps_indices(0.04, 1) == [0]
    assert len(fps_indices(100.0, 3000, 1.0, max_frames=33)) == 32


@pytest.mark.parametrize(("total", "n"), [(17, 8), (300, 8), (5, 8), (1, 8), (99, 16)])
def test_internvl_segments(total, n):
    segment = float(total - 1 - 0) / n
    expected = [int(0 + (segment / 2) + np.round(segment * i)) for i in range(n)]
    assert segment_indices(total, n) == expected
    assert max(expected) < total


# Positions and layout -------------------------------------------------------------------------------------------------


def slow_positions(ids, video_id, shape, seconds, per_second):
    """Qwen's rule token by token: text counts on from the largest position so far, cells (t, y, x) from there."""
    out, largest, cell = [], -1, 0
    for token in ids:
        if token != video_id:
            largest += 1
            out.append([largest] * 3)
            continue
        if cell == 0:
            base = largest + 1
        t, rest = divmod(cell, shape[1] * shape[2])
        y, x = divmod(rest, shape[2])
        when = int(np.float32(np.float32(t) * np.float32(seconds)) * np.float32(per_second))
        out.append([base + when, base + y, base + x])
        cell += 1
        if cell == math.prod(shape):
            largest = max(max(place) for place in out)
    return torch.tensor(out).T


@pytest.mark.parametrize(("n", "duration"), [(4, 4.0), (5, 5.0), (6, 9.99), (12, 30.1), (1, 0.4)])
def test_qwen_positions_against_its_own_rule(n, duration):
    vlm = load(QWEN)
    frames, *_ = clip(n)
    made = vlm.prepare(TALK, frames, [k * duration / n for k in range(n)], duration)
    shape = (math.ceil(n / 2), 2, 3)
    expected = slow_positions(made.input_ids.tolist(), vlm.inputs.visual_id, shape, 2 * duration / n, 2)
    assert torch.equal(made.position_ids, expected)


@pytest.mark.parametrize(("frames", "after"), [(6, 27), (24, 63), (60, 135)])
def test_first_text_position_after_the_video(frames, after):
    """Known values at 1 fps and 18 tokens before the video; up to there transformers' own index is the same."""
    vlm = load(QWEN)
    shape = (frames // 2, 2, 3)
    ids = torch.tensor([0] * 18 + [vlm.inputs.visual_id] * math.prod(shape) + [0] * 4)
    ours = vlm.inputs.positions(ids, shape, 2.0, Viewing())
    grid = torch.tensor([[shape[0], 4, 6]])
    kinds, times = torch.where(ids == vlm.inputs.visual_id, 2, 0)[None], torch.tensor([2.0])
    theirs, _ = vlm.model.model.get_rope_index(ids[None], kinds, video_grid_thw=grid, second_per_grid_ts=times)
    assert ours[:, -4].tolist() == [after] * 3
    assert torch.equal(ours[:, :-4], theirs[:, 0, :-4])


def own_arguments(vlm, made, seconds):
    """What transformers' own processor gives the model, without positions."""
    ids = made.input_ids[None]
    if vlm.family.name == "InternVL3":
        return {"input_ids": ids, **made.pixels}
    given = {"input_ids": ids, "mm_token_type_ids": torch.where(ids == vlm.inputs.visual_id, 2, 0), **made.pixels}
    return given | ({"second_per_grid_ts": torch.tensor([seconds])} if vlm.family.name == "Qwen2.5-VL" else {})


LENGTHS = [(1, 0.4), (4, 4.0), (5, 5.0), (6, 9.99), (12, 30.1), (60, 60.0), (64, 600.0)]


@pytest.mark.parametrize(("n", "duration"), LENGTHS)
def test_the_other_rule_is_the_installed_models_own_index(n, duration):
    vlm = load(QWEN)
    frames, *_ = clip(n)
    times = [k * duration / n for k in range(n)]
    ours, qwen = (
        vlm.prepare(TALK, frames, times, duration, Viewing(positions=rule)) for rule in ("transformers", "qwen")
    )
    given = own_arguments(vlm, ours, 2 * duration / n)
    given.pop("pixel_values_videos")
    theirs, _ = vlm.model.model.get_rope_index(**given)
    assert torch.equal(ours.position_ids, theirs[:, 0])
    last = int(qwen.video_columns.max())
    assert torch.equal(ours.position_ids[:, : last + 1], qwen.position_ids[:, : last + 1])
    gap = qwen.position_ids[:, last + 1 :] - ours.position_ids[:, last + 1 :]
    assert gap.unique().tolist() == [max(0, int((math.ceil(n / 2) - 1) * 4 * duration / n) + 1 - 3)]


@pytest.mark.parametrize("name", NAMES)
def test_a_reply_is_that_of_the_plain_model_without_positions(name):
    """Under `transformers` a model answers as its own `generate` does, past a long clip too."""
    vlm = load_attentive(name)
    made, qwen = (
        vlm.prepare(replace(TALK, response=None), *clip(40), Viewing(positions=rule))
        for rule in ("transformers", "qwen")
    )
    given = own_arguments(vlm, made, 2.0)
    if name == INTERN:
        assert torch.equal(made.position_ids, qwen.position_ids)
    greedy = {"do_sample": False, "temperature": None, "repetition_penalty": 1.0, "max_new_tokens": 6}
    ones = torch.ones_like(given["input_ids"])
    theirs = vlm.model.generate(**given, attention_mask=ones, eos_token_id=[], **greedy)
    reply = vlm.tokenizer.decode(theirs[0, len(made.input_ids) :], skip_special_tokens=True)
    assert replace(vlm, stops=frozenset()).generate(made, 6) == reply


def test_the_gap_between_the_rules():
    """1280 × 720 at 151 200 pixels is 10 × 18 cells; n frames at 1 fps count to 4 (n / 2 − 1)."""
    wanted = {4: 0, 10: 0, 30: 39, 120: 219, 600: 1179}
    assert {seconds: FAMILY.position_gap(Viewing(), seconds) for seconds in wanted} == wanted
    # 100 frames of 1200 s: a cell lasts 24 s
    assert FAMILY.position_gap(Viewing(max_frames=100), 1200) == 49 * 48 + 1 - 18
    assert internvl3.FAMILY.position_gap(Viewing(), 600) == 0
    assert qwen3_vl.FAMILY.position_gap(Viewing(), 600) == -2
    assert "by 39 positions for a clip of 30 s" in (ROOT / "README.md").read_text()


def embedded(vlm, made):
    """What the language model reads: the embedding of every token."""
    seen = {}
    language = vlm.model.model.language_model
    handle = language.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True)
    with torch.no_grad():
        vlm.forward(collate([made]))
    handle.remove()
    return seen["inputs_embeds"][0]


def test_a_changed_cell_changes_its_column(vlm):
    """From pixels to the sequence: noise in one cell moves the embedding at its `video_columns` most."""
    frames, times, duration = clip(4, 224, 336)
    base = vlm.prepare(TALK, frames, times, duration)
    before, grid = embedded(vlm, base), base.grid
    shape = grid.shape
    assert len(base.video_columns) == math.prod(shape)
    rng = np.random.default_rng(1)
    for cell in rng.choice(math.prod(shape), 12, replace=False).tolist():
        t, y, x = np.unravel_index(cell, shape)
        changed, group = frames.copy(), vlm.inputs.group
        top, bottom = (round(224 * k / shape[1]) for k in (y, y + 1))
        left, right = (round(336 * k / shape[2]) for k in (x, x + 1))
        changed[t * group : (t + 1) * group, top:bottom, left:right] = rng.choice([0, 255], 3)
        moved = (embedded(vlm, vlm.prepare(TALK, changed, times, duration)) - before).norm(dim=-1)
        assert int(moved.argmax()) == int(base.video_columns[cell])
        assert grid.times[t][0] <= times[t * group] <= grid.times[t][1]


def test_layout_of_each_family():
    qwen, intern, qwen3 = (example(load(name), n=3) for name in NAMES)
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    assert qwen.text.startswith(system + "<|im_start|>user\n<|vision_start|><|video_pad|>")
    talk = f"{TALK.question}<|im_end|>\n<|im_start|>assistant\n{TALK.response}<|im_end|>\n"
    assert qwen.text.endswith("<|vision_end|>" + talk)
    frame = "<img>" + "<IMG_CONTEXT>" * 16 + "</img>\n"
    assert intern.text == "<|im_start|>user\n" + "".join(f"Frame{k}: {frame}" for k in (1, 2, 3)) + talk
    assert qwen.grid.shape == (2, 2, 3)
    assert intern.grid.shape == (3, 4, 4)
    assert torch.equal(intern.position_ids, torch.arange(len(intern.input_ids))[None])
    pair = "<|vision_start|>" + "<|video_pad|>" * 6 + "<|vision_end|>"
    assert qwen3.text == f"<|im_start|>user\n<0.5 seconds>{pair}<2.0 seconds>{pair}{talk}"
    assert qwen3.grid.shape == (2, 2, 3)


def test_frame_size_follows_max_pixels():
    frames, times, duration = clip(4, 224, 336)
    vlm = load(QWEN)
    for viewing, cells in ((Viewing(), (2, 8, 12)), (Viewing(max_pixels=56 * 84), (2, 2, 3))):
        assert vlm.prepare(TALK, frames, times, duration, viewing).grid.shape == cells


# Text and labels ------------------------------------------------------------------------------------------------------

TALKS = {
    "plain": TALK,
    "several turns": Conversation([("What is it?", "A ball."), ("Sure?", "Yes.")], "Where does it go?", "Left."),
    "quotes the question": Conversation([("user", "assistant")], "What moves?", "What moves? What moves? The ball."),
    "role names": Conversation([], "user", "assistant\nuser"),
    "other scripts": Conversation([], "球 moves 👩‍👩‍👧?", "左に 🎾 é"),
    "spaces inside": Conversation([], "a  b\n\n c", "x\n\ny  z"),
}


@pytest.mark.parametrize("talk", TALKS.values(), ids=TALKS.keys())
def test_labels_are_the_response_and_the_end_of_its_turn(vlm, talk):
    made = example(vlm, talk)
    learned = made.labels != IGNORED
    assert torch.equal(made.labels[learned], made.input_ids[learned])
    assert vlm.tokenizer.decode(made.labels[learned]) == talk.response + "<|im_end|>"
    assert int(torch.nonzero(learned).max()) == len(made.input_ids) - 2  # only the template's newline follows
    for field in ("question", "response"):
        start, end = made.spans[field]
        assert made.text[start:end] == getattr(talk, field)
    assert vlm.tokenizer.decode(made.input_ids) == made.text


def test_no_labels_without_response(vlm):
    made = example(vlm, replace(TALK, response=None))
    assert bool((made.labels == IGNORED).all())
    assert made.text.endswith(TALK.question + "<|im_end|>\n<|im_start|>assistant\n")
    assert vlm.forward(collate([made])).logits_BLV.shape[1] == 1


@pytest.mark.parametrize("place", ["question", "response", "earlier"])
def test_control_tokens_are_refused(vlm, place):
    for token in ("<|im_end|>", "\ue000", vlm.inputs.placeholder):
        changed = {place: [("a", f"b{token}")] if place == "earlier" else f"a {token} b"}
        with pytest.raises(DataError, match="control tokens"):
            example(vlm, replace(TALK, **changed))


def test_bad_input_is_named(vlm):
    frames, times, duration = clip()
    with pytest.raises(DataError, match="5 frames, 4 times"):
        vlm.prepare(TALK, frames, times[:4], duration)
    with pytest.raises(DataError, match="8192 positions"):
        example(vlm, replace(TALK, response="x " * 9000))
    own = vlm.tokenizer.chat_template
    vlm.tokenizer.chat_template = own.replace("part.text", "part.text | upper")
    try:
        with pytest.raises(ParameterError, match="changes the question"):
            example(vlm)
    finally:
        vlm.tokenizer.chat_template = own


# Forward, batches, replies --------------------------------------------------------------------------------------------


def test_logits_only_where_labels_are_predicted(vlm):
    batch = collate([example(vlm)])
    with torch.no_grad():
        few, full = vlm.forward(batch), vlm.forward(batch, all_logits=True)
        own = vlm.model(**vlm.arguments(batch), labels=batch["labels"]).loss
    learned = full.targets_BL[0] != IGNORED
    assert few.logits_BLV.shape[1] == int(learned.sum())
    close = rounding(64, float(full.logits_BLV.abs().max()))
    torch.testing.assert_close(few.logits_BLV[0], full.logits_BLV[0, learned], atol=close, rtol=0)
    assert torch.equal(few.targets_BL[0], full.targets_BL[0, learned])
    loss = torch.nn.functional.cross_entropy(few.logits_BLV[0], few.targets_BL[0])
    assert float(loss) == pytest.approx(float(own), rel=rounding(int(learned.sum())))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_equals_its_samples(vlm, side):
    short = Conversation([], "Why?", "Because it is red and moves.")
    made = [vlm.prepare(TALK, *clip(5)), vlm.prepare(short, *clip(2, 120, 60, seed=2))]
    batch = collate(made, side)
    with torch.no_grad():
        together = vlm.forward(batch, all_logits=True)
        for b, one in enumerate(made):
            alone = vlm.forward(collate([one]), all_logits=True)
            at = slice(int(batch["start"][b]), int(batch["start"][b]) + len(one.input_ids))
            close = rounding(64, float(alone.logits_BLV.abs().max()))
            torch.testing.assert_close(together.logits_BLV[b, at], alone.logits_BLV[0], atol=close, rtol=0)
            targets = vlm.forward(batch).targets_BL[b]
            assert torch.equal(targets[targets != IGNORED], one.labels[one.labels != IGNORED])
            seen = batch["video_columns"][b][batch["video_mask"][b]]
            assert torch.equal(seen - batch["start"][b], one.video_columns)


def load_attentive(name):
    """A random model attends to everything alike and repeats itself; this one does not."""
    vlm = load(name)
    with torch.no_grad():
        for key, weight in vlm.model.model.language_model.layers.named_parameters():
            if "proj.weight" in key:
                weight.mul_(6)
    return vlm


def slow_reply(vlm, made, count):
    """Greedy without a cache: the whole sequence again for every token."""
    reply = []
    for _ in range(count):
        with torch.no_grad():
            token = int(vlm.forward(collate([made])).logits_BLV[0, -1].argmax())
        if token in vlm.stops:
            break
        reply.append(token)
        following = made.position_ids.amax() + 1
        input_ids, labels = (
            torch.cat([made.input_ids, torch.tensor([token])]),
            torch.cat([made.labels, made.labels[:1]]),
        )
        position_ids = torch.cat([made.position_ids, following.expand(len(made.position_ids), 1)], dim=1)
        offsets = torch.cat([made.offsets, made.offsets[-1:]])
        made = replace(made, input_ids=input_ids, labels=labels, offsets=offsets, position_ids=position_ids)
    return reply


@pytest.mark.parametrize("name", NAMES)
def test_generate_equals_teacher_forcing(name):
    vlm = load_attentive(name)
    made = example(vlm, replace(TALK, response=None))
    reply = slow_reply(vlm, made, 12)
    assert len(set(reply)) > 3
    assert vlm.generate(made, 12) == vlm.tokenizer.decode(reply, skip_special_tokens=True)
    vlm.model.train()
    vlm.model.gradient_checkpointing_enable()  # which drops the cache while training
    assert vlm.generate(made, 4) == vlm.tokenizer.decode(reply[:4], skip_special_tokens=True)
    assert vlm.model.training
    vlm.model.eval()
    assert {vlm.tokenizer.decode([token]) for token in vlm.stops} == {"<|im_end|>", "<|endoftext|>"}
    stopping = replace(vlm, stops=vlm.stops | {reply[5]})
    assert stopping.generate(made, 12) == vlm.tokenizer.decode(reply[: reply.index(reply[5])], skip_special_tokens=True)


def test_parts_are_tower_merger_and_language_model(vlm):
    towers = ("model.visual.", "model.vision_tower.")
    mergers = ("model.visual.merger.", "model.visual.deepstack_merger_list.", "model.multi_modal_projector.")
    for name, _ in vlm.model.named_parameters():
        expected = "merger" if name.startswith(mergers) else "vision" if name.startswith(towers) else "llm"
        assert vlm.part(name) == expected, name
    assert {vlm.part(name) for name, _ in vlm.model.named_parameters()} == {"vision", "merger", "llm"}


def test_unknown_folders_are_refused(tmp_path):
    """No configuration, another model's, and one whose cells do not follow from its vision tower."""
    with pytest.raises(ParameterError, match=r"config\.json"):
        load_vlm(tmp_path, torch.float32, "cpu")
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ParameterError, match="model_type 'qwen2'"):
        load_vlm(tmp_path, torch.float32, "cpu")
    shutil.copytree(ensure_tiny(INTERN), tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"image_seq_length": 25}))
    with pytest.raises(ParameterError, match="image_seq_length=25"):
        load_vlm(tmp_path, torch.float32, "cpu")
