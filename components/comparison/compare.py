"""Every variant of an ablation against a baseline, paired by item: per benchmark, metric and task type, over seeds.

What a model reaches on an item is its mean over the seeds of its variant. Intervals and tests go over videos, and keep
all seeds of a video together (`components/quality/statistics.py`): they hold for the seeds that were trained. How much
seeds differ is seen in each one's own accuracy. p of the benchmarks' first metrics is Holm-corrected over all models
and benchmarks; p of a benchmark's other metrics and task types over these and all models.
Legend: n items of a benchmark.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from components.benchmarks.interface import Benchmark, Shown, get_benchmark
from components.core.artifacts import EvalResult
from components.core.errors import DataError, ParameterError
from components.quality.statistics import Estimate, Means, accuracy, difference, holm
from components.runtime.variants import UNTOUCHED, baseline_of

ALPHA = 0.05  # p below which a difference counts
_NAMED = 3  # sample ids that an error names
Results = Mapping[str, EvalResult]  # by protocol


class Trial(NamedTuple):
    """One training: a variant with a seed."""

    variant: str
    seed: int


@dataclass(frozen=True)
class Value:
    """What one model reaches on one line of a benchmark, in percent, and its difference to the baseline, in points.

    `seeds` are the values of each seed; `p` is corrected. The baseline itself has neither a difference nor p.
    """

    mean: Estimate
    seeds: tuple[float, ...]
    change: Estimate | None
    p: float | None

    @property
    def spread(self) -> float | None:
        """Return the standard deviation over seeds; None of fewer than two."""
        return statistics.stdev(self.seeds) if len(self.seeds) > 1 else None


@dataclass(frozen=True)
class Row:
    """A metric or task type (`key`: its name or abbreviation, `name`: what a page prints) of all models, by name."""

    key: str
    name: str
    is_total: bool
    values: dict[str, Value]


@dataclass(frozen=True)
class Table:
    """A benchmark: its rows, the first one over all items; of each model the share of replies that were unreadable."""

    benchmark: Benchmark
    items: int
    videos: int
    rows: list[Row]
    unparsed: dict[str, float]

    @property
    def primary(self) -> dict[str, Value]:
        """Return each model's value over all items."""
        return self.rows[0].values


@dataclass(frozen=True)
class Model:
    """One line of a comparison: a variant, or an untouched model (no seeds), and which model it is compared with."""

    name: str
    seeds: tuple[int, ...]
    against: str | None


@dataclass(frozen=True)
class Comparison:
    """All models on all benchmarks; `baseline` is the name of a variant, or `untouched`."""

    baseline: str
    models: list[Model]
    tables: list[Table]

    @property
    def compared(self) -> list[Model]:
        """Return the models that are compared with another one."""
        return [model for model in self.models if model.against is not None]

    @property
    def family(self) -> int:
        """Return how many comparisons p of the first metrics is corrected for."""
        return len(self.compared) * len(self.tables)


class _Items(NamedTuple):
    """A benchmark's items in the order of their sample ids."""

    ids: tuple[str, ...]
    videos: tuple[str, ...]
    types: tuple[str, ...]


class _Answers(NamedTuple):
    """Which items one model answered rightly, and how many of its replies were unreadable."""

    right: Bool[np.ndarray, " n"]
    unparsed: int


_Seeds = dict[str, list[_Answers]]  # by protocol: of each seed, or of the untouched model alone


