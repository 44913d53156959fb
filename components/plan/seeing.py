"""What a vision-language model's part of a run will cost, from what it is shown of each clip.

FLOPs are those of `components.sft.flops`, at the rate of the video model's. What a benchmark's clips are like is known
once they are imported; before, each counts as the longest and largest that the model is ever shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any

from components.benchmarks.interface import get_benchmark
from components.benchmarks.rows import Row
from components.core.records import Sample
from components.dataset_import.sources import Source
from components.media.viewing import Viewing
from components.models.vlm.interface import Cells, TowerWork
from components.plan.cost import A100_FLOPS, Shown
from components.plan.limits import Task
from components.sft.rates import Rates
from components.sft.settings import Params as Training

A100_BYTES = 2e12  # a second, from its memory: what a reply's tokens wait for, which come one by one
TEMPLATE, PER_WORD = 40, 1.5  # tokens of a conversation beside its text, and of a word
_HOUR = A100_FLOPS * 3600


LARGEST = Shown(30 * 3600, 2160, 3840, 3600.0)  # of a benchmark


@dataclass(frozen=True)
class Text:
    """A sample or a question about a clip, which may not be known yet: what is read, what is replied, its weight."""

    clip: str
    shown: Shown | None
    read: str
    reply: str = ""
    weight: float = 1.0

    @property
    def tokens(self) -> int:
        """Of the whole text."""
        return TEMPLATE + _tokens(self.read) + self.predicted

    @property
    def predicted(self) -> int:
        """Tokens of the reply."""
        return max(1, _tokens(self.reply))


def _tokens(text: str) -> int:
    return ceil(PER_WORD * len(text.split()))


def read_of(sample: Row | Sample) -> str:
    """Return what a model reads of a sample or an item, beside its clip."""
    earlier = (text for turn in sample.earlier for text in (turn.question, turn.response))
    return " ".join([*earlier, sample.question, *(option.text for option in sample.options)])


class Seeing:
    """A model's way to look at clips, without its weights."""

    def __init__(self, folder: Path, rates: Rates) -> None:
        from transformers import AutoConfig

        from components.models.pretrained import load_part
        from components.models.vlm.reader import open_reader

        self.reader, self.config, self.rates = open_reader(folder), load_part(AutoConfig, folder), rates

    def cells(self, shown: Shown | None, viewing: Viewing) -> Cells:
        """Return the cells of a clip; of one that is not known those of the largest, as far as the model has room."""
        if shown is None:
            frames, rows, cols = self.cells(LARGEST, viewing)
            return min(frames, max(1, self.reader.max_tokens // (rows * cols))), rows, cols
        clip: Any = shown  # all that sampling asks of a video
        images = self.reader.images
        if clip.kind == "image" and images is not None:
            return images.shape(1, clip.height, clip.width, viewing)
        frames = len(self.reader.family.frames(viewing, clip))
        return self.reader.inputs.shape(frames, clip.height, clip.width, viewing)

    def attention(self, samples: Sequence[Text], viewing: Viewing) -> float:
        """Hours of a forward pass of each sample, whose map is read."""
        return sum(self._asked(one, viewing) for one in samples) / _HOUR

    def training(self, samples: Sequence[Text], viewing: Viewing, params: Training) -> float:
        """Hours of a training, and of its validation losses."""
        if not samples:
            return 0.0
        again = params.gradient_checkpointing
        share = 1 - params.held_out
        shown = share * sum(one.weight for one in samples)
        total = params.epochs * sum(one.weight * self._trained(one, viewing, again) for one in samples) * share
        steps = ceil(params.epochs * shown / params.global_batch)
        if params.max_steps is not None:
            total, steps = total * params.max_steps / steps, params.max_steps
        checked = min(params.val_samples, ceil(params.held_out * len(samples))) * (steps // params.eval_every)
        mean = sum(self._asked(one, viewing) for one in samples) / len(samples)
        return (total + checked * mean) / _HOUR

    def evaluation(
        self, items: Sequence[Text], viewing: Callable[[Shown | None], Viewing | None], longest: int, item: int = 2
    ) -> float:
        """Hours of a benchmark: each clip is read once, each question behind it, and a reply's tokens come one by one.

        Args:
            items: the questions.
            viewing: what the model sees of a clip of so many seconds.
            longest: tokens of a reply, at most.
            item: bytes of a weight.
        """
        clips = {one.clip: one.shown for one in items}
        read = sum(self._pass(shown, viewing(shown), 0, 1) for shown in clips.values())
        asked = sum(self._pass(None, None, one.tokens, 1) for one in items)
        weights = item * (self.rates.forward["llm"] + self.rates.forward["head"]) / 2
        return (read + asked) / _HOUR + len(items) * longest * weights / A100_BYTES / 3600

    def _asked(self, one: Text, viewing: Viewing) -> float:
        return self._pass(one.shown, viewing, one.tokens, one.predicted)

    def _pass(self, shown: Shown | None, viewing: Viewing | None, tokens: int, predicted: int) -> float:
        cells = (0, 0, 0) if viewing is None else self.cells(shown, viewing)
        return self.rates.asked(self._work(cells), prod(cells), prod(cells) + tokens, predicted)

    def _trained(self, one: Text, viewing: Viewing, again: bool) -> float:
        cells = self.cells(one.shown, viewing)
        passed = self._work(cells), prod(cells), prod(cells) + one.tokens, one.predicted
        return self.rates.trained(*passed) + (self.rates.asked(*passed) if again else 0)

    def _work(self, cells: Cells) -> TowerWork:
        return self.reader.family.tower_work(self.config, cells)


def tuned(seeing: Seeing, samples: Sequence[Text], params: Mapping[str, Any], shards: int, nodes: int) -> list[Task]:
    """Return what the samples' attention and a training on them take, with the parameters of each step.

    Both are upper bounds: what of them is remembered follows from work that is not done yet.
    """
    seen, trained = params["vlm_attention"], params["sft"]
    count = len(samples) if seen.maps_for == "all" else min(seen.pictures, len(samples))
    mapped = seeing.attention(samples, seen.viewing) * count / max(1, len(samples))
    hours = seeing.training(samples, seen.viewing, trained)
    return [
        Task("vlm_attention", "shard", mapped, shards, count, at_most=True),
        # the processes work on the samples of a batch side by side
        Task("sft", "node", hours, nodes, trained.global_batch if samples else 0, at_most=True),
    ]


def evaluated(seeing: Seeing, source: Source, items: Sequence[tuple[Row, Text]], params: Any) -> Task:
    """Return what each of a benchmark's two evaluations takes, with their parameters: at most, as `tuned`."""
    benchmark, family = get_benchmark(source.protocol), seeing.reader.family
    wanted = [one for row, one in items if row.answer or params.held_out][: params.limit]
    orders = params.permutations

    def viewing(shown: Shown | None) -> Viewing | None:
        if params.control == "no_video":
            return None
        return benchmark.viewing(params.viewing, params.preset, family, (shown or LARGEST).duration)

    longest = params.max_new_tokens or benchmark.max_new_tokens
    hours = seeing.evaluation(wanted * orders, viewing, longest)
    clips = len({one.clip for one in wanted})
    return Task(f"evaluation {source.protocol}", "benchmark", hours, 1, clips, at_most=True)
