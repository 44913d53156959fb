"""A step's preview: what does not fit into the UI's limit is left out from the end, with a note."""

from components.pages.figures import raw
from components.pages.page import Section, preview


def test_all_sections_that_fit_are_shown():
    page = preview("step", "What it shows", "how", [Section(f"s{k}", f"one {k}", "") for k in range(3)])
    assert page.count("<section") == 3
    assert 'cutnote"' not in page


def test_the_last_ones_are_left_out_with_a_note():
    found = [Section(f"s{k}", f"one {k}", "", raw("x" * 50_000)) for k in range(4)]
    page = preview("step", "What it shows", "how", found, limit=130_000)
    assert len(page.encode()) <= 130_000
    assert [f'id="s{k}"' in page for k in range(4)] == [True, True, False, False]
    assert "2 of 4 pictures do not fit" in page


def test_text_of_the_data_is_escaped():
    assert "<script>" not in preview("step", "<script>", "<script>", [Section("s", "<script>", "<script>")])