def compare(tuned: Mapping[Trial, Results], untouched: Mapping[str, Results], baseline: str) -> Comparison:
    """Compare every model with the baseline.

    Args:
        tuned: the results of each trial, the variants in their order.
        untouched: for each variant the results of the model that its training begins with; mostly the same for all.
        baseline: the name of a variant, `first`, or `untouched`: each is then compared with the model it begins with.

    Raises:
        ParameterError: no variant has the baseline's name, or one has an untouched model's.
        DataError: the models did not answer the same items of the same benchmarks, or an untouched one is missing.
    """
    variants = list(dict.fromkeys(trial.variant for trial in tuned))
    baseline = baseline_of(baseline, variants)
    if missing := [variant for variant in variants if variant not in untouched]:
        remedy = "wire the evaluations of the untouched models of the same variants"
        raise DataError(f"no untouched results of {', '.join(missing)}", source="untouched", remedy=remedy)
    reader = _Reader()
    answers, begins = _untouched(reader, {variant: untouched[variant] for variant in variants})
    if taken := sorted(answers.keys() & {*variants}):
        problem = f"{taken[0]!r} is what an untouched model is called here"
        raise ParameterError(problem, source="variants", remedy="give the variant another name")
    alone = baseline == UNTOUCHED
    models = [Model(name, (), None if alone else baseline) for name in answers]
    for variant in variants:
        seeds = tuple(trial.seed for trial in tuned if trial.variant == variant)
        read = [reader.read(tuned[Trial(variant, seed)], f"variant {variant!r}, seed {seed}") for seed in seeds]
        answers[variant] = {protocol: [one[protocol] for one in read] for protocol in reader.items}
        against = begins[variant] if alone else baseline
        models.append(Model(variant, seeds, None if variant == baseline else against))
    tables = [
        _table(protocol, items, models, {name: own[protocol] for name, own in answers.items()})
        for protocol, items in reader.items.items()
    ]
    return Comparison(baseline, models, _corrected(tables))


class _Reader:
    """Reads results, which must all be of the items and benchmarks of the first ones."""

    def __init__(self) -> None:
        self.items: dict[str, _Items] = {}
        self._first = ""

    def read(self, results: Results, called: str) -> dict[str, _Answers]:
        """Return the answers by protocol; `called` is what messages call the model."""
        self._first = self._first or called
        if self.items and results.keys() != self.items.keys():
            problem = f"results of {_listed(results)}, but of {_listed(self.items)} for {self._first}"
            raise DataError(problem, source=called, remedy="evaluate all variants on the same benchmarks")
        return {protocol: self._answers(result, called) for protocol, result in results.items()}

    def _answers(self, result: EvalResult, called: str) -> _Answers:
        benchmark = get_benchmark(result.protocol)
        lines = sorted(
            (line.sample.id, line.video.file.sha256, line.sample.question_type, line.correct, not line.parsed)
            for line in result.lines
        )
        if not lines:
            remedy = "see what its evaluation left out and why"
            raise DataError(f"no item of {benchmark.title} was answered", source=called, remedy=remedy)
        ids, videos, given, right, unparsed = zip(*lines, strict=True)
        if result.protocol not in self.items:
            named = dict(zip(given, ids, strict=True))  # an item of each type
            kinds = {kind: benchmark.task_type(kind, f"sample {name}") for kind, name in named.items()}
            self.items[result.protocol] = _Items(ids, videos, tuple(kinds[kind] for kind in given))
        known = self.items[result.protocol]
        if ids != known.ids:
            missing, more = sorted({*known.ids} - {*ids}), sorted({*ids} - {*known.ids})
            problem = (
                f"other items of {benchmark.title} than for {self._first}: "
                f"{_items('missing', missing)}, {_items('more', more)}"
            )
            remedy = "evaluate all variants with the same `limit` and without left-out items, then compare again"
            raise DataError(problem, source=called, remedy=remedy)
        return _Answers(np.array(right), sum(unparsed))


def _listed(protocols: Iterable[str]) -> str:
    return ", ".join(sorted(protocols)) or "no benchmark"


def _items(kind: str, ids: Sequence[str]) -> str:
    named = f" ({', '.join(ids[:_NAMED])}{', …' if len(ids) > _NAMED else ''})" if ids else ""
    return f"{len(ids)} {kind}{named}"


