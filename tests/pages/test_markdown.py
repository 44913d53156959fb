"""Markdown of data: a CommonMark parser reads back the same text, and KFP's viewer finds no emphasis in it."""

import pytest
from markdown_it import MarkdownIt

from components.core.artifacts import Manifest
from components.core.records import ModelId, StepRecord
from components.pages.markdown import WIDTH, bullets, code, decisions, document, table, text
from tests.pages.reading import emphasis, tables

HOSTILE = [
    "a|b.mp4",
    "<b>bold</b>.mp4",
    "two\nlines.mp4",
    "_emphasis_ snake_case__x.mp4",
    "*star* **strong** ~~gone~~",
    "back`tick` ``two``",
    "[a](http://b) ![c](d) [e][f]",
    "[a]: http://b",
    "[x] done",
    "# head",
    "- item",
    "+ item",
    "1. item",
    "2) item",
    "> quote",
    "---",
    "===",
    "&lt;script&gt; &amp; &#65; a & b < c",
    "\\*escaped\\| \\",
    "<!-- comment --> <?php ?> </p>",
    "`",
    "``` fence",
    "|",
    "a_b_c|*x*<script>",
    "fixed_point_iters and ddim_inversion",
    "==marked== [^1] [ ] <x@y.z> http://a.b/c_d",
    "head #",
    "it ends in 5. Then - again",
]


def parse(page):
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(page)


def contents(page):
    """Text of each block; every token in it must be plain text, a code span or preformatted."""
    found = []
    for token in parse(page):
        assert token.type != "html_block", token.content
        if token.type == "fence":
            found.append(token.content)
        elif token.type == "inline":
            assert {child.type for child in token.children} <= {"text", "text_special", "code_inline"}, token.children
            found.append("".join(child.content for child in token.children))
    return found


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("where", ["paragraph", "bullet", "heading", "code", "cell"])
def test_data_is_read_back_as_text(name, where):
    wanted = " ".join(name.split())
    page, found = {
        "paragraph": (text(name), [wanted]),
        "bullet": (bullets([name, "next"]), [wanted, "next"]),
        "heading": (f"# {text(name)}", [wanted]),
        "code": (f"a {code(name)} b", [f"a {wanted} b"]),
        "cell": (table(["name", "n"], [(name, 1)]), None),
    }[where]
    if where == "cell":
        assert tables(page) == [[["name", "n"], [wanted, "1"]]]
    else:
        assert contents(page) == found
    assert not emphasis(page)


@pytest.mark.parametrize("name", ["a_b", "a * b", "~x", "a == b", r"`a\|b`", "`<!-- x -->`"])
def test_what_kfps_viewer_would_change_is_noticed(name):
    assert emphasis(f"of {name} and")


def test_a_fence_is_longer_than_what_stands_in_it():
    assert contents(table(["name", "note"], [("```", ""), ("after", "")])) == ["name   note\n-----  ----\n```\nafter\n"]


def test_ordinary_names_stay_readable():
    names = "clips/first-take-2.mp4", "R&D, 3 < 4", "12.5 %", "+2.5 [1, 2]", "a = b", "minio://bucket/x"
    assert [text(name) for name in names] == list(names)


def test_a_table_is_preformatted_its_numbers_at_the_right():
    assert table(["step", "n", "time"], [["a_b", 1000, "< 1 s"], ["c", "–", "12 s"]]) == (
        "```\nstep      n   time\n----  -----  -----\na_b   1,000  < 1 s\nc         –   12 s\n```"
    )


def test_narrow_columns_that_are_together_too_wide_stay_as_they_are():
    lines = table(["8 letter"] * 12, [["8 digits"] * 12]).splitlines()
    assert max(map(len, lines)) == 12 * 8 + 11 * 2 > WIDTH


def test_a_long_cell_is_wrapped_to_the_viewers_width():
    words = " ".join(f"word{k}" for k in range(40))
    (found,) = tables(table(["name", "value", "n"], [("x", words, 1), ("y", "short", 2)]))
    assert " ".join(row[1] for row in found[1:-1]) == words
    assert [row[2] for row in found] == ["n", "1", *[""] * (len(found) - 3), "2"]
    assert max(map(len, table(["name", "value"], [("x", words)]).splitlines())) == WIDTH
    assert max(map(len, table(["name", "value"], [("x", "y" * 300)]).splitlines())) == WIDTH


def test_wide_characters_take_two_columns():
    lines = table(["name", "n"], [("漢字", "a"), ("abcd", "b")]).splitlines()
    assert lines[3:5] == ["漢字  a", "abcd  b"]


@pytest.mark.parametrize("name", HOSTILE)
def test_decisions_name_every_parameter(name):
    params = {"fixed_point_iters": 0, "rate": 1e-5, "viewing": {"fps": 2.0, "on": True}, "text": name, "none": None}
    models = {"vlm": ModelId(name=name, digest="0" * 64)}
    record = StepRecord(version="2", params=params, scalars={"ratio": 0.5}, models=models)
    page = decisions(Manifest(kind="x", provenance={"sft": record}, left_out=[]))
    (found,) = tables(page)
    wanted = " ".join(name.split())
    assert found[1:] == [
        ["sft v2", "fixed_point_iters", "0"],
        ["", "none", "none"],
        ["", "rate", "0.00001"],
        ["", "ratio", "0.5"],
        ["", "text", wanted],
        ["", "viewing.fps", "2.0"],
        ["", "viewing.on", "true"],
        ["", "vlm", f"{wanted} (000000000000)"],
    ]
    assert not emphasis(page)


def test_empty_blocks_leave_no_gap():
    assert document("# Title", "", "text") == "# Title\n\ntext\n"
