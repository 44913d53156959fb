"""The report: all its sections in their order, and the page cut down until it fits a size."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from components.core.artifacts import Report
from components.core.errors import DataError
from components.core.records import Json
from components.pages.figures import signed
from components.pages.markdown import document, table, text
from components.pages.page import Section
from components.quality.measures import Quality
from components.report.benchmarks import Comparison, benchmarks, compare, interval
from components.report.clips import heads, idea, motion_words, reconstruction
from components.report.material import Material
from components.report.provenance import left_out, provenance
from components.report.quality import pointing_game, prior_quality, quality_table
from components.report.tokens import token_map
from components.report.training import training
from components.report.verdict import sentence, verdict

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Findings:
    """What is computed once and drawn in every cut of the page; `pictured` are the ids of the whole page's samples."""

    quality: Quality
    comparisons: list[Comparison]
    bench: list[Json]
    pictured: list[str] = field(default_factory=list)


def comparisons(material: Material) -> list[Comparison]:
    """Compare both models on each benchmark that both answered."""
    both = [name for name in sorted(material.tuned) if name in material.untouched]
    return [one for name in both if (one := compare(material.untouched[name], material.tuned[name])) is not None]


def build(material: Material, findings: Findings, shown: int) -> list[Section]:
    """Return the sections in their order, with `shown` pictured samples."""
    lines = material.order[:shown]
    return [
        verdict(material, findings.comparisons),
        idea(material, lines),
        reconstruction(material, lines),
        heads(material, lines),
        motion_words(material, lines),
        prior_quality(material, findings.quality, findings.bench, findings.pictured),
        token_map(material, [line.sample.id for line in lines]),
        training(material),
        benchmarks(material, findings.comparisons, max(1, shown // 2)),
        left_out(material),
        provenance(material),
    ]


def fit(make: Callable[[int], str], shown: int, limit: int) -> str:
    """Return the page with as many of the `shown` pictured samples as fit into `limit` bytes.

    Raises:
        DataError: even without pictured samples it is larger.
    """
    for count in range(shown, -1, -1):
        page = make(count)
        if len(page.encode()) <= limit:
            return page
        log.info("the page with %d pictured samples has %d bytes, more than %d", count, len(page.encode()), limit)
    problem = f"the page without pictured samples has {len(page.encode())} bytes, more than {limit}"
    raise DataError(problem, source=Report.KIND, remedy="give fewer benchmarks to one report")


def summary(material: Material, findings: Findings) -> str:
    """Return the verdict, and every benchmark and the prior's quality as tables, in Markdown."""
    blocks = ["# Report", text(sentence(material, findings.comparisons))]
    for one in findings.comparisons:
        rows = []
        for row in one.rows:
            accuracies, change = (f"{row.untouched.value:.1f}", f"{row.tuned.value:.1f}"), row.difference
            difference, unparsed = f"{signed(change.value)} {interval(change)}", " → ".join(map(str, row.unparsed))
            rows.append((row.name, change.n, *accuracies, difference, unparsed))
        head = ("", "n", "untouched", "tuned", "difference", "unparsed")
        blocks += [f"## {text(one.title)}", table(head, rows)]
    if findings.quality.rows:
        blocks += [quality_table(findings.quality), pointing_game(findings.quality, findings.pictured)]
    return document(*blocks)
