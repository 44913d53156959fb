"""Shards: the parts of the videos that run side by side, and their order in a collected input."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeVar

from components.core.artifacts import Sharded
from components.core.errors import DataError, ParameterError

S = TypeVar("S", bound=Sharded)


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`; a video belongs to sha256(video) mod count, so a new video moves no other."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `"k/n"`.

        Raises:
            ParameterError: another form, or k not below n.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or int(found[1]) >= int(found[2]):
            raise ParameterError(
                f"shard {text!r} is not k/n with 0 ≤ k < n", source="shards", remedy='e.g. ["0/2", "1/2"]'
            )
        return cls(int(found[1]), int(found[2]))

    def holds(self, video_sha256: str) -> bool:
        """Return whether the video belongs to this shard."""
        return int(video_sha256, 16) % self.count == self.index


def all_shards(manifests: list[S], source: str) -> list[S]:
    """Return the shards in order, each there once.

    Raises:
        DataError: a shard is missing or there twice.
    """
    shards = [Shard.parse(item.shard) for item in manifests]
    counts = {shard.count for shard in shards}
    if len(counts) != 1 or sorted(shard.index for shard in shards) != list(range(next(iter(counts)))):
        raise DataError(
            f"shards {[item.shard for item in manifests]} are not k/n, each once",
            source=source,
            remedy="correct `shards`",
        )
    return [item for _, item in sorted(zip(shards, manifests, strict=True), key=lambda pair: pair[0].index)]
