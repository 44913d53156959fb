"""Markdown of data: a CommonMark parser with GitHub's tables reads back the same text, and nothing else."""

import pytest
from markdown_it import MarkdownIt

from components.pages.markdown import Markdown, bullets, code, document, table, text

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
    "|",
]


def parse(page):
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(page)


def contents(page, kind):
    """Text of each inline block; every token in it must be plain text or a code span."""
    found = []
    for token in parse(page):
        assert token.type != "html_block", token.content
        if token.type == "inline":
            assert {child.type for child in token.children} <= {"text", "text_special", kind}, token.children
            found.append("".join(child.content for child in token.children))
    return found


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("where", ["paragraph", "bullet", "cell"])
def test_data_is_read_back_as_text(name, where):
    wanted = " ".join(name.split())
    if where == "paragraph":
        assert contents(text(name), "text") == [wanted]
    elif where == "bullet":
        assert contents(bullets([name, "next"]), "text") == [wanted, "next"]
    else:
        assert contents(table(["name", "n"], [[name, 1], ["b", name]]), "text") == [
            "name", "n", wanted, "1", "b", wanted
        ]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_code_span_survives(name):
    (token,) = (token for token in parse(f"a {code(name)} b") if token.type == "inline")
    assert [child.content for child in token.children] == ["a ", " ".join(name.split()), " b"]
    assert contents(table(["name"], [[code(name)]]), "code_inline")[-1] == " ".join(name.split())


def test_ordinary_names_stay_readable():
    names = "clips/first_take-2.mp4", "R&D, 3 < 4", "12.5 %", "-0.11", "+2.5 [1, 2]", "#1", "layout motionbench_caption"
    assert [text(name) for name in names] == list(names)


def test_a_table_is_aligned_and_markdown_passes():
    assert table(["step", "n"], [[code("a"), 10], [Markdown("**b**"), 2]]) == (
        "| step  | n   |\n|-------|-----|\n| `a`   | 10  |\n| **b** | 2   |"
    )


def test_empty_blocks_leave_no_gap():
    assert document("# Title", "", "text") == "# Title\n\ntext\n"
