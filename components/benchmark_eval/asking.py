"""How a model is asked a benchmark's items: clip by clip, each decoded and read once, while the next ones are decoded.

A reply does not depend on what was asked before (`Vlm.replies`), so a task that was killed goes on in the middle of a
clip and ends with the same bytes. Batches are parts of a clip's list of items, whatever is remembered of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from components.benchmark_eval.controls import Control, moved, shown_frames
from components.benchmark_eval.settings import Params
from components.benchmarks.interface import Benchmark
from components.core.artifacts import VideoLine
from components.core.errors import DataError
from components.core.records import Json, Ref, Sample, Video
from components.media.viewing import Viewing
from components.models.family import Tensor
from components.models.vlm.interface import conversation
from components.runtime.chosen_vlm import ChosenVlm
from components.runtime.stages import Stages
from components.store.entries import Store

if TYPE_CHECKING:
    from components.models.vlm.example import Layout
    from components.models.vlm.model import Prefix, Vlm
    from components.models.vlm.reader import Reader

R = TypeVar("R", bound="Reader")


class Unit(NamedTuple):
    """A question about a video, its options moved on by `shift` places."""

    line: VideoLine
    sample: Sample
    shift: int = 0

    @property
    def name(self) -> str:
        """The sample's id, with the order of the options where it is not the published one."""
        return f"{self.sample.id}+{self.shift}" if self.shift else self.sample.id

    @property
    def clip(self) -> str:
        """The id of its video."""
        return self.line.video.id

    @property
    def file(self) -> str:
        """The sha256 of its video's file, which other clips may be parts of."""
        return self.line.video.file.sha256


class Files:
    """Files that threads read clips from: each is fetched for the first of its clips, and dropped behind the last."""

    def __init__(self, store: Store, clips: Sequence[Video]) -> None:
        self.store, self._left = store, Counter(clip.file.path for clip in clips)
        self._locks = {path: Lock() for path in self._left}
        self._lent: dict[str, tuple[ExitStack, Path]] = {}

    @contextmanager
    def lent(self, file: Ref) -> Iterator[Path]:
        """Fetch the file of one of the clips for the length of the block; DataError: it is missing or damaged."""
        with self._locks[file.path]:
            if file.path not in self._lent:
                stack = ExitStack()
                self._lent[file.path] = stack, stack.enter_context(self.store.borrowed(file))
        try:
            yield self._lent[file.path][1]
        finally:
            with self._locks[file.path]:
                self._left[file.path] -= 1
                if not self._left[file.path]:
                    self._lent.pop(file.path)[0].close()

    def close(self) -> None:
        """Drop what is left: not all of its clips were asked for."""
        for stack, _ in self._lent.values():
            stack.close()


