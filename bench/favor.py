"""An evaluation as large as FAVOR-Bench's without its videos or a model: 8 184 items on 1 776 clips, replies by hash.

`python -m bench.favor STEP TASK EXECUTOR_INPUT` is `python -m components …` with a stub in the model's place; it ends
with a line of JSON: the seconds of parsing and statistics, and the peak of its memory. No torch here, as in a task
whose replies are remembered.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np

from components.benchmark_eval import step as module
from components.benchmark_eval.step import STEP
from components.core.artifacts import VideoDataset, VideoLine
from components.core.records import Json, Option, Ref, Sample, StepRecord, Video, sha256
from components.core.text import sample_id
from components.media.video import probe, write_mp4
from components.models.vlm.interface import Conversation
from components.models.vlm.qwen2_5_vl import FAMILY
from components.runtime import runner
from components.runtime.chosen_vlm import ChosenVlm
from components.store.entries import Store

VIDEOS = 1776
COUNTS = {"AS": 2637, "HAC": 1541, "SAD": 1662, "MAD": 1205, "CM": 1075, "NSM": 64}
TEXTS = ("Walks to the left", "Runs, then jumps", "Sits down", "Waves at the camera", "Turns around twice")
_BOX = 8 + 8  # bytes of a box that players pass over: size, type, a number that makes a clip another one


def make(folder: Path, videos: int = VIDEOS) -> Path:
    """Write a store with so many clips, and return the artifact of a data set with as large a part of the items."""
    write_mp4(folder / "clip.mp4", np.zeros((300, 32, 32, 3), np.uint8), 30.0)
    store, clip, info = Store(str(folder / "store")), (folder / "clip.mp4").read_bytes(), probe(folder / "clip.mp4")
    kinds = [kind for kind, count in COUNTS.items() for _ in range(round(count * videos / VIDEOS))]
    lines = []
    for k in range(videos):
        data = clip + _BOX.to_bytes(4, "big") + b"free" + k.to_bytes(8, "big")
        ref = Ref(path=f"videos/{sha256(data)}.mp4", sha256=sha256(data), bytes=len(data), task="benchmark_import")
        store.backend.put(ref.path, data)
        shown: Json = {"width": info.width, "height": info.height, "rotation": 0, "duration": info.duration}
        video = Video(file=ref, name=f"{k}.mp4", times=list(info.times), **shown)
        lines.append(VideoLine(video=video, samples=[_item(video, n, kinds[n]) for n in range(k, len(kinds), videos)]))
    record = StepRecord(version="1", params={}, scalars={})
    data_set = VideoDataset(kind="VideoDataset", provenance={"benchmark_import": record}, lines=lines)
    (artifact := folder / "artifact").mkdir()
    store.publish(data_set)
    (artifact / "manifest.json").write_bytes(data_set.to_bytes())
    return artifact


def _item(video: Video, number: int, kind: str) -> Sample:
    texts = TEXTS[number % 5 :] + TEXTS[: number % 5]
    options = [Option(letter=letter, text=text) for letter, text in zip("ABCDE", texts, strict=True)]
    question, answer = f"What does the person do in part {number}?", "ABCDE"[number // 7 % 5]
    texts: Json = {"question": question, "options": options, "response": "", "is_instruction": False, "answer": answer}
    name = sample_id(video.id, question, options, "", [])
    return Sample(id=name, uid=f"{video.name}#{number}", question_type=kind, protocol="favor", **texts)


class Stub:
    """A model whose reply is one of the texts, chosen by the prompt's hash."""

    family: ClassVar = FAMILY

    def pixels(self, *_: Any) -> dict[str, Any]:
        """Return none."""
        return {}

    def lay_out(self, talk: Conversation, video: Video, viewing: Any) -> tuple[Conversation, list[int]]:
        """Return the conversation itself, and the frames that Qwen2.5-VL would see."""
        return talk, FAMILY.frames(viewing, video)

    def prefix(self, *_: Any) -> None:
        """Read nothing."""

    def replies(self, talks: Sequence[Conversation], *_: Any) -> list[str]:
        """Return a text for each."""
        return [TEXTS[int(sha256(talk.question.encode()), 16) % len(TEXTS)] for talk in talks]


@contextmanager
def _stub(context: Any, rows: bool) -> Iterator[ChosenVlm]:
    model: Any = Stub()
    yield ChosenVlm("stub", {"model": "stub"}, lambda: FAMILY, lambda: model, lambda: model)


def request(folder: Path, artifact: Path, out: Path) -> list[str]:
    """Return this module's arguments for the evaluation of what `make` wrote."""
    values = STEP.form("untouched").shared.pipeline_defaults() | {"store": (folder / "store").absolute().as_uri()}
    values |= {"vlm": "stub", "benchmark": "favor=x", "params": {}, "rerun": "0"}
    given = runner.executor_input(STEP, out, values, {"videos": [artifact]})
    return [STEP.name, STEP.name, json.dumps(given)]


def main(arguments: Sequence[str]) -> int:
    """Run a task as its container would, with the stub; print what it took."""
    spent = [0.0]

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            start = time.perf_counter()
            found = function(*given)
            spent[0] += time.perf_counter() - start
            return found

        return call

    replaced: Json = {"chosen_vlm": _stub, "judged": timed(module.judged), "scores": timed(module.scores)}
    with patch.multiple(module, **replaced):
        code = runner.main(arguments)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    print(json.dumps({"scoring_s": spent[0], "peak_bytes": int(peak.split()[1]) * 1024}))
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
