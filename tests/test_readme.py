"""The READMEs say what is so: generated parts are in sync, every block runs as it is written, links and names exist.

A block's first line holds what a reader changes; the tests put tiny models in there and change nothing else. `make
smoke` and `make test` are what CI runs.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import pipeline
from components.cli.main import app
from components.core.errors import ParameterError
from components.kubeflow.arguments import PIPELINES
from components.kubeflow.task_graph import followers, usual_order
from components.kubeflow.tree import ROOT
from components.models.registry import ensure_tiny
from components.models.video import family_of
from components.runtime.declaration import declared
from components.steps import STEPS
from components.synthetic.scenes import write_set
from docs import generate as docs

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("components/*/README.md"))]
TINY_SIZE = "FRAMES=17 HEIGHT=64 WIDTH=64"


def blocks(page):
    """Language and text of every fenced block but the two commands of CI."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [(language, text) for language, text in found if not text.startswith("make ")]


def run(language, text, folder, first_line):
    """A block in a process of its own, with another first line; returns what it printed."""
    assert first_line.split("=")[0] in text.splitlines()[0], text
    text = "\n".join([first_line, *text.splitlines()[1:]])
    command = [sys.executable, "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # without a checkout the store has no prefix for uncommitted work, as in a clean tree
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "GIT_DIR": "/nonexistent",
        "OMP_NUM_THREADS": "1",
    }
    answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, f"{text}\n{answer.stdout[-2000:]}\n{answer.stderr[-3000:]}"
    return answer.stdout


def test_generated_parts_are_in_sync():
    text = docs.README.read_text()
    assert docs.refresh(text) == text, "run `python -m docs.generate`"


@pytest.mark.parametrize(
    "change",
    [
        ("<!-- generated: costs -->", "<!-- generated: prices -->"),
        ("<!-- end: costs -->", ""),
        ("<!-- generated: costs -->", ""),
    ],
    ids=["unknown", "no end", "missing"],
)
def test_broken_markers_are_refused(change):
    with pytest.raises(ParameterError, match="generated parts"):
        docs.refresh(docs.README.read_text().replace(*change))


def test_a_changed_cell_is_found():
    text = docs.README.read_text()
    changed = text.replace("| 17 550 |", "| 17 551 |")
    assert changed != text
    assert docs.refresh(changed) == text


def test_blocks_of_the_readme(tmp_path):
    """In the order a reader meets them: priors, reading them, tuning, moving the model, compiling."""
    write_set(tmp_path / "scenes", preset="scenes", count=2, seed=5)
    write_set(tmp_path / "bench", preset="bench", count=2, seed=6)
    (tmp_path / "clips").mkdir()
    videos = sorted((tmp_path / "scenes").rglob("*.mp4"))
    for name, video in zip(("dog.mp4", "door.mp4"), videos, strict=True):
        video.rename(tmp_path / "clips" / name)
    first_lines = [
        f"VDM=tiny-cogvideox {TINY_SIZE}",
        'FOLDER = "priors"',
        f"VLM=tiny-qwen2.5-vl MOTIONBENCH={tmp_path / 'bench'} STEPS=1",
        "MODEL=tuned OTHER=file://$PWD/other",
        f"IMAGE=registry.example/motion-enhancer@sha256:{'1' * 64}",
    ]
    done = blocks(ROOT / "README.md")
    assert [language for language, _ in done] == ["bash", "python", "bash", "bash", "bash"]
    printed = [run(language, text, tmp_path, line) for (language, text), line in zip(done, first_lines, strict=True)]
    assert "It turns to the left." in printed[1]
    assert len(printed[1].splitlines()) == 2
    assert (tmp_path / "priors" / "samples.jsonl").read_text().count("\n") == 2
    assert (tmp_path / "runs/tune/report.html").stat().st_size > 10_000
    assert (tmp_path / "tuned" / "config.json").is_file()
    assert (tmp_path / "other/manifests" / f"{printed[3].strip().removeprefix('sha256:')}.json").is_file()
    assert "1" * 64 in (tmp_path / "motion_enhancer.yaml").read_text()


def test_the_capture_example(tmp_path):
    ((language, text),) = blocks(ROOT / "components/attention_capture/README.md")
    assert len([line for line in text.splitlines() if line]) <= 12
    call = {"num_frames": 17, "height": 64, "width": 64, "max_sequence_length": 64}
    first = f'MODEL, DEVICE, GRID, CALL = "{ensure_tiny("tiny-cogvideox")}", "cpu", (5, 4, 4), {call}'
    shape, count = re.fullmatch(r"torch\.Size\(\[(.*)\]\) (\d+)\n", run(language, text, tmp_path, first)).groups()
    assert shape.split(", ")[1:] == ["5", "4", "4"]
    assert int(shape.split(", ")[0]) >= 7  # the words and the point
    assert int(count) == 2 * 5  # layers × steps


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    headings = [
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    ]
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    assert targets
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in headings, target
        else:
            assert (page.parent / target.split("#")[0]).exists(), target


