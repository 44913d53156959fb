"""The table and the chart of heads, also of those of single layers, which are more than a chart has room for."""

import re

from components.core.records import HeadRow, head_name
from components.pages.heads import head_figure, ranked


def row(head, score, chosen, layer=None):
    return HeadRow(
        head=head,
        layer=layer,
        dfc=1,
        dfc_stderr=0,
        tcs=1,
        dsr=1,
        z=(score, 0, 0),
        score=score,
        chosen=chosen,
        samples=2,
    )


def bars(page):
    return re.findall(r"<title>head (\S+):", page)


def test_heads_of_layers_are_ranked_by_score_then_by_layer_and_head():
    rows = [row(1, 0.5, 1, layer=1), row(0, 0.5, 1, layer=1), row(1, 0.5, 1, layer=0), row(3, 2.0, 1, layer=2)]
    assert [head_name(one.id) for one in ranked(rows)] == ["2·3", "0·1", "1·0", "1·1"]
    assert bars(head_figure(rows, {})) == ["2·3", "0·1", "1·0", "1·1"]


def test_a_chart_of_too_many_heads_shows_one_in_n_and_its_cut_stays_in_place():
    rows = [row(k % 48, -k, 2 if k < 500 else 0, layer=k // 48) for k in range(1000)]
    page = head_figure(rows, {})
    assert bars(page) == [head_name(one.id) for one in rows[::5]]
    assert "Heads by score, one in 5" in page
    assert "kept: 500 of 1000" in page
    assert page.count("<tr") == 1001
    dim = page.count('opacity=".45"')
    assert (len(bars(page)) - dim, dim) == (100, 100)
    widths = [float(width) for width in re.findall(r'<rect class="fill c1"[^>]* width="([^"]+)"', page)]
    assert len(widths) == 200
    assert min(widths) > 0
