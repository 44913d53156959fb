"""The synthetic set: what it says is what its files show, and nothing but the motion gives the mover away."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from safetensors.numpy import load_file

from components.benchmarks.motionbench import BENCHMARK
from components.core.errors import ParameterError
from components.media.video import probe, read_frames
from components.synthetic import drawing
from components.synthetic.drawing import COLOURS, DIRECTIONS, HALF_SIDE, SHAPES, Background, Body, Scene
from components.synthetic.questions import QUESTION_TYPES
from components.synthetic.scenes import PRESETS, VOCABULARY, draw, make_clip, write_set

SIZE, FRAMES = (64, 64), 17


def written(folder, preset, count, **options):
    """Write a set; return its folder and rows."""
    write_set(folder, preset, count, **options)
    return folder, [json.loads(line) for line in (folder / PRESETS[preset][0]).read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return written(tmp_path_factory.mktemp("set") / "scenes", "scenes", 24, seed=3)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return written(tmp_path_factory.mktemp("set") / "bench", "bench", 48, seed=3)


def centroid(mask):
    y, x = np.nonzero(mask)
    return np.array([y.mean(), x.mean()])


def nearest_colour(seen):
    return min(COLOURS, key=lambda name: np.abs(np.array(COLOURS[name]) - seen).sum())


def opened(folder, videos, row):
    stem = row["video_path"].removesuffix(".mp4")
    truth = load_file(folder / "gt" / f"{stem}.safetensors")
    return read_frames(folder / videos / row["video_path"], range(FRAMES)), truth["mover"], truth["objects"]


def test_files_and_masks(trained, bench):
    for (folder, rows), (_, videos), count in zip((trained, bench), PRESETS.values(), (24, 48), strict=True):
        assert len(rows) == count
        assert {path.name for path in (folder / videos).iterdir()} == {row["video_path"] for row in rows}
        assert {f"{path.stem}.mp4" for path in (folder / "gt").iterdir()} == {row["video_path"] for row in rows}
        info = probe(folder / videos / rows[0]["video_path"])
        assert (info.width, info.height, info.num_frames) == (64, 64, FRAMES)
        assert info.duration == pytest.approx(FRAMES / 8)
        frames, mover, ids = opened(folder, videos, rows[0])
        assert mover.shape == ids.shape == frames.shape[:3]
        assert mover.dtype == ids.dtype == np.uint8
        assert not (folder.parent / f".{folder.name}").exists()


def test_equal_call_leaves_files_alone_and_bytes_are_reproducible(tmp_path):
    write_set(tmp_path / "a", "scenes", 3, seed=1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    write_set(tmp_path / "a", "scenes", 3, seed=1)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")} == before
    (tmp_path / "b").mkdir()  # an empty folder is taken
    write_set(tmp_path / "b", "scenes", 3, seed=1)
    for path in before:
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"count": 4}, {"preset": "bench"}, {"size": (32, 64)}, {"num_frames": 9}, {"fps": 2.0}]
)
def test_another_set_is_refused(change, tmp_path):
    call = {"preset": "scenes", "count": 3, "seed": 1}
    write_set(tmp_path / "a", **call)
    with pytest.raises(ParameterError, match="something else"):
        write_set(tmp_path / "a", **{**call, **change})


def test_foreign_folder_is_refused_and_untouched(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ParameterError, match="something else"):
        write_set(tmp_path, "scenes", 3, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "bad", [{"preset": "other"}, {"count": 0}, {"size": (63, 64)}, {"size": (8, 8)}, {"num_frames": 1}, {"fps": 0.0}]
)
def test_impossible_sets_are_refused(bad, tmp_path):
    with pytest.raises(ParameterError):
        write_set(tmp_path / "a", **{"preset": "scenes", "count": 1, "seed": 1, **bad})
    assert not any(tmp_path.iterdir())


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("components.synthetic.scenes.save_file", full)
    with pytest.raises(OSError, match="No space"):
        write_set(tmp_path / "a", "scenes", 2, seed=1)
    assert not any(tmp_path.iterdir())


def test_a_longer_set_begins_alike(trained):
    captions = [row["motion_caption"] for row in trained[1]]
    assert captions[:5] == [make_clip("scenes", 3, i, SIZE, FRAMES).caption for i in range(5)]
    assert len(set(captions)) > 20


def test_captions_say_what_the_videos_show(trained):
    folder, rows = trained
    for row in rows:
        frames, mover, ids = opened(folder, "MotionBenchCaption-train/videos", row)
        assert set(row["motion_caption"].split()) <= set(VOCABULARY)
        name, way = re.search(r"the (\w+ \w+) moves (\w+)", row["motion_caption"]).groups()
        step = centroid(mover[-1]) - centroid(mover[0])
        assert np.dot(step, DIRECTIONS[way]) == pytest.approx(np.linalg.norm(step), abs=0.5)
        assert 0.25 * 64 < np.linalg.norm(step) < 0.4 * 64
        shown = {index: frames[ids == index].mean(0) / 255 for index in (1, 2, 3)}
        nearest = {index: nearest_colour(seen) for index, seen in shown.items()}
        moving = int(ids[mover > 0][0])
        assert nearest[moving] == name.split()[0]
        for other in (1, 2, 3):
            centres = [centroid(frame == other) for frame in ids]
            assert (np.ptp(centres, axis=0).max() > 3) == (other == moving)
        named = re.findall("|".join(COLOURS), row["motion_caption"])
        assert len(set(nearest.values())) == 3
        assert set(named) <= set(nearest.values())
    assert len(VOCABULARY) == len(set(VOCABULARY)) <= 40


def test_equal_areas_whole_and_apart():
    for preset in ("scenes", "bench"):
        for index in range(12):
            clip = make_clip(preset, 9, index, (128, 128), FRAMES)
            _, mover, ids = draw(clip.scene, (128, 128))
            areas = np.array([[(frame == k).sum() for k in (1, 2, 3)] for frame in ids])
            kind = clip.question.kind if clip.question else ""
            if kind not in ("Camera Motion", "Motion Recognition"):  # there they may leave the frame, or grow
                np.testing.assert_allclose(areas, (2 * HALF_SIDE * 128) ** 2, rtol=0.06)
            assert mover.any() == (kind != "Camera Motion")
            assert set(np.unique(ids[mover > 0])) <= ({clip.scene.mover + 1} if clip.scene.mover is not None else set())


def test_every_size_shows_the_same_scene():
    clip = make_clip("bench", 4, 7, (64, 96), 9)
    small, large = draw(clip.scene, (64, 96))[2], draw(clip.scene, (128, 192))[2]
    assert (large[:, 1::2, 1::2] == small).mean() > 0.98
    for height, width in ((64, 96), (96, 64)):
        ids = draw(make_clip("scenes", 4, 0, (height, width), 9).scene, (height, width))[2]
        assert ids.shape == (9, height, width)
        assert all((ids == k).any(axis=(1, 2)).all() for k in (1, 2, 3))


@pytest.mark.parametrize("shape", SHAPES)
def test_drawing_against_supersampled_polygons(shape):
    """Pixel coverage by 8 × 8 points a pixel with textbook point-in-shape tests."""
    turn, unit, side = 0.4, 0.3, 32
    body = Body("white", shape, unit, np.array([[0.5, 0.45]]), np.ones(1), np.array([turn]))
    frames, ids = drawing.render(Scene((body,), 0, drawing.still_camera(1), Background((0.0, 0.0, 0.0))), (side, side))
    y, x = np.meshgrid(*((np.arange(side * 8) + 0.5) / (side * 8),) * 2, indexing="ij")
    y, x = (y - 0.5) / unit, (x - 0.45) / unit
    angle = np.arctan2(y, x) - turn  # y points down: a positive turn is clockwise
    y, x = np.hypot(y, x) * np.sin(angle), np.hypot(y, x) * np.cos(angle)
    if shape == "circle":
        inside = y**2 + x**2 <= 4 / np.pi
    elif shape == "square":
        inside = (np.abs(y) <= 1) & (np.abs(x) <= 1)
    else:
        edge = 4 / 3**0.25  # equilateral, area 4
        height = edge * np.sqrt(3) / 2
        inside = (y <= height / 3) & (y >= -2 * height / 3 + np.sqrt(3) * np.abs(x))
    coverage = inside.reshape(side, 8, side, 8).mean((1, 3))
    assert np.abs(frames[0, ..., 0] / 255 / 0.96 - coverage).max() < 0.3
    assert np.abs(frames[0, ..., 0] / 255 / 0.96 - coverage).mean() < 0.01
    assert ((ids[0] > 0) == (coverage >= 0.5)).mean() > 0.99


def auc(positive, negative):
    """Probability that a positive value exceeds a negative one, ties half."""
    ordered = np.sort(negative)
    below, not_above = (np.searchsorted(ordered, positive, side) for side in ("left", "right"))
    return ((below + not_above) / 2).mean() / len(ordered)


@pytest.fixture(scope="module")
def many():
    return [make_clip("scenes", 0, index, SIZE, 9) for index in range(400)]


def test_a_centre_prior_tells_nothing(many):
    y, x = np.meshgrid(*((np.arange(64) + 0.5) / 64 - 0.5,) * 2, indexing="ij")
    prior = np.broadcast_to(-(y**2 + x**2), (9, 64, 64))
    scores, natural = [], []
    for clip in many:
        _, mover, ids = draw(clip.scene, SIZE)
        static = (ids > 0) & (mover == 0)
        scores.append(auc(prior[mover > 0], prior[static]))
        natural.append(auc(prior[mover > 0], prior[ids == 0]))
    print(f"centre prior: mover against static objects {np.mean(scores):.3f}, against the rest {np.mean(natural):.3f}")
    assert 0.45 < np.mean(scores) < 0.55
    assert 0.25 < np.mean(np.array(scores) > 0.5) < 0.75


def test_draws_are_balanced(many):
    clips = many[:240]
    assert min(Counter(clip.scene.mover for clip in clips).values()) > 55
    ways = Counter(re.search(r"moves (\w+)", clip.caption)[1] for clip in clips)
    assert len(ways) == 4
    assert min(ways.values()) > 35
    only = sum(len(clip.caption.split()) == 5 for clip in clips)
    assert 50 < only < 110  # the mover alone is named in a third


def parsed(row):
    (qa,) = row["qa"]
    lines = qa["question"].split("\n")
    options = dict(line.split(". ", 1) for line in lines[1:])
    return lines[0], options, qa["answer"]


def test_bench_rows(bench):
    _, rows = bench
    assert set(QUESTION_TYPES) == set(BENCHMARK.types)
    assert Counter(row["question_type"] for row in rows) == dict.fromkeys(QUESTION_TYPES, 8)
    answers = Counter(parsed(row)[2] for row in rows)
    assert answers.pop("NA") == 2
    assert sorted(answers.values()) == [11, 11, 12, 12]
    for row in rows:
        assert list(parsed(row)[1]) == list("ABCD")
        assert len(set(parsed(row)[1].values())) == 4
        assert row["qa"][0]["uid"].startswith(row["key"])
        assert row["video_info"] == {"duration": FRAMES / 8, "fps": 8.0, "resolution": {"width": 64, "height": 64}}
    assert len({row["qa"][0]["uid"] for row in rows}) == 48


def test_letters_are_balanced_within_each_type():
    clips = [make_clip("bench", 5, index, SIZE, 9) for index in range(48)]
    for kind in QUESTION_TYPES:
        assert Counter(clip.question.answer for clip in clips if clip.question.kind == kind) == dict.fromkeys("ABCD", 2)


def test_small_bench_holds_nothing_out(tmp_path):
    _, rows = written(tmp_path / "b", "bench", 23, seed=0, size=(32, 32), num_frames=9)
    assert "NA" not in {parsed(row)[2] for row in rows}


def answer_from_masks(kind, mover, ids, frames):
    """What the pixels say, without the generator."""
    if kind == "Camera Motion":
        seen = [k for k in (1, 2, 3) if all((frame == k).any() for frame in ids[:4])]
        starts, ends = (np.array([centroid(ids[f] == k) for k in seen]) for f in (0, 3))
        spread = np.ptp(ends, axis=0).max() / np.ptp(starts, axis=0).max()
        if abs(spread - 1) > 0.03:
            return "It zooms in" if spread > 1 else "It zooms out"
        dy, dx = (ends - starts).mean(0)
        if max(abs(dy), abs(dx)) < 0.5:
            return "It stands still"
        if abs(dy) > abs(dx):
            return "It tilts up" if dy > 0 else "It tilts down"
        return "It pans left" if dx > 0 else "It pans right"
    path = np.array([centroid(frame) for frame in mover])
    step = path[-1] - path[0]
    if kind == "Location-related Motion":
        return f"In the {'upper' if step[0] < 0 else 'lower'} {'left' if step[1] < 0 else 'right'}"
    if kind == "Repetition Count":
        high = path[:, 0] < path[0, 0] - 0.15 * 64
        return str(int((np.diff(high.astype(int)) == 1).sum()))
    if kind == "Action Order":
        ways = [max(DIRECTIONS, key=lambda way, s=s: float(np.dot(DIRECTIONS[way], s))) for s in np.diff(path, axis=0)]
        return ", ".join(way for i, way in enumerate(ways) if i == 0 or ways[i - 1] != way)
    if kind == "Motion-related Objects":
        return nearest_colour(frames[mover > 0].mean(0) / 255)
    area = mover.sum(axis=(1, 2)).astype(float)
    if np.linalg.norm(step) > 8:
        return "It moves " + max(DIRECTIONS, key=lambda way: float(np.dot(DIRECTIONS[way], step)))
    return "It grows" if area[-1] > 1.5 * area[0] else "It shrinks" if area[-1] < area[0] / 1.5 else "It spins"


def test_answers_are_what_the_videos_show(bench):
    folder, rows = bench
    for row in rows:
        _, options, letter = parsed(row)
        if letter == "NA":
            continue
        frames, mover, ids = opened(folder, "MotionBench/self-collected", row)
        seen = answer_from_masks(row["question_type"], mover, ids, frames)
        said = options[letter]
        assert (said.split()[1] if row["question_type"] == "Motion-related Objects" else said) == seen, row
