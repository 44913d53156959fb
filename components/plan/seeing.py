"""What a vision-language model's part of a run will cost, from what it is shown of each clip.

FLOPs are those of `components.sft.flops`, at the rate of the video model's, over the tokens that the steps prepare: all
text and what stands between a clip's cells count. What a benchmark's clips are like is known once they are imported;
before, each counts as the longest and largest that the model is ever shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.benchmark_eval.controls import Control, shown_frames
from components.benchmarks.interface import get_benchmark
from components.benchmarks.rows import Row
from components.core.records import Sample
from components.dataset_import.sources import Source
from components.media.viewing import Viewing
from components.models.vlm.interface import Cells, Conversation, Inputs, TowerWork, conversation
from components.plan.cost import A100_FLOPS, Shown
from components.plan.limits import Task
from components.sft.rates import Rates
from components.sft.settings import Params as Training

if TYPE_CHECKING:
    from components.models.vlm.lengths import Length

A100_BYTES = 2e12  # a second, from its memory: what a reply's tokens wait for, which come one by one
_HOUR = A100_FLOPS * 3600
_REMEMBERED = 1 << 16  # clips and samples


LARGEST = Shown(30 * 3600, 2160, 3840, 3600.0)  # of a benchmark


@dataclass(frozen=True)
class Text:
    """A sample or a question about a clip, which may not be known yet."""

    clip: str
    shown: Shown | None
    row: Row | Sample


class Seeing:
    """A model's way to look at clips, without its weights; `control` is what an evaluation shows instead of a clip."""

    def __init__(self, folder: Path, rates: Rates, control: Control = "none") -> None:
        from transformers import AutoConfig

        from components.models.pretrained import load_part
        from components.models.vlm.lengths import Lengths
        from components.models.vlm.reader import open_reader

        self.reader, self.config, self.rates = open_reader(folder), load_part(AutoConfig, folder), rates
        self.control, self.lengths = control, Lengths(self.reader)
        self._look = lru_cache(_REMEMBERED)(self._looked)

    def at(self, rates: Rates) -> Seeing:
        """Return the same model with the rates of another training."""
        other = copy(self)
        other.rates = rates
        return other

    def under(self, control: Control) -> Seeing:
        """Return the same model as a control shows clips to it."""
        other = copy(self)
        other.control, other._look = control, lru_cache(_REMEMBERED)(other._looked)
        return other

    def inputs(self, shown: Shown | None) -> Inputs:
        """Return how a clip is read."""
        return self.reader.images or self.reader.inputs if shown and shown.kind == "image" else self.reader.inputs

    def look(self, shown: Shown | None, viewing: Viewing) -> tuple[Cells, Length]:
        """Return the cells of a clip and the tokens in its place, as the reader's.

        Of a clip that is not known they are those of the largest, as far as the model has room.
        """
        return self._look(shown, viewing)

    def _looked(self, shown: Shown | None, viewing: Viewing) -> tuple[Cells, Length]:
        if shown is None:
            (frames, rows, cols), length = self.look(LARGEST, viewing)
            shape = min(frames, max(1, self.reader.max_tokens * frames // length.all)), rows, cols
            times = self._times(LARGEST, viewing)[: shape[0] * self.reader.inputs.group]
            return shape, self.lengths.clip(self.reader.inputs, shape, times, viewing)
        inputs, times = self.inputs(shown), self._times(shown, viewing)
        shape = inputs.shape(len(times), shown.height, shown.width, viewing)
        return shape, self.lengths.clip(inputs, shape, times, viewing)

    def _times(self, shown: Shown, viewing: Viewing) -> list[float]:
        """Return the times of the frames that the model sees."""
        clip: Any = shown  # all that sampling asks of a video
        indices = [0] if self.inputs(shown).kind == "image" else self.reader.family.frames(viewing, clip)
        times = shown.times
        return sorted(times[i] for i in shown_frames(self.control, indices, ""))

    def length(self, one: Text, viewing: Viewing) -> Length:
        """Return the tokens of a sample's conversation."""
        _, clip = self.look(one.shown, viewing)
        return self.lengths.talk(conversation(one.row), self.inputs(one.shown)) + clip

    def attention(self, samples: Sequence[Text], viewing: Viewing) -> float:
        """Hours of a forward pass of each sample, whose map is read."""
        return sum(self._asked(one, viewing) for one in samples) / _HOUR

    def training(self, samples: Sequence[Text], viewing: Viewing, params: Training) -> float:
        """Hours of a training, and of its validation losses."""
        most = params.max_tokens
        samples = [one for one in samples if most is None or self.length(one, viewing).all <= most]
        if not samples:
            return 0.0
        again = params.gradient_checkpointing
        share = 1 - params.held_out
        shown = share * sum(one.row.weight for one in samples)
        total = params.epochs * sum(one.row.weight * self._trained(one, viewing, again) for one in samples) * share
        steps = ceil(params.epochs * shown / params.global_batch)
        if params.max_steps is not None:
            total, steps = total * params.max_steps / steps, params.max_steps
        checked = min(params.val_samples, ceil(params.held_out * len(samples))) * (steps // params.eval_every)
        mean = sum(self._asked(one, viewing) for one in samples) / len(samples) if checked else 0.0
        return (total + checked * mean) / _HOUR

    def evaluation(
        self,
        items: Sequence[tuple[Text, Conversation, int]],
        viewing: Callable[[Shown | None], Viewing | None],
        longest: int,
        item: int = 2,
    ) -> float:
        """Hours of a benchmark: each clip is read once, each question behind it, and a reply's tokens come one by one.

        Args:
            items: the questions: their clip, what is asked, and how often.
            viewing: what the model sees of a clip; None: nothing.
            longest: tokens of a reply, at most.
            item: bytes of a weight.
        """
        weights = item * (self.rates.forward["llm"] + self.rates.forward["head"]) / 2
        read, asked, nothing = dict[str, int](), 0, self._work((0, 0, 0))
        for one, talk, times in items:
            if (seen := viewing(one.shown)) is None:
                asked += times * self.rates.asked(nothing, 0, self.lengths.talk(talk).own, 1)
                continue
            cells, clip = self.look(one.shown, seen)
            length = self.lengths.talk(talk, self.inputs(one.shown)) + clip
            read[one.clip] = self.rates.asked(self._work(cells), prod(cells), length.shared, 1)
            asked += times * self.rates.asked(nothing, 0, length.own, 1, length.shared)
        count = sum(times for _, _, times in items)
        return (sum(read.values()) + asked) / _HOUR + count * longest * weights / A100_BYTES / 3600

    def _asked(self, one: Text, viewing: Viewing) -> int:
        return self.rates.asked(*self._passed(one, viewing))

    def _trained(self, one: Text, viewing: Viewing, again: bool) -> int:
        passed = self._passed(one, viewing)
        return self.rates.trained(*passed) + (self.rates.asked(*passed) if again else 0)

    def _passed(self, one: Text, viewing: Viewing) -> tuple[TowerWork, int, int, int]:
        """Return what passes the model with a sample: the tower's work, cells, tokens, learned tokens."""
        (cells, _), length = self.look(one.shown, viewing), self.length(one, viewing)
        return self._work(cells), prod(cells), length.all, length.learned

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


def evaluated(seeing: Seeing, source: Source, items: Sequence[Text], params: Any) -> Task:
    """Return what each of a benchmark's two evaluations takes, with their parameters: at most, as `tuned`."""
    benchmark, seeing = get_benchmark(source.protocol), seeing.under(params.control)
    wanted = [one for one in items if one.row.answer or params.held_out][: params.limit]

    def asked(row: Row | Sample) -> tuple[Conversation, int]:
        prompt = benchmark.ask(row.question, row.options, params.prompt_template)
        orders = min(params.permutations, len(row.options)) if row.answer else 1
        return conversation(row, prompt, params.system_prompt), orders

    def viewing(shown: Shown | None) -> Viewing | None:
        if params.control == "no_video":
            return None
        return benchmark.viewing(params.viewing, params.preset, seeing.reader.family, (shown or LARGEST).duration)

    longest = params.max_new_tokens or benchmark.max_new_tokens
    hours = seeing.evaluation([(one, *asked(one.row)) for one in wanted], viewing, longest)
    clips = len({one.clip for one in wanted})
    return Task(f"evaluation {source.protocol}", "benchmark", hours, 1, clips, at_most=True)
