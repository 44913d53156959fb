"""What a benchmark is: one object that import, evaluation and report read, in one module of this package.

A module that names its object `BENCHMARK` is found by `benchmarks()`; nothing else lists it.
"""

from __future__ import annotations

import pkgutil
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import Literal, NamedTuple

from components.benchmarks.rows import Layout, Row
from components.core.artifacts import ItemResult
from components.core.errors import DataError, ParameterError
from components.core.records import Option, Sample
from components.media.viewing import Viewing
from components.models.vlm.interface import VlmFamily
from components.quality.statistics import Estimate, Means

FramePreset = Literal["paper", "supplement"]
UNTYPED = "untyped"  # the type of items that name none, where a benchmark's types are its rows' own
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Metric:
    """A printed number over some task types (all if None): `micro` right / all items, `macro` mean over the types."""

    name: str
    kind: Literal["micro", "macro"] = "micro"
    types: frozenset[str] | None = None


class Shown(NamedTuple):
    """A line of a benchmark's results: a metric by its name, or a task type by its abbreviation, and its items."""

    key: str
    name: str  # what a page prints
    places: list[int]
    is_total: bool  # a metric


@dataclass(frozen=True)
class PaperRow:
    """What the paper printed for one model and, if it has that, for the tuned one; percent by metric or task type."""

    label: str  # in lower case the model's name in the registry
    frames: str  # how many the model saw, or how many per second; empty where the paper does not say
    untouched: Mapping[str, float]
    tuned: Mapping[str, float]
    flags: Mapping[str, str]  # doubts, by what they concern: `row`, or a cell (`tuned.Overall`)


def paper_rows(table: str, flags: Mapping[str, Mapping[str, str]] | None = None) -> tuple[PaperRow, ...]:
    """Return the rows of a text table, flags by label.

    A line begins with the model's label, or with `tuned`: the model of the line above, tuned. The first column may be
    `frames`; `-` is what was not printed.
    """
    heads, *lines = table.strip().splitlines()
    columns, rows = heads.split(), list[PaperRow]()
    for line in lines:
        label, *cells = line.rsplit(maxsplit=len(columns))
        printed = {name: cell for name, cell in zip(columns, cells, strict=True) if cell != "-"}
        frames = printed.pop("frames", "")
        numbers = {name: float(cell) for name, cell in printed.items()}
        if label == "tuned":
            rows[-1] = replace(rows[-1], tuned=numbers)
        else:
            rows.append(PaperRow(label, frames, numbers, {}, (flags or {}).get(label, {})))
    return tuple(rows)


