"""The plan of `ablations`: what every variant adds to those before it, from the import to its evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from components.core.records import canonical_json, sha256
from components.dataset_import.recipe import training_digest
from components.dataset_import.sources import Source
from components.models.registry import resolve
from components.pages.markdown import document
from components.plan import seeing
from components.plan.ablations import COLUMNS, Counted, Hours, arms, dealt, extracted, joined, page
from components.plan.extraction import Extraction
from components.plan.limits import Task
from components.plan.seeing import Text
from components.plan.shared import Ablations
from components.plan.tuning import counted
from components.runtime.context import Context
from components.runtime.parameters import StepParams
from components.runtime.variants import baseline_of


class Compared:
    """What every variant of a run adds to those before it."""

    def __init__(self, context: Context[StepParams, Any], shared: Ablations) -> None:
        self.context, self.shared = context, shared
        self.arms = arms(shared, context.step_params, shared.variants)
        self.baseline = baseline_of(shared.baseline, [arm.variant.name for arm in self.arms])
        self.hours = [Hours() for _ in self.arms]
        self.counted, self._tasks, self.texts = Counted(), list[Task](), list[list[Text]]()
        digests: dict[str, str] = {}
        pages, sizes = dict[str, str](), dict[str, list[int]]()
        for arm, hours in zip(self.arms, self.hours, strict=True):
            model = resolve(arm.shared.vdm, context.store)
            made = Extraction(context, arm.shared, arm.params, model, self.counted)
            part = made.forecast()
            pages.setdefault(arm.shared.source, part)
            digests[arm.shared.source] = training_digest(made.sources)
            sizes[arm.shared.source] = [video.file.size for _, video in made.videos if video.file is not None]
            self._tasks += made.tasks()
            self.texts.append(made.texts)
            for column, new, whole in zip(COLUMNS, made.steps[1:3], made.whole[1:3], strict=False):
                hours.add(column, new.hours or 0.0, True)
                hours.add(column, (whole.hours or 0.0) - (new.hours or 0.0), False)
            hours.kept = made.kept(self.counted.first(["prior set", extracted(arm, model.id.digest)]))
        found = list(digests.values())
        self.source_digest = found[0] if len(found) == 1 else sha256(canonical_json(found))
        self.extraction = document(*pages.values())
        self.video_bytes = [size for each in sizes.values() for size in each]

    def tasks(self, items: Sequence[tuple[Source, list[Text]]], nodes: int) -> list[Task]:
        """Return what the tasks of all variants take, of the steps on a GPU, and count it."""
        trainings, evaluations, opened = list[float](), list[float](), dict[str, seeing.Seeing]()
        for arm, hours, texts in zip(self.arms, self.hours, self.texts, strict=True):
            model = resolve(arm.shared.vlm, self.context.store)
            counts = counted(self.context, model, arm.params["sft"])
            assert counts.rates is not None
            if (vlm := opened.get(model.id.digest)) is None:
                vlm = opened[model.id.digest] = seeing.Seeing(model.path, counts.rates)
            vlm = vlm.at(counts.rates)
            count = len(self.shared.seeds)
            attention, training = seeing.tuned(vlm, texts, arm.params, len(self.shared.shards), nodes)
            asked = [seeing.evaluated(vlm, *one, arm.params["benchmark_eval"]) for one in items]
            follows: Any = [*extracted(arm, resolve(arm.shared.vdm, self.context.store).id.digest), model.id.digest]
            follows = [*follows, arm.params["vlm_attention"].result()]
            if new := self.counted.first(["vlm_attention", follows]):
                self._tasks.append(attention)
            hours.add("training", attention.hours, new)
            own = [arm.shared.align_weight, *(arm.params[name].result() for name in ("leakage_check", "sft"))]
            if new := self.counted.first(["sft", follows, own]):
                trainings += [training.hours] * count
            hours.add("training", training.hours * count, new)
            how, sum_ = arm.params["benchmark_eval"].result(), sum(task.hours for task in asked)
            if new := self.counted.first(["untouched", model.id.digest, how]):
                self._tasks += asked
            hours.add("evaluation", sum_, new)
            if new := self.counted.first(["tuned", follows, own, how]):
                evaluations += [sum_] * count
            hours.add("evaluation", sum_ * count, new)
        each, units = self.shared.trial_shards, self.arms[0].params["sft"].global_batch
        way = f"a part for each training (--trial-shards {len(trainings)})" if len(trainings) > len(each) else ""
        return [
            *joined(self._tasks),
            Task("sft", "node", max(dealt(trainings, each)), nodes, units, at_most=True, way=way),
            Task("tuned_eval", "benchmark", max(dealt(evaluations, each)), 1, len(items), at_most=True, way=way),
        ]

    def table(self) -> str:
        """Return the page's part about the variants."""
        return page(list(zip(self.arms, self.hours, strict=True)), self.baseline, self.shared.seeds)
