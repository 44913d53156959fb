"""The step's pages in the KFP UI: the scores; items answered right and as many answered wrong, with replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from components.benchmark_eval.controls import Orders
from components.core.artifacts import ItemResult, Score
from components.core.records import Json, Video, smallest_by_hash
from components.media.sampling import spread
from components.pages.figures import raw
from components.pages.markdown import document, table, text
from components.pages.page import DRAWING, Section, absent, film, preview, question_card, shortened
from components.runtime.context import Context, remembered_pictures
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
    """Return two right and two wrong answers by sha256(item id), fewer if one kind has fewer; two of a lone kind."""
    by_id = {line.sample.id: line for line in lines}
    right, wrong = ([line.sample.id for line in lines if line.correct is kind] for kind in (True, False))
    count = min(_EACH, len(right) or _EACH, len(wrong) or _EACH)
    return [by_id[name] for kind in (right, wrong) for name in smallest_by_hash(kind, count)]


def page(context: Context[P], name: str, lines: Sequence[ItemResult], videos: Mapping[str, Video]) -> str:
    """Return the chosen items as cards; their frames are pictures with cache entries, the words are read anew.

    `videos` by id have the times of their frames.
    """
    chosen = choose(lines)

    def reads(line: ItemResult) -> Json:
        return {"drawing": DRAWING, "answer": line.key}

    def paint(line: ItemResult, folder: WorkFolder) -> Json:
        from components.media.video import read_frames

        indices = [line.frames[i] for i in spread(len(line.frames), min(_FRAMES, len(line.frames)))]
        if not indices:
            folder.put("film", "html", absent("The model was shown no video.").encode())
            return {}
        with context.store.borrowed(line.video.file) as path:
            frames = read_frames(path, indices, videos[line.video.id])
            folder.put("film", "html", film(frames, indices, _WIDTH).encode())
        return {}

    entries = remembered_pictures(context, chosen, name=lambda line: line.sample.id, reads=reads, paint=paint)
    cards: dict[str, str] = {"right": "", "wrong": ""}
    for line, entry in zip(chosen, entries, strict=True):
        frames = raw(context.store.read(entry.ref("film", context.task)).decode())
        kind = "right" if line.correct else "wrong"
        cards[kind] += _card(kind, line, frames)
    lead = f"{name}: {sum(line.correct for line in lines)} of {len(lines)} items right"
    sections = [
        Section(kind, f"Answered {kind}", "" if shown else "None.", raw(shown and f'<div class="two">{shown}</div>'))
        for kind, shown in cards.items()
    ]
    return preview("7 · benchmark", lead, _ABOUT, sections)


def scores_table(
    title: str, found: Sequence[Score], types: Mapping[str, str], asked: str = "", orders: Orders | None = None
) -> str:
    """Return the scores in Markdown, task types by their names; `types` holds the abbreviation of each name.

    `asked` says which items were; `orders` is what asking them in several orders of their options found.
    """
    names = {short: name for name, short in types.items()}
    rows = [(names.get(s.name, s.name), s.n, f"{s.accuracy:.1f} %", _interval(s), s.unparsed) for s in found]
    note = "Unparsed replies count as wrong. Intervals take into account that questions share videos."
    parts = [f"# {text(title)}", *filter(None, [asked]), table(("", "n", "accuracy", "95 %", "unparsed"), rows), note]
    return document(*parts, *([] if orders is None else _orders(orders)))


def _orders(found: Orders) -> list[str]:
    rows = [
        (
            f"moved by {one.shift}" if one.shift else "as published",
            one.n,
            _share(one.correct, one.n),
            _share(one.flipped, one.n) if one.shift else "–",
        )
        for one in found.orders
    ]
    lead = f"Mean accuracy over the orders of an item: {100 * found.mean:.1f} %; right in every order: "
    lead += f"{100 * found.all_correct:.1f} % of the items. Flipped: another option was chosen than as published."
    places = [(letter, n, _share(right, n)) for letter, n, right in found.by_place]
    tables = table(("order", "n", "accuracy", "flipped"), rows), table(("right option at", "n", "accuracy"), places)
    return ["## Orders of the options", lead, *tables]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def _interval(score: Score) -> str:
    return "1 video" if score.low is None or score.high is None else f"{score.low:.1f} – {score.high:.1f}"


def _card(kind: str, line: ItemResult, frames: Markup) -> str:
    read = f"{line.parsed}, by the rule “{line.rule}”" if line.parsed else "unparsed, counted as wrong"
    official = "right" if line.official_correct else "wrong"
    reply = (
        f"<p><b>reply</b> <q>{escape(shortened(line.reply, 300))}</q></p>"
        f"<p><b>read as</b> {escape(read)} {'✓' if line.correct else '✗'} · {official} by the benchmark's own rule</p>"
    )
    return question_card(kind, line.sample, frames, raw(reply))
