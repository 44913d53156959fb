"""The report: all its sections in their order, and the page cut down until it fits a size."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from components.core.artifacts import PriorLine, Report
from components.core.errors import DataError
from components.pages.section import Section
from components.quality.measures import Quality
from components.report import pictures, sections
from components.report.benchmarks import Comparison, benchmarks, compare, interval
from components.report.material import Material
from components.report.prior_quality import pointing_game, prior_quality, quality_table
from components.report.tokens import token_map
from components.report.training import training

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Findings:
    """What is computed once and drawn in every cut of the page; `pictured` are the ids of the whole page's samples."""

    quality: Quality
    comparisons: list[Comparison]
    bench: list[dict[str, Any]]
    pictured: list[str] = field(default_factory=list)


def comparisons(material: Material) -> list[Comparison]:
    """Both models on each benchmark that both answered."""
    both = [name for name in sorted(material.tuned) if name in material.untouched]
    return [one for name in both if (one := compare(material.untouched[name], material.tuned[name])) is not None]


def build(material: Material, findings: Findings, shown: int) -> list[Section]:
    """The sections in their order, with `shown` pictured samples."""
    lines: list[PriorLine] = material.order[:shown]
    return [
        sections.verdict(material, findings.comparisons),
        pictures.idea(material, lines),
        pictures.reconstruction(material, lines),
        pictures.heads(material, lines),
        pictures.motion_words(material, lines),
        prior_quality(material, findings.quality, findings.bench, findings.pictured),
        token_map(material, [line.sample.id for line in lines]),
        training(material),
        benchmarks(material, findings.comparisons, max(1, shown // 2)),
        sections.left_out(material),
        sections.provenance(material),
    ]


def fit(make: Callable[[int], str], shown: int, limit: int) -> str:
    """The page with as many of the `shown` pictured samples as fit into `limit` bytes.

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
    """The verdict and every benchmark's table in Markdown."""
    rows = ["# Report", "", sections.sentence(material, findings.comparisons), ""]
    for one in findings.comparisons:
        rows += [
            f"## {one.title}",
            "",
            "| | n | untouched | tuned | difference | unparsed |",
            "|---|---|---|---|---|---|",
        ]
        rows += [
            f"| {row.name} | {row.difference.n} | {row.untouched.value:.1f} | {row.tuned.value:.1f} "
            f"| {row.difference.value:+.1f} {interval(row.difference)} | {row.unparsed[0]} → {row.unparsed[1]} |"
            for row in one.rows
        ]
        rows.append("")
    if findings.quality.rows:
        rows += [*quality_table(findings.quality), "", pointing_game(findings.quality, findings.pictured)]
    return "\n".join(rows) + "\n"
