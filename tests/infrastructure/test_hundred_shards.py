"""A hundred shards for eight videos: empty shards cost little, and collected artifacts fit one argument of a process.

The run is `make smoke`'s, on the process engine, and needs no service. It takes minutes, hence its place here.
"""

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.kubeflow.processes import ENVIRONMENT
from components.kubeflow.tree import ROOT
from components.synthetic.scenes import write_set
from tests.command import python

SHARDS = 100
VIDEOS = 8
SECONDS = 360
ENTRY_BYTES = 610  # an artifact's entry as KFP's backend writes it, session information and all
ARGUMENT_LIMIT = 131072  # MAX_ARG_STRLEN of Linux, with the closing NUL
SHARDED = ("ddim_inversion", "attention_capture", "token_selection", "vlm_attention")
COLLECTING = ("head_selection", "prior_set", "sft")
HEAVY = re.compile(r"\| +(torch|transformers|diffusers|matplotlib)$", re.MULTILINE)  # a line of Python's import times


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run's folder, its seconds, and every task's executor input."""
    folder = tmp_path_factory.mktemp("hundred")
    write_set(folder / "scenes", preset="scenes", count=VIDEOS, seed=1)
    write_set(folder / "bench", preset="bench", count=12, seed=2)
    settings = [
        "vdm=tiny-cogvideox",
        "vlm=tiny-qwen2.5-vl",
        f"source={folder / 'scenes'}",
        f'benchmarks=["motionbench={folder / "bench"}"]',
        f"shards={json.dumps([f'{k}/{SHARDS}' for k in range(SHARDS)])}",
    ]
    command = ["-m", "tests.infrastructure.recorded_run", folder / "record.jsonl", "run", "motion_enhancer"]
    command += ["--out", folder / "out", "--arguments", ROOT / "components/cli/smoke.json"]
    command += [word for setting in settings for word in ("--set", setting)]
    start = time.monotonic()
    python(*command)
    wall = time.monotonic() - start
    record = [json.loads(line) for line in (folder / "record.jsonl").read_text().splitlines()]
    return SimpleNamespace(out=folder / "out", wall=wall, record=record)


def test_ends_within_its_time(run, capsys):
    with capsys.disabled():
        print(f"\n{len(run.record)} tasks: {run.wall:.0f} s")
    assert run.wall <= SECONDS


def lines(run, task):
    """Lines in the manifest of every shard of a task."""
    found = run.out.glob(f"artifacts/*/for-loop-*/{task.replace('_', '-')}/*/manifest.json")
    return [_count(path) for path in found]


def _count(head):
    return sum(part["count"] for part in json.loads(head.read_text())["lines"]["parts"])


@pytest.mark.parametrize("task", SHARDED)
def test_an_empty_shard_imports_nothing_heavy(run, task, tmp_path):
    """Run again in an interpreter of their own: a shard without videos, and one with some, whose work is remembered."""
    counts = lines(run, task)
    assert len(counts) == SHARDS
    assert sum(counts) == VIDEOS
    inputs = [json.loads(item["input"]) for item in run.record if item["task"] == task]
    shards = sorted((_lines(run, request), number) for number, request in enumerate(inputs))
    (fewest, empty), (most, busy) = shards[0], shards[-1]
    assert fewest == 0 < most
    assert not imports(task, inputs[empty], tmp_path)
    assert imports(task, {**inputs[busy], "inputs": _forced(inputs[busy]["inputs"])}, tmp_path)  # the record shows it


def _lines(run, request):
    """Lines of what a task published."""
    answer = json.loads(Path(request["outputs"]["outputFile"]).read_text())
    folders = [Path(item["uri"]) for part in answer["artifacts"].values() for item in part["artifacts"]]
    return max(_count(file) for folder in folders if (file := folder / "manifest.json").is_file())


def _forced(inputs):
    return {**inputs, "parameterValues": {**inputs["parameterValues"], "rerun": "force-1"}}


def imports(task, request, folder):
    """Heavy packages that a step imports; its outputs go elsewhere."""
    text = json.dumps(request)
    for item in request["outputs"]["artifacts"].values():
        for entry in item["artifacts"]:
            text = text.replace(entry["uri"], str(folder / entry["name"]))
    text = text.replace(request["outputs"]["outputFile"], str(folder / "answer.json"))
    done = python("-X", "importtime", "-m", "components", task, task, text, **ENVIRONMENT)
    return set(HEAVY.findall(done.stderr))


def padded(entry):
    """An artifact's entry with as much metadata as brings it to the backend's size."""
    bare = {**entry, "metadata": {**entry.get("metadata", {}), "store_session_info": ""}}
    size = len(json.dumps(bare, separators=(",", ":")))
    assert size <= ENTRY_BYTES, entry
    bare["metadata"]["store_session_info"] = "x" * (ENTRY_BYTES - size)
    return bare


def as_backend(text):
    """An executor input with every artifact's entry at the backend's size."""
    request = json.loads(text)
    for side in ("inputs", "outputs"):
        for item in request[side].get("artifacts", {}).values():
            item["artifacts"] = [padded(entry) for entry in item["artifacts"]]
    return json.dumps(request, separators=(",", ":"))


def test_collected_shards_fit_one_argument(run, capsys):
    collecting = [item for item in run.record if item["task"] in COLLECTING]
    sizes = {item["task"]: len(as_backend(item["input"]).encode()) + 1 for item in collecting}
    assert sizes.keys() == set(COLLECTING)
    task, size = max(sizes.items(), key=lambda pair: pair[1])
    assert size > SHARDS * ENTRY_BYTES
    with capsys.disabled():
        print(f"\nlargest executor input: {task}, {size} of {ARGUMENT_LIMIT} bytes")
    assert size < ARGUMENT_LIMIT


def test_no_other_task_takes_more(run):
    largest = max(run.record, key=lambda item: len(as_backend(item["input"])))
    assert largest["task"] in COLLECTING
