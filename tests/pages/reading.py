"""Our pages as a reader's program takes them: tags, tables by the dashes below their heads, emphasis as in KFP."""

import re
from html.parser import HTMLParser
from itertools import pairwise

from markdown_it import MarkdownIt

EMPTY = {"meta", "link", "img", "br", "path", "rect", "circle", "image", "input"}


class Tags(HTMLParser):
    """Fails on tags that are not closed in order; keeps ids, addresses and text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.ids, self.addresses, self.text = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for key, value in attrs if key == "id"]
        self.addresses += [value for key, value in attrs if key in ("src", "href")]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.addresses += [value for key, value in attrs if key in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> after {self.open[-3:]}"

    def handle_data(self, data):
        self.text.append(data)


def plain(page):
    return re.sub(r"\s+", " ", " ".join(Tags(page).text))


def fences(page):
    """Return the lines of each preformatted block."""
    return [token.content.splitlines() for token in MarkdownIt("commonmark").parse(page) if token.type == "fence"]


def tables(page):
    """Return each table as rows of cells, its head first; a wrapped cell goes on in a row of its own."""
    found = []
    for lines in fences(page):
        dashes = next(line for line in lines if not line.strip("- "))
        columns = [match.span() for match in re.finditer("-+", dashes)]
        gaps = set(range(max(map(len, lines)))) - {at for start, end in columns for at in range(start, end)}
        assert all(line[at : at + 1] in ("", " ") for line in lines for at in gaps), "a cell leaves its column"
        assert all(after - end == 2 for (_, end), (after, _) in pairwise(columns))
        found.append([[line[start:end].strip() for start, end in columns] for line in lines if line != dashes])
    return found


def rows(page):
    """Return the rows of all tables of a page by their first cells."""
    return {row[0]: row[1:] for table in tables(page) for row in table[1:]}


def emphasis(page):
    """Return what KFP's viewer would not show as it is.

    Outside of code: `_`, `*`, `~` and `==` without a backslash, also inside of words. Code spans with a backslash or a
    comment: it drops both.
    """
    skipped = re.compile(r"^(`{3,})\n.*?^\1$|\\[^A-Za-z0-9\s]|(`+)(?!`)(.*?)(?<!`)\2(?!`)", re.MULTILINE | re.DOTALL)
    spans = [match[3] for match in skipped.finditer(page) if match[3]]
    outside = re.sub(r"^\* |\*\*Warning:\*\*", "", skipped.sub("", page), flags=re.MULTILINE)
    return [*re.findall(r"[_*~]|==", outside), *(span for span in spans if re.search(r"\\|<!--", span))]
