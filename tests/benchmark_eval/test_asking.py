"""Clip by clip: what is decoded and read how often, what a key holds, kills and processes; controls and orders."""

import json
import shutil
from contextlib import contextmanager

import pytest
import torch

from components.benchmark_eval.asking import controlled
from components.benchmark_eval.controls import shown_frames
from components.benchmark_eval.step import STEP
from components.benchmarks.interface import get_benchmark
from components.core import artifacts as a
from components.core.errors import DataError
from components.core.lines import Lines
from components.core.records import Clip, Failure, Part, Video, canonical_json
from components.media.video import read_frames
from components.models.registry import ensure_tiny
from components.models.vlm.interface import Conversation
from components.models.vlm.model import Vlm, load_vlm
from components.models.vlm.reader import Reader, open_reader
from components.store.entries import Store, WorkFolder
from tests.benchmark_eval.world import QWEN, dataset, make_world, recorded, result, run, sample
from tests.pages.reading import rows
from tests.runner import metrics
from tests.vlm_attention import made


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def world(source, tmp_path):
    """A store of its own, with the videos alone."""
    shutil.copytree(source[0] / "store", tmp_path / "own" / "store")
    return tmp_path / "own", *source[1:]


@pytest.fixture
def read(monkeypatch):
    """The clips that were decoded and those that the model read."""
    found, pixels, prefix = {"pixels": [], "prefix": 0}, Reader.pixels, Vlm.prefix

    def count_pixels(reader, video, path, viewing):
        found["pixels"].append(video.id)
        return pixels(reader, video, path, viewing)

    def count_prefix(vlm, *given):
        found["prefix"] += 1
        return prefix(vlm, *given)

    monkeypatch.setattr(Reader, "pixels", count_pixels)
    monkeypatch.setattr(Vlm, "prefix", count_prefix)
    return found


def manifest(outputs):
    return (outputs["result"] / "manifest.json").read_bytes()


def written(store):
    return {str(file.relative_to(store)): file.read_bytes() for file in (store / STEP.name).rglob("*.*")}


def remembered(world, tmp_path, **params):
    return metrics(run(world, tmp_path, **params))["share_remembered"]


# Clips ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_clip_is_decoded_and_read_once(world, tmp_path, read, prefetch):
    videos = [line.video.id for line in world[2]]
    run(world, tmp_path, prefetch=prefetch)
    assert sorted(read["pixels"]) == sorted(videos)
    assert read["prefix"] == 4