@dataclass(frozen=True)
class Counts:
    """How many items were published: those with an answer, by abbreviation of their type, and those without."""

    by_type: Mapping[str, int]
    held_out: int = 0

    @property
    def answered(self) -> int:
        """Return how many items have a published answer."""
        return sum(self.by_type.values())


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """How one benchmark is read, asked and scored, and what the paper printed."""

    name: str  # the protocol, as `benchmarks` and the samples name it
    title: str  # as pages print it
    # task types as the benchmark's files name them, with the paper's abbreviations; empty: whatever its rows name
    types: Mapping[str, str]
    metrics: tuple[Metric, ...]  # the printed numbers in their order; the first one is over all items
    prompt: Callable[[str, Sequence[Option]], str]  # the text that a model is asked, from question and options
    # whether the benchmark's own script counts a stripped reply (options, right letter) as right
    official_rule: Callable[[str, Sequence[Option], str], bool]
    layout: Layout | None = None  # how its published files are written; each may come as JSONL rows as well
    shows_letters: bool = True  # whether the prompt shows options with letters; else only their texts are read
    max_new_tokens: int = 16  # longest reply, unless the run has another number
    supplement_fps: float | None = None  # frames per second by the supplement where the main text has another number
    paper: tuple[PaperRow, ...] = ()
    counts: Counts | None = None  # None: a set of one's own, or one that was published in several versions
    # name and text of the file that the benchmark's authors score, held-out items among its lines
    submission: Callable[[Sequence[ItemResult]], tuple[str, str]] | None = None

    def ask(self, question: str, options: Sequence[Option], template: str | None = None) -> str:
        """Return the text that a model is asked: the benchmark's own, or a template with `{question}` and `{options}`.

        Options stand one per line, with their letters where the benchmark shows them.
        """
        if template is None:
            return self.prompt(question, options)
        shown = [f"{option.letter}. {option.text}" if self.shows_letters else option.text for option in options]
        texts = {"{question}": question, "{options}": "\n".join(shown)}
        return re.sub(r"\{(?:question|options)\}", lambda found: texts[found[0]], template)

    def viewing(self, given: Viewing, preset: FramePreset, family: VlmFamily, duration: float) -> Viewing:
        """Return the frames that a VLM sees of a clip of `duration` seconds; `given` is the run's viewing."""
        if preset == "supplement" and self.supplement_fps is not None:
            return family.by_time(given, self.supplement_fps, duration)
        return given

    def task_type(self, given: str, source: str) -> str:
        """Return the abbreviation of a type given by name or abbreviation, whatever its case; DataError if unknown.

        Where the benchmark's types are its rows' own, it is what is given, and `untyped` where that is nothing.
        """
        if not self.types:
            return given.strip() or UNTYPED
        for name, short in self.types.items():
            if given.strip().casefold() in (name.casefold(), short.casefold()):
                return short
        remedy = f"name one of {', '.join(self.types)}, or import under another protocol, `custom` for types of its own"
        problem = f"{self.title} has no task type {given!r}" if given.strip() else f"no task type, as {self.title} has"
        raise DataError(f"{problem} ({', '.join(self.types.values())})", source=source, remedy=remedy)

    def kinds(self, types: Sequence[str]) -> list[str]:
        """Return the abbreviations that are among `types`, in the benchmark's order; those of rows' own sorted."""
        known = dict.fromkeys(self.types.values()) or sorted(set(types))
        return [kind for kind in known if kind in types]

    def differences(self, rows: Sequence[Row], rejected: int) -> list[str]:
        """Return how the items differ from the published ones, `<type>: <found> of <published>`; empty: they do not.

        Items that are missing count as long as they are more than the rejected rows, which have their own rule.
        """
        if self.counts is None:
            return []
        answered = Counter(self.task_type(row.question_type, row.uid) for row in rows if row.answer)
        held_out = sum(not row.answer for row in rows)
        pairs = [(kind, answered[kind], published) for kind, published in self.counts.by_type.items()]
        pairs.append(("held out", held_out, self.counts.held_out))
        lacking = sum(max(0, published - found) for _, found, published in pairs)
        if lacking <= rejected and all(found <= published for _, found, published in pairs):
            return []
        return [f"{name}: {found:,} of {published:,}" for name, found, published in pairs if found != published]

    def share(self, answered: int, known: int | None = None) -> str:
        """Return `n of N items`, N those that were published with an answer, else those that are known to have one."""
        total = known if self.counts is None else self.counts.answered
        of = "" if total is None else f" of {total:,}"
        return f"{answered:,}{of} item{'' if (total or answered) == 1 else 's'}"

    def check(self, sample: Sample) -> None:
        """Raise DataError unless a sample's answer is an option's letter (none is held out) and its task type known."""
        item, letters = f"item {sample.uid}", [option.letter for option in sample.options]
        if sample.answer not in letters:
            problem = f"answer {sample.answer!r} among the options {', '.join(letters) or '(none)'}"
            raise DataError(problem, source=item, remedy="import the benchmark again; held-out items are not scored")
        self.task_type(sample.question_type, item)

    def members(self, metric: Metric, types: Sequence[str]) -> list[int]:
        """Return the places of the items that a metric counts, from the items' types."""
        wanted = metric.types
        return [i for i, kind in enumerate(types) if wanted is None or self.task_type(kind, f"item {i}") in wanted]

    def shown(self, types: Sequence[str]) -> list[Shown]:
        """Return the lines of items with these types: the metrics, and of several types each that is no metric."""
        several, names = len(set(types)) > 1, {short: name for name, short in self.types.items()}
        printed = {metric.name.casefold() for metric in self.metrics}  # Short is the type `short`
        totals = [
            Shown(metric.name, metric.name, own, is_total=True)
            for metric in self.metrics
            if (own := self.members(metric, types)) and (several or metric.kind == "micro")
        ]
        kinds = [kind for kind in self.kinds(types) if several and names.get(kind, kind).casefold() not in printed]
        return totals + [
            Shown(kind, names.get(kind, kind), [i for i, one in enumerate(types) if one == kind], is_total=False)
            for kind in kinds
        ]

    def measure(
        self, means: Callable[[Sequence[int]], Means], types: Sequence[str]
    ) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
        """Return the metrics by name (those that have items), and every task type that is there.

        `means` estimates the items at some places (their accuracy, a paired difference); `types` are those of all.
        """
        whole = means(range(len(types)))
        totals = {}
        for metric in self.metrics:
            if own := self.members(metric, types):
                part = whole if metric.types is None else means(own)
                totals[metric.name] = part.average if metric.kind == "macro" else part.overall
        return totals, whole.by_type


@cache
def benchmarks() -> dict[str, Benchmark]:
    """Return every benchmark of this package by name: `BENCHMARK` of each module that has one."""
    package = import_module(__name__.rpartition(".")[0])
    modules = [import_module(f"{package.__name__}.{found.name}") for found in pkgutil.iter_modules(package.__path__)]
    declared: list[Benchmark] = [module.BENCHMARK for module in modules if hasattr(module, "BENCHMARK")]
    return {benchmark.name: benchmark for benchmark in declared}


def get_benchmark(name: str) -> Benchmark:
    """Return the benchmark of a name; ParameterError where there is none.

    One whose types are its rows' own may stand for several, each with a name of its own: `custom:<name>`.
    """
    protocol, colon, own = name.partition(":")
    benchmark = benchmarks().get(protocol)
    if benchmark is None or (colon and (benchmark.types or not _NAME.fullmatch(own))):
        remedy = f"write '<protocol>=<uri>' with one of {', '.join(benchmarks())} (several sets: custom:<name>)"
        raise ParameterError(f"no protocol {name!r}", source="benchmarks", remedy=remedy)
    return replace(benchmark, name=name, title=own) if own else benchmark


def parse_benchmark(item: str) -> tuple[str, str]:
    """Return protocol and address of `"<protocol>=<folder or minio:// prefix>"`; ParameterError for anything else."""
    protocol, _, uri = item.partition("=")
    if not uri:
        problem = f"{item!r} is not <protocol>=<address>"
        raise ParameterError(problem, source="benchmarks", remedy="e.g. motionbench=./data")
    return get_benchmark(protocol).name, uri


def parse_benchmarks(items: Sequence[str]) -> list[tuple[str, str]]:
    """Return protocol and address of each; ParameterError as for one, and for a protocol that is named twice."""
    parsed = [parse_benchmark(item) for item in items]
    named = Counter(protocol for protocol, _ in parsed)
    if repeated := sorted(protocol for protocol, count in named.items() if count > 1):
        remedy = "give one source per protocol; sets of your own may have names, custom:<name>"
        raise ParameterError(f"protocol named twice: {repeated}", source="benchmarks", remedy=remedy)
    return parsed
