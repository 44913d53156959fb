"""The step on made-up variants of Table 5: its page, its memory, and what it refuses."""

import re

import pytest
import torch

from components.comparison.compare import compare
from components.comparison.step import by_trial, by_variant
from components.core.artifacts import Report
from components.core.errors import DataError, ParameterError
from components.core.units import probability, signed
from components.pages.estimates import interval
from tests.comparison import world
from tests.pages.reading import Tags, emphasis, plain, tables
from tests.runner import load_manifest

ORDER = ["verdict", "variants", "results", "types", "maps", "left-out", "provenance"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    torch.set_num_threads(1)
    found = world.build(tmp_path_factory.mktemp("comparison"), questions=24)
    found.out = found.compare(found.folder / "out")
    return found


@pytest.fixture(scope="module")
def page(made):
    return made.page(made.out)


@pytest.fixture(scope="module")
def found(made):
    """The comparison that the page shows."""
    tuned, untouched = ([pair for part in made.cases[name] for pair in part] for name in ("tuned", "untouched"))
    variants = [case.variant for case, _ in made.cases["priors"][0]]
    return compare(by_trial(tuned, variants), by_variant(untouched), "first")


def test_sections_and_addresses(page):
    read = Tags(page)
    assert read.ids == ORDER
    assert all(address.startswith(("data:image/", "#")) for address in read.addresses)
    assert "<script" not in page
    assert len(page.encode()) < 1_000_000


def test_a_sentence_per_model_with_interval_p_and_n(page, found):
    text = plain(page)
    assert [model.name for model in found.compared][:2] == ["untouched", "2 steps"]
    for model in found.compared:
        for table in found.tables:
            value = table.primary[model.name]
            size = f"{table.items} items of {table.videos} videos"
            change = f"{signed(value.change.value)} points {interval(value.change)}, {probability(value.p)}, {size}"
            assert f"{table.benchmark.title} {change}" in text
    assert "7 models against “no MHS, no MTTI” (p < 0.05, corrected for 14 comparisons)" in text


def test_the_papers_rows_stand_beside(page):
    """With the printed difference to the baseline, and stars where a cell is in doubt."""
    section = _section(page, "results")
    rows = {re.sub(r"<.*", "", cells[0]): cells for cells in _rows(section.split("<details>")[0])}
    beside = {name: re.findall(r'<span class="paper">(.*?)</span>', " ".join(cells)) for name, cells in rows.items()}
    assert beside["untouched"] == []
    assert beside["no MHS, no MTTI"] == ["54.8*", "51.5*", "44.8*", "44.5*"]
    assert beside["2 steps"] == ["52.8 −2.1", "48.7 −2.8", "24.0 −20.8**", "25.2 −19.4**"]
    assert beside["10 steps"] == ["57.5 +2.7", "53.4 +1.8", "49.0 +4.2", "48.0 +3.5"]
    assert beside["25 % of heads and tokens"][2:] == ["47.1 +2.3***", "47.3 +2.7***"]
    whole = _rows(section.split("<details>")[1])
    assert len(whole) == 7
    assert "<td>25% head/token select</td>" in section
    assert "24.01 (−20.82)" in section


def _section(page, name):
    return re.search(rf'<section id="{name}">.*?</section>', page, re.DOTALL)[0]


def _rows(markup):
    return [cells for row in markup.split("<tr") if (cells := re.findall(r"<td>(.*?)</td>", row, re.DOTALL))]


def test_every_number_is_there(page, found):
    text = plain(_section(page, "types"))
    for table in found.tables:
        for row in table.rows:
            for model in found.models:
                value = row.values[model.name]
                seeds = ", ".join(f"{one:.1f}" for one in value.seeds)
                change = f"{signed(value.change.value)} {interval(value.change)}" if value.change else "baseline"
                assert re.search(
                    rf"{re.escape(row.name)} {model.name} [\d.]+ \[.*?\] {seeds} {re.escape(change)}", text
                )


def test_charts_have_a_dot_per_model_and_one_per_seed(page, found):
    section = _section(page, "types")
    lines = sum(len(table.rows) for table in found.tables)
    assert section.count('r="4.5"') == lines * 7
    assert section.count('r="2.2"') == lines * 6 * len(world.SEEDS)  # the untouched model has none


def test_what_was_left_out_of_which_variants(page):
    text = plain(_section(page, "left-out"))
    assert f"vlm_attention {world.LEFT_OUT.unit} {world.LEFT_OUT.reason} all" in text


def test_the_summary_in_markdown(made, found):
    text = made.out["summary"].read_text()
    assert not emphasis(text)
    first, *others, changes = tables(text)
    assert [len(one) for one in (first, *others)] == [1 + 8] * 4
    assert first[0] == ["", "seeds", "accuracy", "difference", "interval", "p", "paper"]
    value = found.tables[0].primary["2 steps"]
    assert first[3][3:6] == [signed(value.change.value), interval(value.change), probability(value.p)[-5:].strip("= ")]
    assert first[3][-1] == "52.8"
    assert changes[1][1].startswith("num_steps = 5, params_head_selection.mhs = false")


def test_equal_inputs_are_remembered_and_give_equal_bytes(made, tmp_path, page):
    entries = _entries(made)
    again, forced = made.compare(tmp_path / "a"), made.compare(tmp_path / "b", rerun="force1")
    assert made.page(again) == made.page(forced) == page
    manifests = {(one["report"] / "manifest.json").read_bytes() for one in (made.out, again, forced)}
    assert len(manifests) == 1
    assert _entries(made) == entries
    assert len(entries) == 1
    other = made.compare(tmp_path / "c", baseline="untouched")
    assert made.page(other) != page
    assert "against the untouched model" in plain(made.page(other))


def _entries(made):
    return sorted((made.folder / "store").rglob("comparison/*/entry.json"))


def test_the_cut_for_the_viewer_names_the_whole_page(made):
    path = load_manifest(made.out["report"], Report, made.store.uri).page.path
    assert f"The whole page is {path} in the store." in made.out["page"].read_text()


def test_without_pictures(made, tmp_path):
    text = plain(made.page(made.compare(tmp_path, pictures=0)))
    assert "No pictured samples" in text


def test_trials_are_in_the_order_of_the_variants(made):
    """However the trainings were dealt out to tasks."""
    variants = [case.variant for case, _ in made.cases["priors"][0]]
    first, second = made.cases["tuned"]
    found = by_trial([*reversed(second), *reversed(first)], variants)
    assert list(found) == [(name, seed) for name in variants for seed in world.SEEDS]


def test_what_it_refuses(made):
    (first, second), untouched = made.cases["tuned"], [pair for part in made.cases["untouched"] for pair in part]
    variants = [case.variant for case, _ in made.cases["priors"][0]]
    with pytest.raises(DataError, match="two results of motionbench for 'no MHS, no MTTI', seed 1"):
        by_trial([*first, *first], variants)
    with pytest.raises(DataError, match="no results of '2 steps'"):
        by_trial([pair for pair in [*first, *second] if pair[0].variant != "2 steps"], variants)
    with pytest.raises(DataError, match="has no seed"):
        by_trial(untouched, variants)
    with pytest.raises(DataError, match="two results of favor for '2 steps'"):
        by_variant([*untouched, *untouched][8:])


def test_an_unknown_baseline(made, tmp_path):
    with pytest.raises(ParameterError, match="no variant 'typo'"):
        made.compare(tmp_path, baseline="typo")
