"""The page of the presets' variants, names from users, and models that are plumbing only."""

import itertools
import re

import numpy as np
import pytest

from components.comparison.compare import Trial, compare
from components.comparison.material import Material
from components.comparison.page import build
from components.comparison.paper import TABLES, ablation_table
from components.comparison.results import results
from components.comparison.summary import summary
from components.comparison.verdict import headline
from components.pages.page import render
from components.runtime.presets import PRESETS
from components.runtime.variants import UNTOUCHED
from components.store.entries import Store
from tests.comparison.made import answered
from tests.pages.reading import emphasis, plain

ITEMS = [(k, k // 2, kind) for k, kind in enumerate(["AS", "HAC"] * 8)]


def material(tmp_path, names, baseline="first", **fields):
    rng = np.random.default_rng(3)

    def result():
        return {"favor": answered(ITEMS, rng.random(len(ITEMS)) < 0.5, "favor")}

    tuned = {Trial(name, seed): result() for name, seed in itertools.product(names, (1, 2))}
    found = compare(tuned, dict.fromkeys(names, result()), baseline)
    return Material(Store(str(tmp_path)), found, {name: {"num_steps": 2} for name in names}, **fields)


@pytest.mark.parametrize(
    ("preset", "table"), list(zip(("paper_table3", "paper_table5", "paper_table6"), TABLES, strict=True))
)
def test_presets_have_the_rows_of_the_papers_tables(tmp_path, preset, table):
    """In the printed order, the untouched model where the table has it; the paper's numbers beside every row."""
    names = [row["name"] for row in PRESETS[preset]]
    assert [name for name in table.rows if name != UNTOUCHED] == names
    made = material(tmp_path, names)
    assert made.paper is table
    page = str(results(made).body).split("<details>")[0]
    beside = _beside(page)
    assert [name for name in beside if name != UNTOUCHED or name in table.rows] == [*table.rows]
    wanted = {name: f"{row.numbers['favor']['Overall']:.1f}" for name, row in table.rows.items()}
    assert {name: cells[:1] for name, cells in beside.items()} == {
        name: [wanted[name]] if name in wanted else [] for name in beside
    }


def _beside(page):
    """The paper's numbers, without differences and stars, of each row by its first cell."""
    rows = [re.split("<br>", row)[0] for row in page.split("<tr><td>")[1:]]
    numbers = [re.findall(r'<span class="paper">([\d.]+)', row) for row in page.split("<tr><td>")[1:]]
    return dict(zip(rows, numbers, strict=True))


def test_controls_have_no_row_in_the_paper(tmp_path):
    made = material(tmp_path, [row["name"] for row in PRESETS["controls"]])
    assert made.paper is ablation_table(PRESETS) is None
    assert 'class="paper"' not in render(build(made, 0), "", "comparison")


def test_names_are_text(tmp_path):
    names = ["a_b_ & *c*", '[x](y) "quoted" \' 1. #']
    made = material(tmp_path, names)
    page, text = render(build(made, 0), "", "comparison"), summary(made, "page")
    assert not emphasis(text)
    assert f"against “{names[0]}”" in plain(page)
    assert all(name in plain(page) for name in names)


def test_untouched_as_baseline(tmp_path):
    made = material(tmp_path, ["a", "b"], UNTOUCHED)
    assert headline(made).startswith("2 models against the untouched model (p < 0.05, corrected for 2 comparisons)")
    assert "b better" not in headline(made)


def test_plumbing_only(tmp_path):
    made = material(tmp_path, ["a", "b"], models={"vision-language model": ["tiny-qwen2.5-vl"], "video model": ["x"]})
    assert headline(made).startswith("Plumbing only: random weights (tiny-qwen2.5-vl). 2 models")
