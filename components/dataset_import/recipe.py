"""A recipe: several training sources, each with its layout, a number of samples, a seed and a weight.

`source` is one address, or as JSON a list of addresses and of objects `{"uri": …, "samples": …}`. Samples are drawn
from the rows whose video is there, smallest sha256(seed, row) first: the same seed draws the same ones, another row
more or less changes at most one, and more samples are the same ones and others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from pydantic import Field

from components.benchmarks.rows import Rejected, Row
from components.core.errors import DataError, ParameterError
from components.core.records import canonical_json, sha256
from components.core.units import counted
from components.dataset_import.sources import LayoutName, Source, list_source, read_source
from components.runtime.parameters import Parameters, items_of, validated
from components.store.backend import PATIENCE


class SourceSpec(Parameters):
    """One source of a recipe."""

    uri: str = Field(min_length=1, description="folder or minio:// prefix")
    layout: LayoutName | None = Field(None, description="how it is written, if not as params_dataset_import.layout")
    samples: int | None = Field(None, ge=1, description="how many samples are drawn; all without it")
    seed: int = Field(1, ge=0, description="seed of the draw")
    weight: float = Field(1.0, gt=0, le=100, description="how often its samples are seen in an epoch of the training")
    name: str = Field("", max_length=64, description="what pages call it; without it, its last folder")


def recipe(source: str) -> list[SourceSpec]:
    """Return the sources of the parameter `source`; one that is given as a plain address has no name.

    Raises:
        ParameterError: not an address and not such a list, or two sources of one name.
    """
    given = items_of(source, "source")
    if given == [source]:
        return [SourceSpec.model_validate({"uri": source})]
    specs = [_spec(item, f"source, number {number}") for number, item in enumerate(given, start=1)]
    names = [spec.name for spec in specs]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        problem = f"two sources are called {', '.join(repeated)}"
        raise ParameterError(problem, source="source", remedy='give each its own "name"')
    return specs


def _spec(item: Any, source: str) -> SourceSpec:
    spec = validated(SourceSpec, item if isinstance(item, dict) else {"uri": item}, source)
    name = spec.name.strip() or PurePosixPath(spec.uri).name
    if not name or not name.isprintable():
        raise ParameterError(f"no name for {spec.uri!r}", source=source, remedy='give it a "name"')
    return spec.model_copy(update={"name": name})


def read_training(
    source: str, layout: LayoutName, instructions: Sequence[str], patience: float = PATIENCE
) -> list[Source]:
    """Read the annotations of every source of a recipe, and draw its samples. Arguments and errors as `read_source`.

    An address is listed once, however many sources are at it.

    Raises:
        DataError: a source has fewer samples than are to be drawn.
    """
    specs = recipe(source)
    listings = {uri: list_source(uri, patience) for uri in dict.fromkeys(spec.uri for spec in specs)}
    return [
        draw(read_source(spec.uri, spec.layout or layout, instructions, "", patience, listings[spec.uri]), spec)
        for spec in specs
    ]


def training_digest(sources: Sequence[Source]) -> str:
    """Return the digest of the listings of all sources of a recipe."""
    digests = [source.digest for source in sources]
    return digests[0] if len(digests) == 1 else sha256(canonical_json(digests))


def draw(source: Source, spec: SourceSpec) -> Source:
    """Return what a recipe takes of a source: its samples with the smallest hashes, under its name and weight.

    Raises:
        DataError: it has fewer samples than are to be drawn.
    """
    named = [replace(video, rows=tuple(_named(row, spec) for row in video.rows)) for video in source.videos]
    source = replace(source, name=spec.name, weight=spec.weight, videos=tuple(named))
    if spec.samples is None:
        return source
    there = [video for video in named if video.file is not None]
    ranks = sorted({_rank(spec.seed, video.path, row) for video in there for row in video.rows})
    drawn = set(ranks[: spec.samples])
    missing = [
        Rejected(row.uid, f"{video.path} is not in the source")
        for video in named
        for row in video.rows
        if video.file is None
    ]
    if len(ranks) < spec.samples:
        refused, absent = counted(len(source.rejected), "refused row"), counted(len(missing), "row")
        why = f"{refused}, {absent} whose video is not there"
        problem = f"{spec.samples} samples are to be drawn of {len(ranks)}; {why}"
        remedy = 'lower "samples", or complete the source'
        raise DataError(problem, source=f"source {source.name} ({source.root})", remedy=remedy)
    kept = [
        replace(video, rows=tuple(row for row in video.rows if _rank(spec.seed, video.path, row) in drawn))
        for video in there
    ]
    videos, undrawn = tuple(video for video in kept if video.rows), (*source.rejected, *missing)
    return replace(source, videos=videos, rejected=(), usable=len(ranks), undrawn=undrawn)


def _named(row: Row, spec: SourceSpec) -> Row:
    return replace(row, source=spec.name, weight=spec.weight)


def _rank(seed: int, path: str, row: Row) -> str:
    """Return the place of a row in the draw: rows that say the same of a video share it."""
    turns = [[turn.question, turn.response] for turn in row.earlier]
    options = [[option.letter, option.text] for option in row.options]
    return sha256(canonical_json([seed, path, row.question, options, row.response, turns]))
