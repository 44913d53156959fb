"""Counted lengths against conversations that are really laid out, over families, media, sizes, times and texts."""

import numpy as np
import pytest

from components.core.errors import ParameterError
from components.core.records import Video
from components.media.viewing import Viewing
from components.models.registry import ensure_tiny
from components.models.vlm.example import IGNORED
from components.models.vlm.interface import Conversation
from components.models.vlm.lengths import Length, Lengths
from components.models.vlm.reader import open_reader
from tests.models.vlm.cases import NAMES, QWEN3, TALK

TALKS = {
    "answered": TALK,
    "asked": Conversation([], "Which object moves?\nA. the red ball\nB. nobody", None),
    "several turns": Conversation([("What is it?", "A ball."), ("Its colour?", "red")], "Does it move?", "Yes, left."),
    "system": Conversation([], "What moves?", "it", "Answer with one word."),
    "other letters": Conversation([], "¿Qué se mueve?  球", "«nada»\n\nnothing"),
}
# frames, their distance in seconds, height, width, viewing
CLIPS = {
    "short": (5, 1.0, 64, 96, Viewing()),
    "one frame": (1, 0.04, 64, 96, Viewing()),
    "past ten seconds": (60, 0.5, 64, 96, Viewing()),
    "past a hundred": (230, 1.0, 32, 32, Viewing()),
    "two a second": (60, 0.25, 96, 64, Viewing(fps=2.0, num_frames=3)),
    "few": (300, 0.04, 720, 1280, Viewing(max_frames=4, max_pixels=28 * 28 * 6)),
    "the other rule": (24, 0.5, 64, 96, Viewing(positions="transformers")),
}


@pytest.fixture(scope="module", params=NAMES)
def reader(request):
    return open_reader(ensure_tiny(request.param))


def video(frames, gap, height, width, kind="video"):
    file = {"path": "a.mp4", "sha256": "0" * 64, "bytes": 1, "task": "t"}
    sizes = {"height": height, "width": width, "rotation": 0, "kind": kind}
    return Video(file=file, **sizes, duration=frames * gap, times=[k * gap for k in range(frames)])


def length(reader, lengths, talk, clip, viewing):
    """The counted length as a user puts it together."""
    inputs = reader.reads(clip.kind, "it")
    indices = [0] if clip.kind == "image" else reader.family.frames(viewing, clip)
    shape = inputs.shape(len(indices), clip.height, clip.width, viewing)
    times = [clip.times[i] for i in indices]
    return lengths.talk(talk, inputs) + lengths.clip(inputs, shape, times, viewing)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("talk", TALKS)
def test_a_length_is_that_of_the_conversation(reader, talk, clip):
    *sizes, viewing = CLIPS[clip]
    made, _ = reader.lay_out(TALKS[talk], video(*sizes), viewing)
    shared = int(made.video_columns[-1]) + 1
    learned = int((made.labels != IGNORED).sum())
    found = length(reader, Lengths(reader), TALKS[talk], video(*sizes), viewing)
    assert found == Length(shared, len(made.input_ids) - shared, learned)
    assert found.all == len(made.input_ids)


def test_images_and_text_alone(reader):
    lengths, image = Lengths(reader), video(1, 1.0, 300, 500, "image")
    for talk in TALKS.values():
        made, _ = reader.lay_out(talk, image, Viewing())
        assert length(reader, lengths, talk, image, Viewing()).all == len(made.input_ids)
        blind = reader.text_only(talk)
        assert lengths.talk(talk) == Length(0, len(blind.input_ids), int((blind.labels != IGNORED).sum()))


def test_uneven_times_count_as_they_are_written():
    reader = open_reader(ensure_tiny(QWEN3))
    times = np.cumsum(np.random.default_rng(0).uniform(0.1, 3.0, 40)).tolist()
    clip = video(40, 1.0, 64, 96).model_copy(update={"times": times, "duration": times[-1] + 1})
    made, _ = reader.lay_out(TALK, clip, Viewing())
    assert length(reader, Lengths(reader), TALK, clip, Viewing()).all == len(made.input_ids)


def test_a_template_that_drops_a_text_is_refused(reader):
    template = reader.tokenizer.chat_template
    reader.tokenizer.chat_template = "{{ messages[0].content }}"
    try:
        with pytest.raises(ParameterError, match="not there once"):
            Lengths(reader).talk(TALKS["several turns"], reader.inputs)
    finally:
        reader.tokenizer.chat_template = template
