"""Text that the video model cannot read becomes no word of a prior: it is counted, and too much of it is left out."""

import pytest

from components.attention_capture.sample import read_text
from components.core.artifacts import AttentionMaps, PriorSet
from components.core.errors import DataError
from components.core.text import conditioning
from components.models.registry import ensure_tiny
from components.models.video import load_vdm
from components.prior_set.page import card
from tests.chain import Chain
from tests.dataset_import.data import own
from tests.runner import published
from tests.vlm_attention import made

CHINESE, THAI = "男人从左边走到右边", "ผู้ชายเดินไปทางขวา"


@pytest.fixture(scope="module")
def vdm():
    return load_vdm(ensure_tiny("tiny-cogvideox"), "float32", "cpu")


def read(vdm, response, question="What moves?", share=0.5):
    sample = made.a.Sample(id="0" * 16, uid="x", question=question, is_instruction=False, response=response, answer="")
    text, parts = conditioning(sample, "both")
    return read_text(vdm, text, parts, share, "x")


def test_unknown_characters_are_spans_of_their_field_and_no_pieces(vdm):
    pieces, unread = read(vdm, "the dog ✈ jumps", "Why ✈✈?")
    spans = [(span.field, span.start, span.end) for span in unread]
    assert spans == [("response", 8, 9), ("question", 4, 6)]
    assert "<unk>" not in [piece.token for piece in pieces]
    covered = {(piece.field, place) for piece in pieces for place in range(piece.start, piece.end)}
    texts = {"response": "the dog ✈ jumps", "question": "Why ✈✈?"}
    wanted = {(name, place) for name, text in texts.items() for place, mark in enumerate(text) if mark not in " ✈"}
    assert covered == wanted


@pytest.mark.parametrize("text", [CHINESE, THAI])
def test_a_text_of_another_script_is_refused_even_if_a_question_is_read(vdm, text):
    with pytest.raises(DataError, match=f"the video model cannot read {len(text)} of {len(text) + 2} characters"):
        read(vdm, text, "Ok")
    with pytest.raises(DataError, match="no token"):
        read(vdm, text, text, share=1.0)


def test_the_share_is_a_bound_that_may_be_reached(vdm):
    text = "男人 abcdefgh"  # 2 of 10
    assert len(read(vdm, text, "", 0.2)[1]) == 1
    with pytest.raises(DataError, match=r"2 of 10 characters of the text, max_unreadable is 0.19"):
        read(vdm, text, "", 0.19)


def test_what_is_left_out_and_what_is_partly_read_is_said_by_manifest_and_card(tmp_path):
    texts = {"a": "the dog jumps high", "b": CHINESE, "c": "the dog jumps ✈ ✈"}
    source = own(tmp_path / "data", [{"id": k, "video": f"{k}.mp4", "response": text} for k, text in texts.items()])
    chain = Chain(tmp_path, tmp_path / "store", source, shards=1, num_steps=1, text="response")
    videos = chain.task("dataset_import", form="training")["videos"]
    trajectories = chain.task("ddim_inversion", {"videos": videos}, shard="0/1", num_frames=9)["trajectories"]
    with pytest.raises(DataError, match=r"(?s)1 of 3 samples failed.*the video model cannot read 9 of 9 characters"):
        chain.task("attention_capture", {"trajectories": trajectories}, shard="0/1")
    maps = chain.task("attention_capture", {"trajectories": trajectories}, shard="0/1", max_failed=0.5)["maps"]
    lines = {line.sample.uid: line for line in published({"maps": maps}, "maps", AttentionMaps).lines}
    assert sorted(lines) == ["a", "c"]
    assert b'"unread"' not in lines["a"].model_dump_json().encode()  # as manifests from before
    heads = chain.task("head_selection", {"maps": [maps]})["heads"]
    prior = chain.task("token_selection", {"heads": heads}, shard="0/1")["prior"]
    priors = published(chain.task("prior_set", {"shards": [prior]}, form="collected"), "priors", PriorSet)
    (unread,) = (line.unread for line in priors.lines if line.unread)
    assert [(span.start, span.end) for span in unread] == [(14, 15), (16, 17)]
    said = "The video model does not know “✈”: no map shows them (1 of 2 samples). "
    assert f"**Warning:** {said}1 sample left out because the video model cannot read the text." in card(priors)