def test_the_picture_is_small_and_opens():
    picture = ROOT / "docs/report.png"
    assert picture.stat().st_size <= 200_000
    with Image.open(picture) as opened:
        opened.load()


def test_commands_and_parameters_that_the_text_names_exist():
    text = docs.README.read_text()
    commands = {(item.name or item.callback.__name__) for item in app.registered_commands}
    commands |= {group.name for group in app.registered_groups}
    used = {shlex.split(line)[1] for line in re.findall(r"motion-enhancer [a-z][^`\n]*", text) if "'" not in line}
    assert used >= {"run", "compile", "export"}
    assert used <= commands
    known = {name for made in PIPELINES for name in getattr(pipeline, made).component_spec.inputs}
    settings = re.findall(r"--set ['\"]?([a-z_]+)(?:\.([a-z_]+))?=", text)
    assert {name for name, _ in settings} <= known
    for name, field in settings:
        assert not field or field in declared(name.removeprefix("params_")).params.model_fields, (name, field)


# The generator against what it describes ------------------------------------------------------------------------------


def test_published_sizes_are_read_as_the_config_says(tmp_path):
    """The tiny twins' folders: both temporal layouts give the tokens that the transformer has."""
    for twin, tokens, patch_t in (("tiny-cogvideox", 80, 1), ("tiny-cogvideox1.5", 48, 2)):
        folder = ensure_tiny(twin)
        model = family_of(folder).sizes(folder)
        assert model.tokens(17, 64, 64) == tokens
        assert model.patch_t == patch_t
    assert docs.COGVIDEOX.tokens(49, 480, 720) == 13 * 30 * 45
    assert docs.COGVIDEOX_1_5.tokens(81, 768, 1360) == 11 * 48 * 85


def test_costs_are_those_worked_out_by_hand():
    """2·L·42·12·3072² + 42·4·L·keys·3072 FLOPs a forward, at 184 TFLOP/s; method and research give 54 s, 22 s and 258 s a video."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in docs.costs_part()[2:]]
    for row, total in zip(rows, (54, 22, 258), strict=True):
        assert float(row[3].removesuffix(" s")) + float(row[4].removesuffix(" s")) == pytest.approx(total, abs=0.6)
    assert rows[0][2:] == ["17 550", "9.0 s", "45.1 s", "13.5 MB", "67.4 MB", "376 h, 1.68 TB"]
    length = 17550 + 226
    assert 5 * (2 * length * 42 * 12 * 3072**2 + 42 * 4 * length**2 * 3072) / 184e12 == pytest.approx(9.0, abs=0.05)
    assert pytest.approx(13.5e6, rel=0.01) == 6 * 16 * 13 * 60 * 90 * 2
    assert pytest.approx(67.4e6, rel=0.01) == 48 * 40 * 17550 * 2


@pytest.mark.parametrize(
    ("name", "executed"),
    [
        ("token_ratio", "token-selection prior-set vlm-attention sft tuned-eval tuned-attention report"),
        ("rerun_tuned_eval", "tuned-eval report"),
        ("benchmarks", "benchmark-import baseline-eval tuned-eval report"),
        ("params_report", "report"),
    ],
)
def test_what_follows_a_parameter(name, executed):
    """Written down by hand from the pipeline; the first is also what an end-to-end test sees executed."""
    (row,) = [line.split("|") for line in docs.reruns_part() if f"`{name}`" in line.split("|")[1]]
    assert sorted(re.findall(r"`([\w-]+)`", row[2] + row[3])) == sorted(executed.split())


def test_graph_goes_through_loops():
    tasks = docs.graph("motion_enhancer")
    assert {producer for producer, _ in tasks["head-selection"]} == {"attention-capture"}
    assert tasks["tuned-eval"] == {("benchmark-import", "videos"), ("sft", "model")}
    assert ("plan", "source_digest") in tasks["dataset-import"]
    assert "baseline-eval" not in followers(tasks, {"sft"})
    order = usual_order(tasks)
    assert all(order.index(producer) < order.index(task) for task, sources in tasks.items() for producer, _ in sources)


@pytest.mark.parametrize("name", STEPS)
def test_every_field_is_in_the_tables_with_its_default(name):
    text = "\n".join(docs.parameters_part())
    start = text.find(f"`params_{name}`")
    part = text[start:].split("\n`params_", 1)[0] if start >= 0 else ""
    for field, value in declared(name).params().model_dump(mode="json").items():
        if field == "max_failed":
            continue
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for key, default in inner:
            (row,) = [line for line in part.splitlines() if line.startswith(f"| `{field}{'.' * bool(key)}{key}`")]
            assert row.split("|")[2].strip() == docs.code(default)
            assert row.split("|")[4].strip()


def test_shared_parameters_are_those_of_the_pipelines():
    rows = re.findall(r"^\| `(\w+)`", "\n".join(docs.shared_part()), re.MULTILINE)
    named = {name for made in PIPELINES for name in getattr(pipeline, made).component_spec.inputs}
    assert set(rows) == {name for name in named if not name.startswith(("params_", "rerun_"))}
