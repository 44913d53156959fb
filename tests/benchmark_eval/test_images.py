"""Questions about images beside those about videos: asked with image tokens, counted under Image and Video."""

import re

import pytest

from components.benchmark_eval.step import STEP
from components.core import artifacts as a
from components.core.records import Option, StepRecord
from components.core.text import sample_id
from components.models.vlm.model import Vlm
from components.store.entries import Store
from tests.models.vlm.cases import INTERN, NAMES, QWEN, QWEN3
from tests.models.vlm.test_reader import written
from tests.runner import published, put_manifest, run_step
from tests.vlm_attention import made


def item(video, question_type):
    options = [Option(letter=letter, text=text) for letter, text in (("A", "left"), ("B", "right"))]
    named = {"id": sample_id(video.id, "Where?", options, "", []), "uid": question_type, "is_instruction": False}
    asked = {"question": "Where?", "options": options, "response": "", "answer": "A"}
    sample = a.Sample(**named, **asked, question_type=question_type, protocol="seed")
    return a.VideoLine(video=video, samples=[sample])


@pytest.mark.parametrize("name", NAMES)
def test_both_kinds_are_asked_and_scored(name, tmp_path, monkeypatch):
    store = Store(str(tmp_path / "store"))
    clip = made.video(store, written(tmp_path / "clip.mkv", 6, 2, 64, 96))
    image = made.video(store, written(tmp_path / "image.mkv", 1, 1, 64, 96)).model_copy(update={"kind": "image"})
    lines = [item(clip, "Action Recognition"), item(image, "Scene Understanding")]
    record = StepRecord(version="1", params={}, scalars={})
    data = a.VideoDataset(kind="VideoDataset", provenance={"benchmark_import": record}, lines=lines)
    videos, asked = put_manifest(tmp_path / "videos", data), []
    monkeypatch.setattr(Vlm, "replies", lambda vlm, given, *_: asked.extend(given) or ["AB"[len(asked) % 2 - 1]])
    shared = {"vlm": name, "benchmark": "seed=./data"}
    out = run_step(STEP, tmp_path, store.uri, {"viewing": made.VIEWING}, shared, {"videos": videos}, form="untouched")
    found = published(out, "result", a.EvalResult)
    frames = {line.sample.question_type: line.frames for line in found.lines}
    assert frames["Scene Understanding"] == [0]
    assert len(frames["Action Recognition"]) > 1
    images = [example for example in asked if example.grid is None]
    assert len(images) == 1
    # Qwen3-VL's images have at least 256 × 256 pixels: 7 × 10 cells of 32
    token, count = {QWEN: ("<|image_pad|>", 6), INTERN: ("<img>", 1), QWEN3: ("<|image_pad|>", 70)}[name]
    assert images[0].text.count(token) == count
    assert not re.search("Frame1| seconds>", images[0].text)
    for other in ({"viewing": {**made.VIEWING, "fps": 8.0, "num_frames": 3}}, {"control": "one_frame"}):
        again = run_step(
            STEP, tmp_path, store.uri, {"viewing": made.VIEWING, **other}, shared, {"videos": videos}, form="untouched"
        )
        keys = [
            {line.sample.question_type: line.key for line in published(one, "result", a.EvalResult).lines}
            for one in (out, again)
        ]
        assert keys[0]["Scene Understanding"] == keys[1]["Scene Understanding"]  # an image is shown as it was
        assert keys[0]["Action Recognition"] != keys[1]["Action Recognition"]
    scores = {score.name: score.accuracy for score in found.scores}
    assert sorted([scores["Image"], scores["Video"]]) == [0, 100]
    assert scores["All"] == 50
