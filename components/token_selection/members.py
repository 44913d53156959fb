"""The head selections of an ensemble's other models, by digest, and what is needed of their lines, by sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from components.core.artifacts import HeadLine, HeadSelection
from components.core.errors import DataError
from components.core.records import Json, ModelId
from components.store.entries import Store

V = TypeVar("V")


def member_reads(line: HeadLine) -> Json:
    """Return what a prior reads of one model: the captured maps by key, and the heads chosen for the sample."""
    return {"attention": line.key, "heads": line.heads}


def unit_reads(own: Json, others: Sequence[Json]) -> Json:
    """Return what a prior reads of its own model and of the ensemble's others."""
    return {**own, "ensemble": [*others]} if others else own


class Members(Generic[V]):
    """The lines of some head selections.

    Args:
        store: which has their manifests.
        digests: of these; an ensemble's order.
        kept: returns what is held of a line.
        low: the lowest id of a video.
        high: an id above all videos'.

    Raises:
        DataError: the store has no such manifest, or it is of another kind.
    """

    def __init__(
        self, store: Store, digests: Sequence[str], kept: Callable[[HeadLine], V], low: str = "", high: str = "g"
    ) -> None:
        self.selections = {digest: store.manifest(digest, HeadSelection) for digest in digests}
        self._lines = {
            digest: {line.sample.id: kept(line) for line in found.lines.within(low, high)}
            for digest, found in self.selections.items()
        }

    @property
    def models(self) -> dict[str, ModelId]:
        """The video models, by role in the provenance."""
        found = (one.provenance["attention_capture"].models["vdm"] for one in self.selections.values())
        return {f"vdm of ensemble_with {number}": model for number, model in enumerate(found, 1)}

    def lacking(self, sample: str) -> list[str]:
        """Return the digests of the selections without this sample."""
        return [digest for digest, lines in self._lines.items() if sample not in lines]

    def of(self, sample: str) -> list[V]:
        """Return what is held of a sample's line in each selection.

        Raises:
            DataError: one of them has no such sample.
        """
        if lacking := self.lacking(sample):
            problem = f"the sample is not in the head selection {', '.join(lacking)}"
            remedy = "extract it with that video model, too, or take the digest out of ensemble_with"
            raise DataError(problem, source=f"sample {sample}, params_token_selection.ensemble_with", remedy=remedy)
        return [lines[sample] for lines in self._lines.values()]
