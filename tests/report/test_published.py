"""The whole page by the step, with benchmarks from their published files: images, still frames, parts, zip files."""

import html
import re

import pytest
import world

from components.benchmark_eval.step import STEP as EVALUATE
from components.core.artifacts import EvalResult
from components.dataset_import.step import STEP as IMPORT
from tests.benchmarks.test_published import LAYOUTS, custom
from tests.dataset_import.published import seed, seed2, videomme
from tests.report.section import alternating
from tests.runner import published, run_step
from tests.vlm_attention.made import VIEWING

WRITE = {
    "motionbench": LAYOUTS["motionbench-both"][1],
    "favor": lambda root: LAYOUTS["favor-hub"][1](root),
    "seed": lambda root: seed(root, videos=True),
    "seed2": seed2,
    "videomme": lambda root: videomme(root, size=(64, 64)),
    "custom:gym": lambda root: custom(root, ["slow", "fast", "fast"]),
}
TITLES = [
    "MotionBench · 4 of 4,018 items",
    "FAVOR-Bench · 4 of 8,184 items",
    "SEED-Bench · 13 items",
    "SEED-Bench-2 · 20 items",
]
TITLES += ["Video-MME (without subtitles) · 9 of 2,700 items", "gym · 3 items"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    run, store = world.build(folder, clips=4, questions=8), folder / "store"
    names = [f"{name}={folder / name.replace(':', '-')}" for name in WRITE]
    for name, write in WRITE.items():
        write(folder / name.replace(":", "-"))
    run.untouched.clear()  # the world's own, made-up answers to MotionBench
    run.tuned.clear()
    params = {"processes": 1, "allow_subset": True}
    imported = run_step(IMPORT, folder, store, params, {"benchmarks": names}, form="benchmark", task="benchmark_import")
    params = {"viewing": VIEWING, "max_new_tokens": 2}
    for given in names:
        shared, inputs = {"vlm": "tiny-qwen2.5-vl", "benchmark": given}, {"videos": imported["videos"]}
        answered = run_step(EVALUATE, folder, store, params, shared, inputs, form="untouched")
        before, after = alternating(published(answered, "result", EvalResult))
        run.untouched.append(before)
        run.tuned.append(after)
    return run.page(run.report(folder / "out"))


def test_every_benchmark_has_its_part(page):
    found = [html.unescape(re.sub(r"<[^>]*>", "", title)) for title in re.findall(r"<h3>(.*?)</h3>", page)]
    assert [title for title in TITLES if title not in found] == []
    for metrics in (["All", "Image", "Video"], ["Overall", "Short", "Medium", "Long"], ["Overall", "Average"]):
        assert re.search(".*".join(f"<td>{name}</td>" for name in metrics), page, re.DOTALL), metrics
