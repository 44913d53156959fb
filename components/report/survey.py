"""What the report says of all samples of a prior set: found in one pass, which keeps the lines of a few."""

from __future__ import annotations

from array import array
from bisect import insort
from hashlib import blake2b
from operator import itemgetter

from components.core.artifacts import SMALLEST, PriorLine
from components.core.records import Ref, sha256
from components.pages.samples import Unread


class Files:
    """Files of the store, each counted once, and their bytes."""

    def __init__(self, *refs: Ref) -> None:
        self._paths, self.bytes = set[bytes](), 0
        self.add(*refs)

    def __len__(self) -> int:
        return len(self._paths)

    def add(self, *refs: Ref) -> None:
        """Count files."""
        for ref in refs:
            path = blake2b(ref.path.encode(), digest_size=16).digest()  # a third of what the path takes
            if path not in self._paths:
                self._paths.add(path)
                self.bytes += ref.bytes


class Smallest:
    """Lines of the `most` samples with the smallest sha256(sample id), in that order."""

    def __init__(self, most: int) -> None:
        self._most, self._found = most, list[tuple[str, PriorLine]]()

    def add(self, line: PriorLine) -> None:
        """Take a line in; drop the last one where they are too many."""
        insort(self._found, (sha256(line.sample.id.encode()), line), key=itemgetter(0))
        del self._found[self._most :]

    @property
    def lines(self) -> list[PriorLine]:
        """The lines."""
        return [line for _, line in self._found]


class Survey:
    """What a pass over a prior set finds.

    Attributes:
        first: lines of the samples that may be pictured.
        masked: lines of the first `masked` samples with a ground-truth mask.
        confidence: of all samples.
        ends: lines with the highest and with the lowest confidence; none of an empty set.
        pieces: how many all texts have.
        kept: how many of them MTTI kept.
        unread: what the video model could not read.
        files: the files of all samples by what they are.
    """

    def __init__(self, masked: int) -> None:
        self.first, self.masked = Smallest(SMALLEST), Smallest(masked)
        self.confidence, self.ends = array("d"), list[PriorLine]()
        self.pieces, self.kept, self.unread = 0, 0, Unread()
        kinds = ("videos", "priors", "attention over frames", "head statistics", "pictures")
        self.files = {kind: Files() for kind in kinds}

    def add(self, line: PriorLine) -> None:
        """Take a line in."""
        self.first.add(line)
        if line.mask is not None:
            self.masked.add(line)
        self.confidence.append(line.confidence.value)
        ends = [*self.ends, line]
        self.ends = [max(ends, key=_confidence), min(ends, key=_confidence)]
        self.pieces += line.piece_counts.pieces
        self.kept += line.piece_counts.selected
        self.unread.add(line)
        self.files["videos"].add(line.video.file)
        self.files["priors"].add(line.prior)
        self.files["attention over frames"].add(line.per_frame)
        self.files["head statistics"].add(line.statistics)
        self.files["pictures"].add(*line.pictures.values())


def _confidence(line: PriorLine) -> tuple[float, str]:
    return line.confidence.value, line.sample.id
