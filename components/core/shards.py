"""Shards of a collected input."""

from __future__ import annotations

from typing import TypeVar

from components.core.artifacts import Sharded
from components.core.errors import DataError
from components.core.step import Shard

S = TypeVar("S", bound=Sharded)


def all_shards(manifests: list[S], source: str) -> list[S]:
    """The shards in order, each there once.

    Raises:
        DataError: a shard is missing or there twice.
    """
    shards = [Shard.parse(item.shard) for item in manifests]
    counts = {shard.count for shard in shards}
    if len(counts) != 1 or sorted(shard.index for shard in shards) != list(range(next(iter(counts)))):
        raise DataError(f"shards {[item.shard for item in manifests]} are not k/n, each once", source=source, remedy="correct `shards`")
    return [item for _, item in sorted(zip(shards, manifests, strict=True), key=lambda pair: pair[0].index)]