class Asker:
    """Asks a model a step's units, which come in the order of their clips; `params` say how."""

    def __init__(
        self, store: Store, chosen: ChosenVlm, benchmark: Benchmark, params: Params, units: Sequence[Unit]
    ) -> None:
        self.store, self.chosen, self.benchmark, self.params = store, chosen, benchmark, params
        self._longest = params.max_new_tokens or benchmark.max_new_tokens
        self._batches = _batches(units, params.batch_size)
        self._known: dict[str, Json | DataError] = {}
        self._prefix: tuple[str, Prefix] | None = None
        self._files: Files  # within `around`
        self._reader: Reader

    @property
    def stages(self) -> Stages[Unit, dict[str, Tensor], Json]:
        """How a unit is answered: its clip is decoded ahead, once for all its units."""
        return Stages(
            prepare=self.read,
            compute=self.answer,
            write=lambda unit, answer, folder: answer,
            prefetch=self.params.prefetch,
            shared=lambda unit: unit.clip,
        )

    def reads(self, unit: Unit) -> Json:
        """Return what a reply follows from: what the parameters come to for this unit.

        An image is shown whole, at sizes of the model's own: no viewing and no order of frames changes it.
        """
        video, control, viewing = unit.line.video, self.params.control, None
        if video.kind == "image":
            control = "no_video" if control == "no_video" else "none"
        elif control != "no_video":
            viewing = self._viewing(video).model_dump(mode="json", exclude=set(self.chosen.family().ignores))
        seen = {"control": control, "viewing": viewing}
        asked = {"prompt": self._prompt(unit), "max_new_tokens": self._longest}
        return {"video": unit.clip, "sample": unit.sample.id, **asked, **seen, **self.chosen.origin}

    @contextmanager
    def around(self, units: Sequence[Unit]) -> Iterator[None]:
        """Open what the clips of `units` are read with, and keep their files while they are wanted."""
        if not units or self.params.control == "no_video":
            yield
            return
        videos, self._reader = {unit.clip: unit.line.video for unit in units}, self._shown(self.chosen.reader())
        with closing(Files(self.store, list(videos.values()))) as self._files:
            yield

    def read(self, unit: Unit) -> dict[str, Tensor]:
        """Return the pixels of a unit's clip, if any; within `around`, once for each clip.

        Raises:
            DataError: the file is missing or damaged, or does not decode.
        """
        if self.params.control == "no_video":
            return {}
        video = unit.line.video
        with self._files.lent(video.file) as path:
            return self._reader.pixels(video, path, self._viewing(video))

    def answer(self, unit: Unit, pixels: Callable[[], dict[str, Tensor]]) -> Json:
        """Return a unit's reply and the indices of the frames that the model saw; `pixels` are those of its clip.

        Raises:
            DataError: the clip does not decode, or the question does not fit the model.
        """
        if unit.name not in self._known:
            self._known = self._answers(self._batches[unit.name], pixels)
        if isinstance(found := self._known[unit.name], DataError):
            raise found
        return found

    def _answers(self, batch: Sequence[Unit], pixels: Callable[[], dict[str, Tensor]]) -> dict[str, Json | DataError]:
        vlm, answers = self._shown(self.chosen.load()), dict[str, Json | DataError]()
        laid_out: dict[str, tuple[Layout, list[int]]] = {}
        for unit in batch:
            try:
                laid_out[unit.name] = self._lay_out(vlm, unit)
            except DataError as error:  # of this question alone
                answers[unit.name] = error
        if laid_out:
            layouts = [layout for layout, _ in laid_out.values()]
            replies = vlm.replies(layouts, self._read(vlm, batch[0].clip, layouts[0], pixels), self._longest)
            answered = zip(laid_out, replies, laid_out.values(), strict=True)
            answers |= {name: {"reply": reply, "frames": frames} for name, reply, (_, frames) in answered}
        return answers

    def _lay_out(self, vlm: Vlm, unit: Unit) -> tuple[Layout, list[int]]:
        talk, video = conversation(unit.sample, self._prompt(unit), self.params.system_prompt), unit.line.video
        if self.params.control == "no_video":
            return vlm.text_only(talk), []
        return vlm.lay_out(talk, video, self._viewing(video))

    def _read(self, vlm: Vlm, clip: str, layout: Layout, pixels: Callable[[], dict[str, Tensor]]) -> Prefix:
        if self._prefix is None or self._prefix[0] != clip:
            self._prefix = None  # one clip's cache at a time
            self._prefix = clip, vlm.prefix(layout, pixels())
        return self._prefix[1]

    def _prompt(self, unit: Unit) -> str:
        options = moved(unit.sample.options, unit.shift)
        return self.benchmark.ask(unit.sample.question, options, self.params.prompt_template)

    def _viewing(self, video: Video) -> Viewing:
        return self.benchmark.viewing(self.params.viewing, self.params.preset, self.chosen.family(), video.duration)

    def _shown(self, model: R) -> R:
        return controlled(model, self.params.control)


def controlled(model: R, control: Control) -> R:
    """Return a reader or a loaded model that is shown what a control leaves of a clip's frames."""
    family = model.family
    if control in ("none", "no_video"):
        return model

    def frames(viewing: Viewing, video: Video) -> list[int]:
        return shown_frames(control, family.frames(viewing, video), video.id)

    return replace(model, family=replace(family, frames=frames))


def _batches(units: Sequence[Unit], size: int) -> dict[str, list[Unit]]:
    """Return for each unit the units that are decoded with it: parts of `size` of its clip's."""
    by_clip: dict[str, list[Unit]] = {}
    for unit in units:
        by_clip.setdefault(unit.clip, []).append(unit)
    parts = [own[k : k + size] for own in by_clip.values() for k in range(0, len(own), size)]
    return {unit.name: part for part in parts for unit in part}
