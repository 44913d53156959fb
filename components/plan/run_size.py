"""How large the record of a run becomes that KFP and Argo keep on a cluster, and what its size forbids.

Argo keeps one object for a run, the Workflow, and writes every start and end of a pod into it. `components.kubeflow`
builds it from a compiled pipeline; an image has no kfp, so here stand straight lines through what it builds
(`run_size.json`, which `python -m tests.kubeflow.run_sizes` writes): over the number of shards, of benchmarks, and of
the parts that the trainings of `ablations` are dealt out to.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from operator import mul
from pathlib import Path

from components.core.errors import ParameterError
from components.core.units import readable_bytes

ARGO = 2**20  # bytes of a Workflow with its nodes compressed: Argo ends a run that needs more
CLIENT = 2**21  # bytes of a message from the API server to etcd
ETCD = 3 * 2**19  # bytes of a request that etcd takes unless it is configured otherwise
REMEDY = 'fewer, fatter shards: e.g. shards=["0/2", "1/2"], and compile --gpus-per-shard gives each several GPUs'


@dataclass(frozen=True)
class RunSize:
    """A Workflow's nodes and bytes: of all its JSON, and with the nodes compressed as Argo does above 1 MiB."""

    nodes: int
    whole: int
    packed: int

    def __str__(self) -> str:
        """Return all three."""
        return f"{self.nodes} nodes, {readable_bytes(self.whole)}, {readable_bytes(self.packed)} compressed"

    def __sub__(self, other: RunSize) -> RunSize:
        """Return what one run adds to the other."""
        return RunSize(self.nodes - other.nodes, self.whole - other.whole, self.packed - other.packed)

    @property
    def warning(self) -> str:
        """What the size forbids although the run itself can end well; empty where that is nothing."""
        if self.whole <= ETCD:
            return ""
        who = "a Kubernetes API server sends" if self.whole > CLIENT else "etcd takes unless it is configured otherwise"
        most = readable_bytes(CLIENT if self.whole > CLIENT else ETCD)
        return (
            "The Retry of KFP's UI will be refused: it writes the record uncompressed, which is more than the "
            f"{most} that {who}. After a failure submit the same run again: it goes on from cache. Or take {REMEDY}."
        )

    def check(self, source: str) -> None:
        """Raise ParameterError where Argo would stop the run in its middle."""
        if self.packed > ARGO:
            problem = f"the run's record would have {self}: Argo keeps {readable_bytes(ARGO)} and ends a run above it"
            raise ParameterError(problem, source=source, remedy=REMEDY)


@cache
def _lines() -> dict[str, dict[str, list[int]]]:
    found: dict[str, dict[str, list[int]]] = json.loads(Path(__file__).with_suffix(".json").read_text())
    return found


def estimated(pipeline: str, shards: int, benchmarks: int, trials: int = 0) -> RunSize:
    """Return the size of a run of a pipeline with every task executed once; `trials` are the parts of its trainings."""
    counts = (1, shards, benchmarks, trials)
    found = _lines()[pipeline]
    return RunSize(**{name: sum(map(mul, counts, parts)) for name, parts in found.items()})
