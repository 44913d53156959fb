"""What the comparison page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from components.comparison.compare import Comparison
from components.comparison.maps import Pictured
from components.comparison.paper import AblationTable, ablation_table
from components.core.records import Failure, Json, StepRecord
from components.pages.samples import Stored


@dataclass(frozen=True)
class Material(Stored):
    """What the page shows.

    Attributes:
        comparison: all models on all benchmarks.
        changes: what each variant changes, by its name.
        samples: ids of the pictured samples.
        sets: the prior sets.
        models: the names of the models that took part, by role.
        left_out: units that were left out, each with the variants that lack it.
        digests: the manifests by what they are.
        provenance: how the steps of the first variant ran.
    """

    comparison: Comparison
    changes: Mapping[str, Json]
    samples: Sequence[str] = ()
    sets: Sequence[Pictured] = ()
    models: Mapping[str, Sequence[str]] = field(default_factory=dict)
    left_out: Mapping[Failure, Sequence[str]] = field(default_factory=dict)
    digests: Sequence[tuple[str, str]] = ()
    provenance: Mapping[str, StepRecord] = field(default_factory=dict)

    @cached_property
    def paper(self) -> AblationTable | None:
        """The paper's table that these variants repeat."""
        return ablation_table([model.name for model in self.comparison.models])
