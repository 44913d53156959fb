"""The step's pages in the KFP UI: the scores; items answered right and as many answered wrong, with replies."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from components.core.artifacts import ItemResult, Score
from components.core.records import Json
from components.media.sampling import spread
from components.pages.figures import NOTHING, raw
from components.pages.markdown import document, table, text
from components.pages.section import Section, film, question_card, shortened
from components.pages.template import DRAWING, preview
from components.runtime.context import Context, remembered_pictures, smallest_by_hash
from components.runtime.parameters import P
from components.store.entries import WorkFolder

_ABOUT = (
    "Frames that the model saw, the question with the right option marked, the reply, the letter read out of it and by "
    "which rule."
)
_EACH = 2
_FRAMES = 6
_WIDTH = 150  # pixels of a frame


def choose(lines: Sequence[ItemResult]) -> list[ItemResult]:
    """Return at most two right and as many wrong answers, those with the smallest sha256(item id).

    Where one kind is missing, two of the other.
    """
    by_id = {line.sample.id: line for line in lines}
    right, wrong = ([line.sample.id for line in lines if line.correct is kind] for kind in (True, False))
    count = min(_EACH, len(right) or _EACH, len(wrong) or _EACH)
    return [by_id[name] for pair in (smallest_by_hash(right, count), smallest_by_hash(wrong, count)) for name in pair]


def page(context: Context[P], name: str, lines: Sequence[ItemResult]) -> str:
    """Return the chosen items as cards; their frames are pictures with cache entries, the words are read anew."""
    chosen = choose(lines)
    entries = remembered_pictures(
        context,
        chosen,
        name=lambda line: line.sample.id,
        reads=_reads,
        paint=lambda line, folder: _paint(context, line, folder),
    )
    films = [raw(context.store.read(entry.ref("film", context.task)).decode()) for entry in entries]
    cards = [(line.correct, _card(line, frames)) for line, frames in zip(chosen, films, strict=True)]
    right = sum(line.correct for line in lines)
    lead = f"{name}: {right} of {len(lines)} items right"
    kinds = (("right", True), ("wrong", False))
    return preview(
        "7 · benchmark",
        lead,
        _ABOUT,
        [_section(kind, [card for good, card in cards if good is value]) for kind, value in kinds],
    )


def scores_table(title: str, found: Sequence[Score]) -> str:
    """Return the scores in Markdown."""
    rows = [
        (score.name, score.n, f"{score.accuracy:.1f} %", f"{score.low:.1f} – {score.high:.1f}", score.unparsed)
        for score in found
    ]
    return document(
        f"# {text(title)}",
        table(("", "n", "accuracy", "95 %", "unparsed"), rows),
        "Unparsed replies count as wrong. Task types: Wilson; totals: bootstrap over videos.",
    )


def _section(kind: str, cards: Sequence[str]) -> Section:
    if not cards:
        return Section(kind, f"Answered {kind}", "None.")
    return Section(kind, f"Answered {kind}", NOTHING, raw(f'<div class="two">{"".join(cards)}</div>'))


def _card(line: ItemResult, frames: Markup) -> str:
    read = f"{line.parsed}, by the rule “{line.rule}”" if line.parsed else "unparsed, counted as wrong"
    official = "right" if line.official_correct else "wrong"
    reply = (
        f"<p><b>reply</b> <q>{escape(shortened(line.reply, 300))}</q></p>"
        f"<p><b>read as</b> {escape(read)} {'✓' if line.correct else '✗'} · {official} by the benchmark's own rule</p>"
    )
    return question_card("right" if line.correct else "wrong", line.sample, frames, raw(reply))


def _reads(line: ItemResult) -> Json:
    return {"drawing": DRAWING, "answer": line.key}


def _paint(context: Context[P], line: ItemResult, folder: WorkFolder) -> Json:
    from components.media.video import read_frames

    indices = [line.frames[i] for i in spread(len(line.frames), min(_FRAMES, len(line.frames)))]
    with context.store.borrowed(line.video.file) as path:
        folder.put("film", "html", film(read_frames(path, indices), indices, _WIDTH).encode())
    return {}
