"""`motion-enhancer look`: the pipeline's own numbers for one clip on a page, and errors that speak of the clip."""

import json
import re

import numpy as np
import pytest

from components.cli import look as module
from components.core.artifacts import PriorSet
from components.core.errors import ParameterError
from components.media.video import write_mp4
from components.synthetic.scenes import draw, make_clip
from tests.chain import Chain
from tests.command import motion_enhancer
from tests.runner import load_manifest

TEXT = "the dog jumps"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """No generator of ours: another size, rate and length, a bright bar that wanders over noise."""
    frames = np.random.default_rng(5).integers(0, 90, (40, 72, 104, 3)).astype(np.uint8)
    for index, frame in enumerate(frames):
        frame[10:60, 2 * index : 2 * index + 12] = 240
    path = tmp_path_factory.mktemp("clip") / "Bar.MP4"
    write_mp4(path, frames, fps=12)
    return path


def look(clip, text, **settings):
    return module.look(clip, text, "tiny-cogvideox", settings={"num_steps": 2, **settings})


def test_any_clip_becomes_a_page(clip, tmp_path, capsys):
    target = tmp_path / "pages" / "look.html"
    given = ("--vdm", "tiny-cogvideox", "-o", target, "--set", "num_steps=2")
    assert motion_enhancer("look", clip, f"{TEXT} ✈ ✈", *given) == 0
    page = target.read_text()
    assert capsys.readouterr().out.strip() == str(target)
    sections = ("The idea in one strip", "Words that carry motion", "Reconstruction", "Heads by score")
    warnings = ("Random weights", "The video model does not know “✈”: no map shows them.")
    for wanted in (TEXT, "Bar.MP4", "104 × 72", "40 frames", *warnings, *sections):
        assert wanted in page
    assert page.count("data:image/png;base64,") > 10
    assert [path.name for path in target.parent.iterdir()] == ["look.html"]


def test_the_shipped_model_knows_its_own_words_alone(clip, tmp_path):
    """Without `--vdm` the trained model looks; it is honest about words that no training showed it."""
    target, scene = tmp_path / "look.html", tmp_path / "scene.mp4"
    made = make_clip("scenes", 31, 0, (64, 64), 17)
    write_mp4(scene, draw(made.scene, (64, 64))[0], fps=8)
    for path, text, unknown in ((scene, made.caption, []), (clip, "the man raises", ["“man”, “raises”"])):
        assert motion_enhancer("look", path, text, "-o", target, "--set", "num_steps=2") == 0
        page = target.read_text()
        assert ("scenes-cogvideox" in page, "Random weights" in page) == (True, False)
        assert re.findall("does not know (.*?):", page) == unknown


def test_it_shows_the_pipelines_numbers(clip, tmp_path, monkeypatch):
    """Words and their scores are those of `motion_priors` run step by step on the same clip."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "clip.mp4").write_bytes(clip.read_bytes())
    (source / "train.jsonl").write_text(json.dumps({"video": "clip.mp4", "response": TEXT}) + "\n")
    chain = Chain(tmp_path, (tmp_path / "store").as_uri(), source, shards=1, text="response")
    (expected,) = load_manifest(chain.priors(), PriorSet).lines
    kept = []
    monkeypatch.setattr(module, "_page", lambda store, priors, name: kept.extend(priors.lines) or "")
    look(clip, TEXT, **{"params_attention_capture.rows": 8, "params_attention_capture.pictures": 0})
    (line,) = kept
    assert (line.heads, line.confidence) == (expected.heads, expected.confidence)
    assert line.pieces.sha256 == expected.pieces.sha256
    assert line.prior.sha256 == expected.prior.sha256


@pytest.mark.parametrize(
    ("name", "text", "settings", "error"),
    [
        ("absent.mp4", TEXT, {}, "no file"),
        ("Bar.MP4", "  ", {}, "the text is empty"),
        ("Bar.MP4", TEXT, {"params_attention_capture.guidance": 3}, "guidance"),
        ("Bar.MP4", TEXT, {"num_step": 3}, "cannot set 'num_step'"),
    ],
)
def test_bad_arguments(clip, name, text, settings, error):
    with pytest.raises(ParameterError, match=error):
        look(clip.parent / name, text, **settings)


@pytest.mark.parametrize(
    ("name", "problem"),
    [("song.mp4", "a text, not a video"), ("short.mp4", "4 frames, the video model needs at least 9")],
)
def test_a_bad_clip_gets_a_sentence_about_it(tmp_path, capsys, monkeypatch, name, problem):
    """No count of failed files, no step's parameter, no temporary folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "song.mp4").write_bytes(b"la la la" * 100)
    write_mp4(tmp_path / "short.mp4", np.zeros((4, 64, 64, 3), np.uint8), fps=8)
    assert motion_enhancer("look", name, TEXT, "--vdm", "tiny-cogvideox") == 3
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {problem}")
    assert printed.endswith(f"  where:  {name}\n  remedy: give another clip, or another text\n")
    assert (len(printed.splitlines()), "look-" in printed) == (3, False)
    assert not (tmp_path / "look.html").exists()
