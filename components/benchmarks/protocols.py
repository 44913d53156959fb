"""Step 7: how each benchmark is asked and scored: prompt, frames, task types, metrics.

Overall is the share of right answers (micro), Average the plain mean over task types (macro): with these the paper's
tables 3 and 4 are exact. Video-MME and SEED-Bench report groups of types instead. Prompts are the benchmarks' own where
they published one (FAVOR, Video-MME), else the customary one (MotionBench, SEED-Bench).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from components.core.errors import DataError, ParameterError
from components.core.records import Option, Sample
from components.core.text import render_question
from components.media.viewing import Viewing
from components.models.vlm.interface import VlmFamily

FramePreset = Literal["paper", "supplement"]


@dataclass(frozen=True)
class Metric:
    """A printed number over some task types (all if None): `micro` right / all questions, `macro` mean of the types' accuracies."""

    name: str
    kind: Literal["micro", "macro"] = "micro"
    types: frozenset[str] | None = None


@dataclass(frozen=True)
class Protocol:
    """One benchmark. `types` maps the names that the benchmark's files use to the abbreviations of the paper."""

    name: str
    title: str
    types: dict[str, str]
    metrics: tuple[Metric, ...]
    prompt: Callable[[str, Sequence[Option]], str]
    shows_letters: bool
    max_new_tokens: int

    def task_type(self, given: str, source: str) -> str:
        """The abbreviation of a type given by name or abbreviation, whatever its case.

        Raises:
            DataError: the benchmark has no such type.
        """
        for name, short in self.types.items():
            if given.strip().casefold() in (name.casefold(), short.casefold()):
                return short
        remedy = f"name one of {', '.join(self.types)}, or import under another protocol"
        raise DataError(f"{self.title} has no task type {given!r}", source=source, remedy=remedy)

    def check(self, sample: Sample) -> None:
        """Whether a sample can be asked and scored as an item of this benchmark.

        Raises:
            DataError: no options, an answer that is none of them (held out: leave it out before), or an unknown task
                type.
        """
        letters = [option.letter for option in sample.options]
        if sample.answer not in letters:
            problem = f"answer {sample.answer!r} among the options {', '.join(letters) or '(none)'}"
            raise DataError(
                problem, source=f"item {sample.uid}", remedy="import the benchmark again; held-out items are not scored"
            )
        self.task_type(sample.question_type, f"item {sample.uid}")


def _motionbench(question: str, options: Sequence[Option]) -> str:
    return f"{render_question(question, options)}\nAnswer with only the option letter."


def _favor(question: str, options: Sequence[Option]) -> str:
    # verbatim, grammar included; the options are a Python list, without letters
    return (
        "Carefully watch the video and pay attention to temporal dynamics in this video, focusing on the camera motions, actions, "
        "activities, and interactions. Based on your observations, select the best option that accurately addresses the question.\n"
        f"{question}\nYou can only response with the answer among {[option.text for option in options]}"
    )


def _seed(question: str, options: Sequence[Option]) -> str:
    return f"{render_question(question, options)}\nAnswer with the option's letter from the given choices directly."


def _videomme(question: str, options: Sequence[Option]) -> str:
    return (
        "Select the best answer to the following multiple-choice question based on the video. Respond with only the letter "
        f"(A, B, C, or D) of the correct option.\n{render_question(question, options)}\nThe best answer is:"
    )


_OVERALL_AND_AVERAGE = (Metric("Overall"), Metric("Average", "macro"))
_SEED_IMAGE = {
    "Scene Understanding": "SU",
    "Instance Identity": "II",
    "Instance Attributes": "IA",
    "Instance Location": "IL",
    "Instances Counting": "IC",
    "Spatial Relation": "SR",
    "Instance Interaction": "IN",
    "Visual Reasoning": "VR",
    "Text Understanding": "TU",
}
_SEED_VIDEO = {"Action Recognition": "AR", "Action Prediction": "AP", "Procedure Understanding": "PU"}

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="motionbench",
            title="MotionBench",
            types={
                "Motion Recognition": "MR",
                "Location-related Motion": "LM",
                "Action Order": "AO",
                "Repetition Count": "RC",
                "Motion-related Objects": "MO",
                "Camera Motion": "CM",
            },
            metrics=_OVERALL_AND_AVERAGE,
            prompt=_motionbench,
            shows_letters=True,
            max_new_tokens=16,
        ),
        Protocol(
            name="favor",
            title="FAVOR-Bench",
            types={
                "Action Sequence": "AS",
                "Holistic Action Classification": "HAC",
                "Single Action Detail": "SAD",
                "Multiple Action Details": "MAD",
                "Camera Motion": "CM",
                "Non-Subject Motion": "NSM",
            },
            metrics=_OVERALL_AND_AVERAGE,
            prompt=_favor,
            shows_letters=False,
            max_new_tokens=256,
        ),
        Protocol(
            name="seed",
            title="SEED-Bench",
            types={**_SEED_IMAGE, **_SEED_VIDEO},
            metrics=(
                Metric("All"),
                Metric("Image", types=frozenset(_SEED_IMAGE.values())),
                Metric("Video", types=frozenset(_SEED_VIDEO.values())),
            ),
            prompt=_seed,
            shows_letters=True,
            max_new_tokens=16,
        ),
        Protocol(
            name="videomme",
            title="Video-MME (without subtitles)",
            types={"short": "short", "medium": "medium", "long": "long"},
            metrics=(
                Metric("Overall"),
                Metric("Short", types=frozenset({"short"})),
                Metric("Medium", types=frozenset({"medium"})),
                Metric("Long", types=frozenset({"long"})),
            ),
            prompt=_videomme,
            shows_letters=True,
            max_new_tokens=16,
        ),
    )
}


def get_protocol(name: str) -> Protocol:
    """The protocol of a benchmark.

    Raises:
        ParameterError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise ParameterError(
            f"no protocol {name!r}",
            source="benchmarks",
            remedy=f"write '<protocol>=<uri>' with one of {', '.join(PROTOCOLS)}",
        )
    return PROTOCOLS[name]


def viewing_for(viewing: Viewing, preset: FramePreset, protocol: str, family: VlmFamily, duration: float) -> Viewing:
    """The run's viewing (its defaults are the main text's: Qwen2.5-VL at 1 fps, InternVL3 with 8 frames), but for one case.

    `supplement`: its Table 4 states 1 fps for InternVL3 on FAVOR-Bench, where the main text says 8 frames; elsewhere it
    agrees.

    Args:
        viewing: the run's.
        preset: which of the two documents.
        protocol: the benchmark.
        family: the VLM's.
        duration: seconds of the clip.
    """
    if preset == "supplement" and protocol == "favor":
        return family.by_time(viewing, 1.0, duration)
    return viewing
