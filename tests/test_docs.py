"""What README and documents promise: blocks run, commands and links are real, generated tables are fresh."""

import json
import os
import re
import shlex
import shutil
import sys
from collections import Counter
from functools import reduce
from pathlib import Path

import pytest
import typer
from PIL import Image

import pipeline
from components.cli.main import app
from components.cli.run_folder import find_manifest
from components.core.artifacts import PriorSet, parse_manifest
from components.core.errors import ParameterError
from components.kubeflow.task_graph import followers, usual_order
from components.models.registry import ensure_tiny
from components.models.video import family_of
from components.runtime.declaration import declared
from components.steps import STEPS
from components.synthetic.scenes import write_set
from docs import generate
from tests.command import process

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("components/*/README.md")),
    ROOT / "bench/README.md",
    ROOT / "manifests/README.md",
]
README, RECIPES, CLUSTER = ROOT / "README.md", ROOT / "docs/recipes.md", ROOT / "docs/cluster.md"


def blocks(page):
    """Language and text of every fenced bash or python block."""
    return re.findall(r"^```(bash|python)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def run(language, text, folder, first_line=None):
    """A block in a process of its own, with another first line where one is given; returns what it printed."""
    if first_line is not None:
        assert first_line.split("=")[0] == text.splitlines()[0].split("=")[0], text
        text = "\n".join([first_line, *text.splitlines()[1:]])
    command = [sys.executable, "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # without a checkout the store has no prefix for uncommitted work, as in a clean tree
    return process(*command, cwd=folder, PATH=path, GIT_DIR="/nonexistent").stdout


# Blocks: run in the order a reader meets them -------------------------------------------------------------------------


def test_the_readme_fits_on_a_page():
    assert len(README.read_bytes()) <= 10_000


@pytest.mark.recipes
def test_quick_start(tmp_path):
    """The blocks of README; those that set up the checkout (`make …`) are CI's own."""
    made = [(language, text) for language, text in blocks(README) if not text.startswith("make ")]
    assert [language for language, _ in made] == ["bash", "python"]
    (_, commands), (_, script) = made
    run("bash", commands.replace("--count 4", "--count 2"), tmp_path)
    assert (tmp_path / "look.html").stat().st_size > 10_000
    assert len(run("python", script, tmp_path).splitlines()) == 3 * 2


@pytest.mark.recipes
def test_recipes(tmp_path):
    """Priors of one's own clips, reading them, tuning, rerunning a step, moving the model."""
    write_set(tmp_path / "scenes", preset="scenes", count=2, seed=5)
    write_set(tmp_path / "bench", preset="bench", count=2, seed=6)
    (tmp_path / "clips").mkdir()
    for name, video in zip(("dog.mp4", "door.mp4"), sorted((tmp_path / "scenes").rglob("*.mp4")), strict=True):
        video.rename(tmp_path / "clips" / name)
    _, priors, script, mix, several, tune, look, ablate, small, again, move = blocks(RECIPES)
    run(*priors, tmp_path, "VDM=tiny-cogvideox")
    printed = run(*script, tmp_path, 'FOLDER = "priors"')
    assert len(printed.splitlines()) == 2
    assert "It turns to the left." in printed
    assert (tmp_path / "priors" / "samples.jsonl").read_text().count("\n") == 2
    run(*mix, tmp_path, f"DATA={mixed(tmp_path)} VDM=tiny-cogvideox CAPTIONS=1 QA=2")
    found = find_manifest(str(tmp_path / "runs/mix"), output="priors")
    lines = parse_manifest(found.data, PriorSet, found.source).bind(found.store.part).lines
    assert Counter(line.sample.source for line in lines) == {"MotionBench": 1, "MotionVid-QA": 2}
    run(*several, tmp_path, "VDM=tiny-cogvideox OTHER=tiny-cogvideox1.5 STORE=file://$PWD/store")
    found = find_manifest(str(tmp_path / "runs/both"), output="priors")
    (named,) = json.loads(found.data)["provenance"]["token_selection"]["params"]["ensemble_with"]
    assert (tmp_path / f"store/manifests/{named.removeprefix('sha256:')}.json").is_file()
    models = f"VLM=tiny-qwen2.5-vl MOTIONBENCH={tmp_path / 'bench'}"
    some = "--set params_dataset_import.allow_subset=true --shards"  # the synthetic set is not MotionBench
    run(tune[0], tune[1].replace("--shards", some), tmp_path, f"{models} STEPS=1")
    assert (tmp_path / "runs/tune/report.html").stat().st_size > 10_000
    assert (tmp_path / "tuned" / "config.json").is_file()
    shorter = again[1].replace("--shards", f"--set params_sft.max_steps=1 {some}")
    assert "sft" in run("bash", f"{models}\n{shorter}", tmp_path)
    plan, ran = ablate[1].replace("--shards", some).rstrip().rsplit("\n", 1)
    given = f"DATA={tmp_path / 'data'} VDM=tiny-cogvideox {models}"
    assert re.search(r"^10 steps +new", run("bash", plan, tmp_path, given), re.MULTILINE)
    assert parsed(ran)
    few = {"--count 8": "--count 2", "--count 48": "--count 6", "[1, 2]": "[1]", "epochs=5": "epochs=1"}
    printed = run(small[0], reduce(lambda text, change: text.replace(*change), few.items(), small[1]), tmp_path)
    assert re.search(r"^frame difference +1 ", printed, re.MULTILINE)
    digest = run(*move, tmp_path, "MODEL=tuned OTHER=file://$PWD/other").strip().removeprefix("sha256:")
    assert (tmp_path / f"other/manifests/{digest}.json").is_file()
    assert parsed(look[1].strip())


def mixed(folder):
    """MotionBench's captions and MotionVid-QA in small, as they are published."""
    write_set(folder / "data/MotionBench", preset="scenes", count=2, seed=7)
    target = folder / "data/MotionVid-QA"
    target.mkdir()
    rows = []
    for k, video in enumerate(sorted((folder / "data/MotionBench").rglob("*.mp4")) * 2):
        talk = [{"from": "human", "value": f"<video>\nQuestion {k}?"}, {"from": "gpt", "value": f"Answer {k}."}]
        rows.append({"id": str(k), "video": f"openvid/{video.name}", "conversations": talk})
        (target / "openvid").mkdir(exist_ok=True)
        shutil.copyfile(video, target / "openvid" / video.name)
    (target / "all_sft.json").write_text(json.dumps(rows))
    return folder / "data"


def test_compiling_for_a_cluster(tmp_path):
    image = f"registry.example/motion-enhancer@sha256:{'1' * 64}"
    for language, text in blocks(CLUSTER):
        run(language, text, tmp_path, f"IMAGE={image}")
        assert image in (tmp_path / "motion_enhancer.yaml").read_text()


def test_the_capture_example(tmp_path):
    ((language, text),) = blocks(ROOT / "components/attention_capture/README.md")
    assert len([line for line in text.splitlines() if line]) <= 12
    call = {"num_frames": 17, "height": 64, "width": 64, "max_sequence_length": 64}
    first = f'MODEL, DEVICE, GRID, CALL = "{ensure_tiny("tiny-cogvideox")}", "cpu", (5, 4, 4), {call}'
    text = "\n".join([first, *text.splitlines()[1:]])
    shape, count = re.fullmatch(r"torch\.Size\(\[(.*)\]\) (\d+)\n", run(language, text, tmp_path)).groups()
    assert shape.split(", ")[1:] == ["5", "4", "4"]
    assert int(shape.split(", ")[0]) >= 7  # the words and the point
    assert int(count) == 2 * 5  # layers × steps


# Commands that the text names -----------------------------------------------------------------------------------------


def parsed(line):
    """Whether `motion-enhancer …` is a command with arguments and options that it has; nothing is run."""
    words = [word for word in shlex.split(line.replace("…", "x")) if word != "motion-enhancer"]
    words = ["TEXT" if word.startswith("[") else word for word in words]
    command, path = typer.main.get_command(app), []
    while words and hasattr(command, "commands") and words[0] in command.commands:
        path.append(words[0])
        command = command.commands[words.pop(0)]
    options = {option for item in command.params for option in [*item.opts, *item.secondary_opts]}
    used = [word.split("=")[0] for word in words if word.startswith("--")]
    return bool(path) and not hasattr(command, "commands") and set(used) <= options | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page):
    text = page.read_text()
    lines = re.findall(r"`(motion-enhancer [a-z][^`\n]*)`", text)
    for _, block in blocks(page):
        lines += re.findall(r"^motion-enhancer .*", re.sub(r"\\\n\s*", "", block), re.MULTILINE)
    for line in lines:
        if line.split()[1] not in ("images", "models", "store") or len(line.split()) > 2:
            assert parsed(line), f"{page.name}: {line}"
    known = {name for made in generate.PIPELINES for name in getattr(pipeline, made).component_spec.inputs}
    for name, field in re.findall(r"--set ['\"]?([a-z_]+)(?:\.([a-z_]+))?=", text):
        assert name in known, name
        assert not field or field in declared(name.removeprefix("params_")).params.model_fields, (name, field)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if target.startswith(("http", "../../actions")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", item.lower()).replace(" ", "-") for item in headings}, target


def test_module_commands_exist():
    """`python -m MODULE` in any document names a module of ours."""
    for page in PAGES:
        for module in re.findall(r"python -m ((?:components|bench|docs|tests)[\w.]*)", page.read_text()):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"{page.name}: {module}"


def test_the_pictures_are_small_and_open():
    for name in ("report.png", "bench-prior.png", "bench-align.png"):
        picture = ROOT / "docs" / name
        assert picture.stat().st_size <= 400_000
        with Image.open(picture) as opened:
            opened.load()


# The generated tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", generate.PAGES)
def test_generated_parts_are_in_sync(name):
    text = (generate.DOCS / name).read_text()
    assert generate.refresh(name, text) == text, "run `python -m docs.generate`"


@pytest.mark.parametrize(
    ("marker", "instead"), [("generated", "<!-- generated: x -->"), ("generated", ""), ("end", "")]
)
def test_broken_markers_are_refused(marker, instead):
    text = (generate.DOCS / "costs.md").read_text().replace(f"<!-- {marker}: costs -->", instead)
    with pytest.raises(ParameterError, match="generated parts"):
        generate.refresh("costs.md", text)


# The generator against what it describes ------------------------------------------------------------------------------


def test_published_sizes_are_read_as_the_config_says(tmp_path):
    """The tiny twins' folders: the temporal layouts give the tokens that the transformer has."""
    for twin, tokens, patch_t in (
        ("tiny-cogvideox", 80, 1),
        ("tiny-cogvideox1.5", 48, 2),
        ("tiny-hunyuanvideo", 80, 1),
    ):
        folder = ensure_tiny(twin)
        model = family_of(folder).sizes(folder)
        assert model.tokens(17, 64, 64) == tokens
        assert model.patch_t == patch_t
    assert generate.COGVIDEOX.tokens(49, 480, 720) == 13 * 30 * 45
    assert generate.COGVIDEOX_1_5.tokens(81, 768, 1360) == 11 * 48 * 85
    assert generate.HUNYUANVIDEO.tokens(129, 720, 1280) == 33 * 45 * 80


def test_costs_are_those_worked_out_by_hand():
    """2·L·42·12·3072² + 42·4·L·keys·3072 FLOPs per forward at 184 TFLOP/s: 54 s, 22 s and 258 s per video.

    HunyuanVideo has 60 such layers, and one row per stream: 1269 s and 45 s.
    """
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in generate.costs_part()[2:]]
    for row, total in zip(rows, (54, 22, 258, 1269, 45), strict=True):
        assert float(row[3].removesuffix(" s")) + float(row[4].removesuffix(" s")) == pytest.approx(total, abs=0.6)
    assert rows[0][2:] == [
        *("17 550", "9.0 s", "45.1 s", "13.5 MB", "67.4 MB", "1.4 MB"),
        "376 h, 1.68 TB; selected: 35.3 GB",
    ]
    assert pytest.approx(35.3e9, rel=0.01) == 25_000 * (40 * 17550 * 2 + 48 * 14 * 8)
    length = 17550 + 226
    assert 5 * (2 * length * 42 * 12 * 3072**2 + 42 * 4 * length**2 * 3072) / 184e12 == pytest.approx(9.0, abs=0.05)
    length = 118800 + 256
    layers = 2 * length * 60 * 12 * 3072**2
    assert 5 * (layers + 60 * 4 * length**2 * 3072) / 184e12 == pytest.approx(327.9, abs=0.05)
    assert rows[3][3:5] == ["327.9 s", "940.8 s"]
    assert 5 * (2 * layers + 60 * 4 * 3 * length**2 * 3072) / 184e12 == pytest.approx(940.8, rel=0.005)  # and the rows
    assert pytest.approx(13.5e6, rel=0.01) == 6 * 16 * 13 * 60 * 90 * 2
    assert pytest.approx(67.4e6, rel=0.01) == 48 * 40 * 17550 * 2


@pytest.mark.parametrize(
    ("name", "executed"),
    [
        ("token_ratio", "token-selection prior-set leakage-check vlm-attention sft tuned-eval tuned-attention report"),
        ("rerun_tuned_eval", "tuned-eval report"),
        ("benchmarks", "benchmark-import leakage-check sft baseline-eval tuned-eval tuned-attention report"),
        ("params_report", "report"),
    ],
)
def test_what_follows_a_parameter(name, executed):
    """Written down by hand from the pipeline; the first is also what an end-to-end test sees executed."""
    (row,) = [line.split("|") for line in generate.reruns_part() if f"`{name}`" in line.split("|")[1]]
    assert sorted(re.findall(r"`([\w-]+)`", row[2] + row[3])) == sorted(executed.split())


def test_graph_goes_through_loops():
    tasks = generate.graph("motion_enhancer")
    assert {producer for producer, _ in tasks["head-selection"]} == {"attention-capture"}
    assert tasks["tuned-eval"] == {("benchmark-import", "videos"), ("sft", "model")}
    assert ("plan", "source_digest") in tasks["dataset-import"]
    assert "baseline-eval" not in followers(tasks, {"sft"})
    order = usual_order(tasks)
    assert all(order.index(producer) < order.index(task) for task, sources in tasks.items() for producer, _ in sources)


@pytest.mark.parametrize("name", STEPS)
def test_every_field_is_in_the_tables_with_its_default(name):
    text = "\n".join(generate.parameters_part())
    start = text.find(f"`params_{name}`")
    part = text[start:].split("\n`params_", 1)[0] if start >= 0 else ""
    for field, value in declared(name).params().model_dump(mode="json").items():
        if field == "max_failed":
            continue
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for key, default in inner:
            (row,) = [line for line in part.splitlines() if line.startswith(f"| `{field}{'.' * bool(key)}{key}`")]
            assert row.split("|")[2].strip() == generate.code(default)
            assert row.split("|")[4].strip()


def test_shared_parameters_are_those_of_the_pipelines():
    rows = re.findall(r"^\| `(\w+)`", "\n".join(generate.shared_part()), re.MULTILINE)
    named = {name for made in generate.PIPELINES for name in getattr(pipeline, made).component_spec.inputs}
    assert set(rows) == {name for name in named if not name.startswith(("params_", "rerun_"))}