def _untouched(reader: _Reader, results: Mapping[str, Results]) -> tuple[dict[str, _Seeds], dict[str, str]]:
    """Return the untouched models' answers by name, equal ones once, and with which of them each variant begins."""
    found: dict[str, _Seeds] = {}
    begins: dict[str, str] = {}
    for variant, given in results.items():
        own = {name: [one] for name, one in reader.read(given, f"variant {variant!r}, untouched").items()}
        name = next((name for name, known in found.items() if _alike(known, own)), "")
        if not name:
            name = f"{UNTOUCHED} of {variant}" if found else UNTOUCHED
            found[name] = own
        begins[variant] = name
    return found, begins


def _alike(one: _Seeds, other: _Seeds) -> bool:
    """Return whether two untouched models were right on the same items."""
    return all(np.array_equal(one[protocol][0].right, other[protocol][0].right) for protocol in one)


def _table(protocol: str, items: _Items, models: Sequence[Model], answers: Mapping[str, list[_Answers]]) -> Table:
    """Return a benchmark's rows; p is not corrected yet."""
    benchmark = get_benchmark(protocol)
    measured = {
        model.name: _Measured(benchmark, items, answers[model.name], answers[model.against] if model.against else None)
        for model in models
    }
    rows = [
        Row(shown.key, shown.name, shown.is_total, {name: one.value(shown) for name, one in measured.items()})
        for shown in benchmark.shown(items.types)
    ]
    n, videos = len(items.ids), len(set(items.videos))
    unparsed = {name: sum(one.unparsed for one in own) / (n * len(own)) for name, own in answers.items()}
    return Table(benchmark, n, videos, rows, unparsed)


class _Measured:
    """A model's means, those of its seeds, and its differences to another model, on all lines of a benchmark."""

    def __init__(
        self, benchmark: Benchmark, items: _Items, own: Sequence[_Answers], other: Sequence[_Answers] | None
    ) -> None:
        counts = np.sum([one.right for one in own], axis=0)

        def shares(right: np.ndarray) -> Callable[[Sequence[int]], Means]:
            return lambda at: accuracy(right[[*at]].tolist(), *_at(items, at))

        def changes(at: Sequence[int]) -> Means:
            before = np.sum([one.right for one in other or ()], axis=0)
            repeats = len(other or ()), len(own)
            return difference(before[[*at]].tolist(), counts[[*at]].tolist(), *_at(items, at), repeats=repeats)

        self._mean = benchmark.measure(shares(counts / len(own)), items.types)
        self._seeds = [benchmark.measure(shares(one.right), items.types) for one in own]
        self._change = None if other is None else benchmark.measure(changes, items.types)

    def value(self, shown: Shown) -> Value:
        """Return what stands on a line, in percent."""
        side = 0 if shown.is_total else 1
        seeds = tuple(one[side][shown.key].percent.value for one in self._seeds)
        change = None if self._change is None else self._change[side][shown.key].percent
        return Value(self._mean[side][shown.key].percent, seeds, change, None if change is None else change.p)


def _at(items: _Items, places: Sequence[int]) -> tuple[list[str], list[str]]:
    """Return the videos and types of the items at some places."""
    return [items.videos[i] for i in places], [items.types[i] for i in places]


def _corrected(tables: Sequence[Table]) -> list[Table]:
    """Return the tables with Holm-corrected p: of the first rows of all tables together, of each table's other rows."""
    first = iter(_holm([table.rows[0] for table in tables]))
    return [replace(table, rows=[next(first), *_holm(table.rows[1:])]) for table in tables]


def _holm(rows: Sequence[Row]) -> list[Row]:
    """Return rows whose p are corrected for all of them and their models."""
    adjusted = iter(holm([value.p for row in rows for value in row.values.values() if value.p is not None]))

    def corrected(value: Value) -> Value:
        return value if value.p is None else replace(value, p=next(adjusted))

    return [replace(row, values={name: corrected(value) for name, value in row.values.items()}) for row in rows]
