"""Replies that share what their clip's conversations begin with, against whole sequences without a cache."""

from dataclasses import replace

import pytest
import torch

from components.media.viewing import Viewing
from components.models.vlm import families
from components.models.vlm.example import collate
from components.models.vlm.interface import Conversation
from components.models.vlm.model import Vlm
from tests.arithmetic import rounding
from tests.models.vlm.cases import NAMES, clip
from tests.models.vlm.test_vlm import load_attentive, slow_reply

TALKS = [
    Conversation([], "Which object moves?\nA. the red ball\nB. nobody", None),
    Conversation([], "Why?", None),
    Conversation(
        [("What is it?", "A ball."), ("Sure?", "Yes.")], "Where does it go, and how often does it turn?", None
    ),
]


@pytest.fixture(scope="module", params=NAMES)
def asked(request):
    """A model and three conversations of different lengths about one clip, longer than a frame is wide."""
    vlm = load_attentive(request.param)
    return vlm, [vlm.prepare(talk, *clip(40)) for talk in TALKS]


@pytest.fixture
def steps(monkeypatch):
    """Every forward pass: the tokens that went in, and the logits that came out."""
    found, continued = [], Vlm._continued

    def record(vlm, cache, batch):
        out = continued(vlm, cache, batch)
        found.append((batch["input_ids"].shape, "input_ids" if len(batch) == 3 else "pixels", out.logits[:, -1]))
        return out

    monkeypatch.setattr(Vlm, "_continued", record)
    return found


def test_shared_replies_are_those_of_the_whole_sequences(asked, steps):
    vlm, examples = asked
    shared = vlm.prefix(examples[0], examples[0].pixels)
    count = len(shared.input_ids)
    assert int(examples[0].input_ids[count - 1]) == vlm.inputs.visual_id
    assert [vlm.inputs.visual_id in one.input_ids[count:] for one in examples] == [False] * 3
    for one in examples:
        steps.clear()
        (reply,) = vlm.replies([one], shared, 12)
        expected = slow_reply(vlm, one, 12)
        assert len(set(expected)) > 2
        assert reply == vlm.tokenizer.decode(expected, skip_special_tokens=True)
        assert steps[0][0] == (1, len(one.input_ids) - count)  # the clip is not read again
        with torch.no_grad():
            whole = vlm.forward(collate([one])).logits_BLV[:, -1]
        torch.testing.assert_close(steps[0][2], whole, atol=rounding(256, float(whole.abs().max())), rtol=0)


def test_what_was_asked_before_changes_no_bit(asked, steps):
    vlm, examples = asked
    shared = vlm.prefix(examples[0], examples[0].pixels)
    for one in examples:
        vlm.replies([one], shared, 5)
    again = [logits for _, kind, logits in steps if kind == "input_ids"]
    steps.clear()
    replies = [vlm.generate(one, 5) for one in examples]
    alone = [logits for _, kind, logits in steps if kind == "input_ids"]
    assert [kind for _, kind, _ in steps].count("pixels") == 3
    assert all(torch.equal(one, other) for one, other in zip(alone, again, strict=True))
    assert [vlm.replies([one], shared, 5)[0] for one in examples] == replies


@pytest.mark.parametrize("text_only", [False, True])
def test_a_batch_replies_as_its_questions_do_alone(asked, steps, text_only):
    vlm, examples = asked
    if text_only:
        examples = [vlm.text_only(talk) for talk in TALKS]
    alone = [vlm.generate(one, 8) for one in examples]
    first = [logits for shape, kind, logits in steps if kind == "input_ids" and shape[1] > 1]
    shared = vlm.prefix(examples[1], examples[1].pixels)
    assert len(shared.input_ids) == 0 or not text_only
    steps.clear()
    assert vlm.replies(examples, shared, 8) == alone
    assert len(steps) == 8  # together
    close = rounding(256, max(float(one.abs().max()) for one in first))
    torch.testing.assert_close(steps[0][2], torch.cat(first), atol=close, rtol=0)
    ends = [slow_reply(vlm, one, 8)[k] for k, one in enumerate(examples)]
    stopping = replace(vlm, stops=vlm.stops | set(ends))  # each ends at its own time
    assert stopping.replies(examples, shared, 8) == [stopping.generate(one, 8) for one in examples]


def test_another_clips_prefix_is_refused(asked):
    vlm, examples = asked
    for other in (vlm.prepare(TALKS[1], *clip(24)), vlm.prepare(replace(TALKS[1], system="Be brief."), *clip(40))):
        with pytest.raises(ValueError, match="prefix"):
            vlm.replies([examples[0]], vlm.prefix(other, other.pixels))


def test_ignored_fields_of_a_viewing_change_nothing(asked):
    vlm, _ = asked
    base = Viewing(fps=1.0, max_frames=12, num_frames=6, max_pixels=84 * 84)
    others = {"fps": 2.0, "max_frames": 6, "num_frames": 3, "max_pixels": 56 * 56, "positions": "transformers"}
    assert vlm.family.ignores < set(Viewing.model_fields) == set(others)
    frames, times, duration = clip(40)
    one = vlm.prepare(TALKS[0], frames, times, duration, base)
    for name in vlm.family.ignores:
        other = base.model_copy(update={name: others[name]})
        video = type("Video", (), {"times": times, "duration": duration})
        assert vlm.family.frames(other, video) == vlm.family.frames(base, video)
        made = vlm.prepare(TALKS[0], frames, times, duration, other)
        assert torch.equal(made.position_ids, one.position_ids)
        assert torch.equal(made.input_ids, one.input_ids)
        assert all(torch.equal(made.pixels[key], one.pixels[key]) for key in one.pixels)
    assert any(family.ignores for family in families())
