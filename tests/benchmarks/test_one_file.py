"""A benchmark added by one file, the one that docs/extending shows: imported, evaluated, compared by the report."""

import sys

import pytest

import components.benchmarks
from components.benchmark_eval.step import STEP as EVALUATE
from components.benchmarks.interface import benchmarks, get_benchmark
from components.core.artifacts import EvalResult, ItemResult, VideoDataset
from components.core.lines import Lines
from components.dataset_import.step import STEP as IMPORT
from components.kubeflow.tree import ROOT
from components.report.benchmarks import _table, compare
from tests.dataset_import.data import clip, document
from tests.runner import published, run_step
from tests.vlm_attention.made import VIEWING

HEAD = "```python\n# components/benchmarks/directions.py\n"


@pytest.fixture
def directions(tmp_path, monkeypatch):
    """The documented file, in a folder that the package has besides its own."""
    pages = "".join(page.read_text() for page in sorted((ROOT / "docs").glob("extending*.md")))
    (tmp_path / "more").mkdir()
    (tmp_path / "more/directions.py").write_text(pages.split(HEAD)[1].split("```\n")[0])
    monkeypatch.setattr(components.benchmarks, "__path__", [*components.benchmarks.__path__, str(tmp_path / "more")])
    benchmarks.cache_clear()
    yield get_benchmark("directions")
    benchmarks.cache_clear()
    del sys.modules["components.benchmarks.directions"], components.benchmarks.directions


def test_from_its_files_to_the_report(tmp_path, directions):
    ways = ["left", "right", "up", "down", "up", "around"]
    for k in range(len(ways)):
        clip(tmp_path / f"data/clips/c{k}.mp4", seed=k)
    document(tmp_path / "data/directions.json", [{"clip": f"c{k}", "way": way} for k, way in enumerate(ways)])
    given, store = f"directions={tmp_path / 'data'}", tmp_path / "store"
    params, shared = {"processes": 1, "max_failed_items": 0.2}, {"benchmarks": [given]}
    imported = run_step(IMPORT, tmp_path, store, params, shared, form="benchmark", task="benchmark_import")
    data = published(imported, "videos", VideoDataset)
    assert [item.unit for item in data.left_out] == ["directions: directions.json:6"]
    assert sorted(sample.answer for line in data.lines for sample in line.samples) == ["A", "B", "C", "C", "D"]

    shared, inputs = {"vlm": "tiny-qwen2.5-vl", "benchmark": given}, {"videos": imported["videos"]}
    answered = run_step(EVALUATE, tmp_path, store, {"viewing": VIEWING}, shared, inputs, form="untouched")
    before = published(answered, "result", EvalResult)
    assert [score.name for score in before.scores] == ["SW", "VT", "Overall", "Average", "Flat", "Official rule"]
    assert [score.n for score in before.scores] == [2, 3, 5, 5, 2, 5]
    assert "# Directions" in answered["table"].read_text()

    after = before.model_copy(
        update={"lines": Lines(ItemResult, (line.model_copy(update={"correct": True}) for line in before.lines))}
    )
    compared = compare(before, after)
    counts = {"Overall": 5, "Average": 5, "Flat": 2, "Sideways": 2, "Vertical": 3}
    assert {row.name: row.tuned.n for row in compared.rows} == counts
    assert {row.tuned.value for row in compared.rows} == {100}
    text = str(_table(compared, directions.paper[0]))
    for cell in ("50.0 → 55.0", "60.0 → 65.0", "Paper: Qwen2.5-VL-7B"):
        assert cell in text
