"""How both models' replies were read: by which rules, and whether each letter is named as often as it is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from markupsafe import Markup

from components.core.artifacts import ItemResult
from components.core.units import probability
from components.pages.figures import raw
from components.pages.page import caption, html_table
from components.quality.statistics import letter_balance

_RULES = {
    "letter": "one letter",
    "leading": "begins with a letter",
    "phrase": "names a letter",
    "trailing": "ends with a letter",
    "text": "an option's text",
    "unparsed": "unparsed, counted as wrong",
}


def reply_tables(untouched: Sequence[ItemResult], tuned: Sequence[ItemResult]) -> Markup:
    """Return the tables of rules and of letters, behind a line that opens them."""
    both = (untouched, tuned)
    balance = [f"{name}: {_balance(lines)}" for name, lines in zip(("untouched", "tuned"), both, strict=True)]
    note = (
        "Letters are the options' places. χ² of the test that each is named as often as it is right (Stuart–Maxwell, "
        f"without unparsed replies, p by exchange in whole videos): {'; '.join(balance)}."
    )
    found = raw('<div class="charts"><div class="scroll">{}</div><div class="scroll">{}</div></div>').format(
        rule_table(*both), letter_table(*both)
    )
    return raw("<details><summary>how the replies were read</summary>{}{}</details>").format(found, caption(note))


def rule_table(untouched: Sequence[ItemResult], tuned: Sequence[ItemResult]) -> Markup:
    """Return how many replies each rule read, and how many of them right."""
    counts = [
        (Counter(line.rule for line in lines), Counter(line.rule for line in lines if line.correct))
        for lines in (untouched, tuned)
    ]
    rules = [*_RULES, *sorted({rule for read, _ in counts for rule in read} - set(_RULES))]
    rows = [
        (_RULES.get(rule, rule), *(f"{read[rule]} ({right[rule]})" if read[rule] else "" for read, right in counts))
        for rule in rules
        if any(read[rule] for read, _ in counts)
    ]
    return html_table(("read by (right)", "untouched", "tuned"), rows)


def letter_table(untouched: Sequence[ItemResult], tuned: Sequence[ItemResult]) -> Markup:
    """Return for each letter: items where it is right, how often both models named it, and their accuracy there."""
    items = Counter(line.sample.answer for line in untouched)
    named = [Counter(line.parsed for line in lines) for lines in (untouched, tuned)]
    right = [Counter(line.parsed for line in lines if line.correct) for lines in (untouched, tuned)]
    letters = sorted({option.letter for line in untouched for option in line.sample.options})
    rows = [
        (
            letter,
            items[letter],
            " → ".join(str(found[letter]) for found in named),
            " → ".join(f"{found[letter] / items[letter]:.0%}" for found in right) if items[letter] else "",
        )
        for letter in letters
    ]
    return html_table(("", "is right", "is named", "accuracy there"), rows)


def _balance(lines: Sequence[ItemResult]) -> str:
    parsed = [line for line in lines if line.parsed]
    if not parsed:
        return "no reply was read"
    columns = ([line.parsed, line.sample.answer, line.video.id] for line in parsed)
    chi, p = letter_balance(*zip(*columns, strict=True))
    return f"{chi:.1f}, {probability(p)}"
