"""Pictures as text: what is drawn is what was given."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from components.pages import charts, figures
from components.pages.figures import raw
from components.pages.page import Section, preview, render


def decode(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB")).astype(int)


def test_heat_is_one_pixel_a_cell_and_monotone():
    picture = decode(figures.heat(np.linspace(0, 2, 24).reshape(4, 6), 2.0))
    assert picture.shape == (4, 6, 3)
    light = picture @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light.ravel()) > 0).all()
    clipped = decode(figures.heat(np.array([[2.0, 5.0, 0.0]]), 2.0))
    assert (clipped[0, 0] == clipped[0, 1]).all()


def test_outline_is_the_border_of_the_unseen_cells():
    unseen = np.zeros((4, 5), bool)
    unseen[1:3, 1:4] = True  # 2 × 3 cells: perimeter of 10 edges, 6 cells veiled
    drawn = figures._outline(unseen, 0, 0, 50, 40)
    veil, border = re.findall(r'd="([^"]*)"', drawn)
    assert veil.count("z") == 6
    assert border.count("M") == 10
    assert figures._outline(~(unseen | True), 0, 0, 1, 1) == ""


def test_text_is_escaped():
    row = figures.StripRow("<script>", [figures.Cell("data:,", label='"><b>')])
    plot = charts.dot_plot("<u>", [charts.Dot("<s>", [(1, 0, 2, "c1")], "<q>")])
    drawn = str(figures.strip([row], ["<i>"], 4, 3) + plot)
    assert not re.search(r"<(script|b|i|u|s|q)>", drawn.replace("<b>&lt;", ""))
    assert "<script>" not in preview("step", "<script>", "<script>", [Section("s", "<script>", "<script>")])


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.7, 12), (0.0312, 0.0388), (990, 5012)])
def test_ticks_are_round_and_inside(low, high):
    found = charts.ticks(low, high)
    assert 2 <= len(found) <= 6
    assert low - 1e-9 <= found[0]
    assert found[-1] <= high + 1e-9
    steps = np.diff(found)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.08, 3.2), (1e-9, 1e-4), (0.5, 0.9), (1, 1000)])
def test_log_ticks_are_inside(low, high):
    found = charts.log_ticks(low, high)
    assert 1 <= len(found) <= 7
    assert all(low * 0.999 <= value <= high * 1.001 for value in found)


def test_small_levels_have_no_e():
    drawn = str(charts.line_chart("x", [charts.Line("a", [0, 1], [1e-6, 3e-5], "c1")], x_name="step", log=True))
    assert "10⁻⁵" in drawn
    assert not re.search(r">[^<]*\de[-+−]", drawn)


def test_dots_lie_where_their_values_are():
    dots = [charts.Dot("a", [(2, 1, 3, "c1")]), charts.Dot("b", [(4, 3, 5, "c1")])]
    drawn = ElementTree.fromstring(str(charts.dot_plot("t", dots, reference=1)))
    circles = [float(node.get("cx")) for node in drawn.iter("circle")]
    (line,) = (node.get("d") for node in drawn.iter("path") if node.get("class") == "reference")
    reference = float(re.match(r"M([\d.]+)", line).group(1))
    unit = (circles[1] - circles[0]) / 2
    assert unit > 0
    assert circles[0] - reference == pytest.approx(unit, abs=0.2)
    whisker = next(node.get("d") for node in drawn.iter("path") if "thin" in node.get("class"))
    ends = list(map(float, re.findall(r"[\d.]+", whisker)))[::2]
    assert ends == pytest.approx([reference, reference + 2 * unit], abs=0.2)


def test_stacked_bars_have_the_parts_heights():
    stacks = [
        charts.Stack("0", [(2, "c1"), (1, "c2"), (-1, "c3")], 0.5, True),
        charts.Stack("1", [(-1, "c1"), (0, "c2"), (1, "c3")], 0.1, False),
    ]
    drawn = ElementTree.fromstring(str(charts.stacked_bars("t", stacks, [], 1, "kept")))
    boxes = [(float(n.get("y")), float(n.get("height"))) for n in drawn.iter("rect")]
    unit = boxes[1][1]
    assert [height / unit for _, height in boxes] == pytest.approx([2, 1, 1, 1, 0, 1], abs=0.02)
    assert boxes[1][0] + boxes[1][1] == pytest.approx(boxes[0][0], abs=0.2)  # the second part stands on the first
    assert boxes[2][0] == pytest.approx(boxes[0][0] + boxes[0][1], abs=0.2)  # the negative one hangs from zero


def test_histogram_counts():
    drawn = ElementTree.fromstring(str(charts.histogram("t", [0.01, 0.02, 0.99, 1.0, 0.5], bins=10)))
    heights = [float(n.get("height")) for n in drawn.iter("rect")]
    assert [round(h / heights[1]) for h in heights] == [2, 1, 2]


def test_all_sections_that_fit_are_shown():
    page = preview("step", "What it shows", "how", [Section(f"s{k}", f"one {k}", "") for k in range(3)])
    assert page.count("<section") == 3
    assert 'cutnote"' not in page


def test_a_page_opens_with_its_result_and_the_note_stands_below():
    page = render([Section("top", "", "the result"), Section("next", "more", "below")], "lies in the store", "report")
    assert page.index("the result") < page.index("lies in the store") < page.index("below")


def test_the_last_ones_are_left_out_with_a_note():
    found = [Section(f"s{k}", f"one {k}", "", raw("x" * 50_000)) for k in range(4)]
    page = preview("step", "What it shows", "how", found, limit=130_000)
    assert len(page.encode()) <= 130_000
    assert [f'id="s{k}"' in page for k in range(4)] == [True, True, False, False]
    assert "2 of 4 pictures do not fit" in page
