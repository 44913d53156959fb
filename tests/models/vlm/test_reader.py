"""What is read without weights: layouts from a manifest's sizes and times against those of the decoded frames."""

import math
import shutil
import struct
from dataclasses import fields, replace
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from components.core.errors import DataError
from components.core.records import Ref, Video
from components.media.video import probe, read_frames, write_mp4
from components.media.viewing import Viewing
from components.models.registry import ensure_tiny
from components.models.vlm.example import IGNORED, Layout, collate
from components.models.vlm.interface import Conversation
from components.models.vlm.model import load_vlm
from components.models.vlm.reader import open_reader
from tests.arithmetic import rounding
from tests.models.vlm.cases import INTERN, NAMES, TALK, clip, load

CLIPS = {  # frames, frames per second, height, width
    "odd": (9, 2, 101, 67),
    "one frame": (1, 25, 57, 91),
    "beyond the most frames": (1600, 2, 30, 45),
    "turned": (12, 4, 64, 96),
}


def written(path, count, rate, height, width):
    """A lossless file of noise; odd sides need a codec without halved colours."""
    frames = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(rate))
        stream.height, stream.width, stream.pix_fmt = height, width, "bgr0"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def turned(path, count, rate, height, width):
    """A file whose header asks for a quarter turn."""
    write_mp4(path, np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8), rate)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def manifest(path):
    """The clip as dataset_import writes it."""
    info = probe(path)
    sizes = {name: getattr(info, name) for name in ("width", "height", "rotation", "duration")}
    return Video(file=Ref(path="videos/x", sha256="0" * 64, bytes=1, task="t"), times=list(info.times), **sizes)


@pytest.fixture(params=CLIPS)
def written_clip(request, tmp_path):
    """A file and its manifest's record."""
    path = (turned if request.param == "turned" else written)(tmp_path / "clip.mkv", *CLIPS[request.param])
    found = manifest(path)
    height, width = CLIPS[request.param][2:]
    assert (found.width, found.height) == ((height, width) if request.param == "turned" else (width, height))
    return path, found


@pytest.mark.parametrize("name", NAMES)
def test_sizes_alone_give_the_layout_of_decoded_frames(name, written_clip):
    path, video = written_clip
    reader, viewing = open_reader(ensure_tiny(name)), Viewing(max_pixels=84 * 84)
    made, seen = reader.lay_out(TALK, video, viewing)
    frames, times = read_frames(path, seen), [video.times[k] for k in seen]
    decoded = reader.prepare(TALK, frames, times, video.duration, viewing)
    for field in fields(Layout):
        one, other = getattr(made, field.name), getattr(decoded, field.name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, field.name
    if name != INTERN:  # the shape that the model is told, and as many patches
        (grid,) = decoded.pixels["video_grid_thw"].tolist()
        assert len(decoded.pixels["pixel_values_videos"]) == math.prod(grid)
        shape = (grid[0], grid[1] // 2, grid[2] // 2)
    else:
        shape = (len(decoded.pixels["pixel_values"]), 4, 4)
    assert made.grid.shape == shape
    assert len(made.video_columns) == math.prod(shape)
    whole, indices = reader.read(TALK, video, path, viewing)
    assert indices == seen
    assert whole.pixels.keys() == decoded.pixels.keys()
    assert all(torch.equal(value, decoded.pixels[key]) for key, value in whole.pixels.items())


def test_frames_of_another_size_than_the_manifests_are_refused(tmp_path):
    path = written(tmp_path / "clip.mkv", 4, 2, 40, 60)
    video = manifest(path).model_copy(update={"height": 400})
    with pytest.raises(DataError, match="60 × 40 pixels, 60 × 400 in the manifest"):
        open_reader(ensure_tiny(NAMES[0])).read(TALK, video, path, Viewing())


@pytest.mark.parametrize("name", NAMES)
def test_no_weights_are_opened(name, tmp_path):
    folder = shutil.copytree(ensure_tiny(name), tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    reader, whole = open_reader(folder), load_vlm(ensure_tiny(name), torch.float32, "cpu")
    assert (reader.inputs, reader.max_tokens) == (whole.inputs, 8192)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_vlm(folder, torch.float32, "cpu")


# Without a video ------------------------------------------------------------------------------------------------------


def own_template(tokenizer, talk):
    """The token ids of the chat template for plain strings, as for a language model."""
    said = [*talk.earlier, (talk.question, talk.response)]
    roles = ("user", "assistant")
    turns = [{"role": role, "content": text} for turn in said for role, text in zip(roles, turn, strict=True) if text]
    system = [{"role": "system", "content": talk.system}] if talk.system else []
    prompted = talk.response is None
    return tokenizer.apply_chat_template([*system, *turns], add_generation_prompt=prompted, return_dict=False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "talk",
    [
        TALK,
        replace(TALK, response=None),
        Conversation([("What is it?", "A ball."), ("Sure?", "Yes.")], "Where does it go?", None, "Be short."),
    ],
)
def test_without_a_video_the_template_and_the_model_are_a_language_models(name, talk):
    vlm = load(name)
    made = vlm.text_only(talk)
    assert made.input_ids.tolist() == own_template(vlm.tokenizer, talk)
    assert not len(made.video_columns)
    learned = vlm.tokenizer.decode(made.labels[made.labels != IGNORED])
    assert learned == ("" if talk.response is None else f"{talk.response}<|im_end|>")
    batch = collate([made])
    with torch.no_grad():
        ours = vlm.forward(batch, all_logits=True).logits_BLV
        theirs = vlm.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_a_reply_without_a_video_is_the_plain_models(name):
    vlm = load(name)
    made = vlm.text_only(replace(TALK, response=None))
    ids = made.input_ids[None]
    greedy = {"do_sample": False, "temperature": None, "repetition_penalty": 1.0, "max_new_tokens": 6}
    theirs = vlm.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), eos_token_id=[], **greedy)
    reply = vlm.tokenizer.decode(theirs[0, ids.shape[1] :], skip_special_tokens=True)
    assert replace(vlm, stops=frozenset()).generate(made, 6) == reply


@pytest.mark.parametrize("name", NAMES)
def test_one_batch_with_and_without_a_video(name):
    vlm = load(name)
    made = [vlm.text_only(TALK), vlm.prepare(TALK, *clip())]
    with torch.no_grad():
        together = vlm.forward(collate(made, "left"), all_logits=True).logits_BLV
        alone = [vlm.forward(collate([one]), all_logits=True).logits_BLV[0] for one in made]
    for b, expected in enumerate(alone):
        close = rounding(64, float(expected.abs().max()))
        torch.testing.assert_close(together[b, -len(expected) :], expected, atol=close, rtol=0)


def test_text_alone_has_no_cells_and_takes_no_placeholder():
    vlm = load(NAMES[1])
    made = vlm.text_only(TALK)
    with pytest.raises(DataError, match="no cells in time"):
        _ = made.video_grid
    with pytest.raises(DataError, match="no visual cell"):
        vlm.vision_rows(collate([made]), [torch.tensor([len(made.input_ids) - 1])])
    vlm.inputs = replace(vlm.inputs, placeholder="(a clip)")  # no token of its own
    with pytest.raises(DataError, match="control tokens"):
        vlm.text_only(replace(TALK, question="What is in (a clip)?"))