def test_a_kill_in_the_middle_of_a_clip_changes_no_byte(world, tmp_path, read, monkeypatch):
    whole = run(world, tmp_path)
    store = world[0] / "store"
    before = written(store)
    shutil.rmtree(store / STEP.name)
    finish, done = WorkFolder.finish, []

    def stop_at_the_fourth(folder, *given):
        if len(done) == 3 and folder.step == STEP.name:
            raise KeyboardInterrupt
        done.append(folder.key)
        return finish(folder, *given)

    with monkeypatch.context() as patch:
        patch.setattr(WorkFolder, "finish", stop_at_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            run(world, tmp_path)
    read["pixels"].clear()
    asked = recorded(monkeypatch)
    again = run(world, tmp_path)
    assert manifest(again) == manifest(whole)
    assert written(store) == before
    assert len(asked) == 5  # the first clip's two and one of the second's are done
    assert sorted(read["pixels"]) == sorted(line.video.id for line in world[2])[1:]


def test_two_processes_equal_one(source, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = []
    for processes in (1, 2):
        own = tmp_path / str(processes), *source[1:]
        shutil.copytree(source[0] / "store", own[0] / "store")
        monkeypatch.setenv("UNIT_PROCESSES", str(processes))
        found.append((manifest(run(own, tmp_path)), written(own[0] / "store")))
    assert found[0] == found[1]
    assert "8 units in 2 processes" in caplog.text


def test_a_clip_that_does_not_decode_fails_its_own_items(world, tmp_path):
    lost = world[2][1].video
    (world[0] / "store" / lost.file.path).unlink()
    found = result(run(world, tmp_path, max_failed=0.5))
    assert len(found.lines) == 6
    assert {item.unit for item in found.left_out} == {one.called(lost) for one in world[2][1].samples[:2]}
    with pytest.raises(DataError, match="2 of 8 items failed"):
        run(world, tmp_path)


def test_a_batch_is_asked_together_and_a_bad_question_alone_fails(world, tmp_path, monkeypatch):
    sizes, replies = [], Vlm.replies
    alone = result(run(world, tmp_path))
    monkeypatch.setattr(
        Vlm, "replies", lambda vlm, layouts, *given: sizes.append(len(layouts)) or replies(vlm, layouts, *given)
    )
    together = result(run(world, tmp_path, batch_size=2))
    assert sizes == [2] * 4
    assert [line.reply for line in together.lines] == [line.reply for line in alone.lines]
    assert not {line.key for line in together.lines} & {line.key for line in alone.lines}
    first, *others = world[2]
    bad = first.samples[0].model_copy(update={"question": "What <|im_end|> now?", "id": "0" * 16})
    changed = first.model_copy(update={"samples": [bad, *first.samples]})
    videos = dataset(tmp_path / "changed", [changed, *others])
    found = result(run(world, tmp_path, videos=videos, batch_size=2, max_failed=0.2))
    assert [item.unit for item in found.left_out] == [bad.called(first.video)]
    assert len(found.lines) == 8


def test_parts_of_a_file_are_clips_of_their_own_and_the_file_is_fetched_once(world, tmp_path, read, monkeypatch):
    """As segments of a long video: the parts' frames are seen, by threads that share the file."""
    lines = []
    for line in world[2][:2]:
        times = line.video.times
        for first in (0, 3, 5):
            part = Part(first=first, count=4, offset=times[first])
            whole = {
                **line.video.model_dump(),
                "part": part,
                "times": [t - times[first] for t in times[first : first + 4]],
            }
            clip = Video(**{**whole, "duration": 4 * line.video.duration / len(times)})
            lines.append(a.VideoLine(video=clip, samples=[sample(clip, first), sample(clip, first + 10)]))
    lent, borrowed = [], Store.borrowed

    @contextmanager
    def record(store, ref):
        lent.append(ref.sha256)
        with borrowed(store, ref) as path:
            yield path
        lent.append("back")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "borrowed", record)
        patch.setattr("components.benchmark_eval.step.page", lambda *_: "")  # whose pictures are read for themselves
        found = result(run(world, tmp_path, videos=dataset(tmp_path / "parts", lines[::2] + lines[1::2]), prefetch=3))
    assert sorted(read["pixels"]) == sorted(line.video.id for line in lines)
    files = sorted({line.video.file.sha256 for line in lines})
    assert [name for name in lent if name != "back"] == files
    assert lent.count("back") == 2
    vlm = load_vlm(ensure_tiny(QWEN), torch.float32, "cpu", rows=False)
    clips = {line.video.id: line.video for line in lines}
    for line in found.lines:
        clip = clips[line.video.id]
        own = [clip.part.first + index for index in line.frames]
        frames = read_frames(world[0] / "store" / clip.file.path, own)
        prompt = get_benchmark("motionbench").ask(line.sample.question, line.sample.options)
        talk, times = Conversation([], prompt, None), [clip.times[index] for index in line.frames]
        example = vlm.prepare(talk, frames, times, clip.duration, STEP.params(viewing=made.VIEWING).viewing)
        assert vlm.generate(example, 16) == line.reply


# Keys -----------------------------------------------------------------------------------------------------------------


def test_a_parameter_that_changes_no_items_work_computes_nothing(world, tmp_path):
    run(world, tmp_path)
    own = "{question}\n{options}\nAnswer with only the option letter."
    for same in (
        {"max_new_tokens": 16},
        {"prompt_template": own},
        {"preset": "supplement"},
        {"viewing": {**made.VIEWING, "num_frames": 2}},  # Qwen samples by time
        {"limit": 3},
        {"prefetch": 0},
    ):
        assert remembered(world, tmp_path, **same) == 1.0, same
    for other in ({"max_new_tokens": 15}, {"prompt_template": own + " "}, {"viewing": {**made.VIEWING, "fps": 8.0}}):
        assert remembered(world, tmp_path, **other) == 0.0, other


def test_the_supplements_preset_computes_the_clips_that_it_shows_otherwise(world, tmp_path):
    """FAVOR-Bench for InternVL3: one frame per second, where the main text takes `num_frames`."""
    lines = []
    for seconds, line in zip((4, 9, 4, 30), world[2], strict=True):
        count = len(line.video.times)
        clip = line.video.model_copy(
            update={"duration": float(seconds), "times": [k * seconds / count for k in range(count)]}
        )
        one = sample(clip, seconds, protocol="favor").model_copy(update={"question_type": "AS"})
        lines.append(a.VideoLine(video=clip, samples=[one]))
    favor = {"benchmark": "favor=x", "vlm": "tiny-internvl3", "videos": dataset(tmp_path / "favor", lines)}
    paper = result(run(world, tmp_path, **favor))  # of 4 frames
    outputs = run(world, tmp_path, preset="supplement", **favor)
    assert metrics(outputs)["share_remembered"] == 0.5
    counts = {line.video.id: len(line.frames) for line in result(outputs).lines}
    assert [counts[line.video.id] for line in lines] == [4, 9, 4, 30]
    keys = {line.sample.id: line.key for line in paper.lines}
    same = [keys[line.sample.id] == line.key for line in result(outputs).lines]
    assert same == [len(line.frames) == 4 for line in result(outputs).lines]


# Controls -------------------------------------------------------------------------------------------------------------


def test_what_a_control_shows(world, tmp_path, read):
    plain = {line.sample.id: line.frames for line in result(run(world, tmp_path)).lines}
    read["pixels"].clear()
    blind = run(world, tmp_path, control="no_video")
    assert not read["pixels"]
    assert {tuple(line.frames) for line in result(blind).lines} == {()}
    assert "no video" in blind["table"].read_text()
    assert blind["examples"].read_text().count("shown no video") == blind["examples"].read_text().count("<article")
    one = result(run(world, tmp_path, control="one_frame"))
    assert all(line.frames == [plain[line.sample.id][2]] for line in one.lines)
    outputs = run(world, tmp_path, control="shuffled_frames")
    shuffled = result(outputs)
    assert all(sorted(line.frames) == plain[line.sample.id] for line in shuffled.lines)
    assert any(line.frames != plain[line.sample.id] for line in shuffled.lines)
    assert len({line.key for found in (result(blind), one, shuffled) for line in found.lines}) == 24
    assert shuffled.provenance["benchmark_eval"].params["control"] == "shuffled_frames"


def test_shuffled_pixels_are_those_of_the_frames_in_that_order(world):
    reader, video = open_reader(ensure_tiny("tiny-internvl3")), world[2][0].video
    path, viewing = world[0] / "store" / video.file.path, STEP.params(viewing=made.VIEWING).viewing
    straight = reader.pixels(video, path, viewing)["pixel_values"]
    frames = reader.family.frames(viewing, video)
    for control in ("shuffled_frames", "one_frame"):
        order = [frames.index(index) for index in shown_frames(control, frames, video.id)]
        found = controlled(reader, control).pixels(video, path, viewing)["pixel_values"]
        assert (found == straight[order]).all()
    orders = {tuple(shown_frames("shuffled_frames", range(4), str(k))) for k in range(200)}
    assert len(orders) == 24


def test_orders_of_options(world, tmp_path, monkeypatch):
    """A model that always says B: it is right where the right option has been moved there."""
    monkeypatch.setattr(Vlm, "replies", lambda vlm, layouts, *_: ["B" for _ in layouts])
    first = run(world, tmp_path)
    outputs = run(world, tmp_path, permutations=3)
    assert metrics(outputs)["share_remembered"] == round(8 / 24, 4)
    found = result(outputs)
    assert found.lines == result(first).lines
    assert found.scores == result(first).scores
    answers = {line.sample.id: line.sample.answer for line in found.lines}
    assert sorted(answers.values()) == list("AAAABBBB")
    for one in found.permuted:
        assert one.parsed == {1: "C", 2: "D"}[one.shift]  # the option that stood at B
        assert one.correct is False
    page = outputs["table"].read_text()
    assert rows(page)["moved by 1"] == ["8", "0.0 %", "100.0 %"]
    assert rows(page)["as published"] == ["8", "50.0 %", "–"]
    assert "right in every order: 0.0 %" in page
    assert f"orders of an item: {100 / 6:.1f} %" in page
    every = run(world, tmp_path, permutations=26)  # of four options there are four
    assert len(result(every).permuted) == 24
    assert f"orders of an item: {100 / 4:.1f} %" in every["table"].read_text()
    assert rows(every["table"].read_text())["B"] == ["8", "100.0 %"]
    assert rows(every["table"].read_text())["A"] == ["8", "0.0 %"]


def test_a_limit_is_a_part_of_the_items(world, tmp_path):
    whole = {line.sample.id for line in result(run(world, tmp_path)).lines}
    outputs = run(world, tmp_path, limit=3)
    three = {line.sample.id for line in result(outputs).lines}
    assert len(three) == 3
    assert three < whole
    assert {line.sample.id for line in result(run(world, tmp_path, limit=2)).lines} < three
    assert "3 of 4,018 items with an answer were asked" in outputs["table"].read_text()


def test_held_out_items_are_asked_and_not_scored(world, tmp_path):
    before, outputs = run(world, tmp_path), run(world, tmp_path, held_out=True, permutations=2)
    found = result(outputs)
    assert found.lines == result(before).lines
    assert found.scores == result(before).scores
    assert sorted(line.sample.uid for line in found.held_out) == ["q15", "q25", "q35", "q5"]
    assert all(line.reply and not line.correct and not line.official_correct for line in found.held_out)
    assert len(found.permuted) == 8
    only = [line.model_copy(update={"samples": line.samples[2:3]}) for line in world[2]]
    alone = result(run(world, tmp_path, videos=dataset(tmp_path / "only", only), held_out=True))
    assert (len(alone.lines), alone.scores, len(alone.held_out)) == (0, [], 4)


# Manifests ------------------------------------------------------------------------------------------------------------


def test_lines_hold_no_frame_times_and_older_ones_are_read_as_they_are(world, tmp_path):
    outputs = run(world, tmp_path)
    found = result(outputs)
    assert {type(line.video) for line in found.lines} == {Clip}
    given = {"lines": Lines(a.ItemResult, found.lines), "left_out": Lines(Failure, [])}
    raw = json.loads(found.model_copy(update={"schema_version": "1", **given}).to_bytes())
    times = {line.video.id: line.video.times for line in world[2]}
    for line in raw["lines"]:
        line["video"]["times"] = times[line["video"]["file"]["sha256"]]
    older = a.parse_manifest(canonical_json(raw), a.EvalResult, "an older store")
    assert {type(line.video) for line in older.lines} == {Video}
    assert older.to_bytes() == canonical_json(raw)
