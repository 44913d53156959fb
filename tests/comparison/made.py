"""Made-up answers of several models to one benchmark's items."""

from components.core.artifacts import EvalResult, ItemResult
from components.core.records import Option, Ref, Sample, Video

OPTIONS = [Option(letter=letter, text=letter.lower()) for letter in "ABCD"]


def item(name: int, video: int, kind: str, right: bool, parsed: str = "A") -> ItemResult:
    ref = Ref(path="v", sha256=f"{video:064x}", bytes=1, task="t")
    text = {"question": "?", "response": "", "answer": "A", "options": OPTIONS, "question_type": kind}
    sample = Sample(id=f"{name:016x}", uid=str(name), is_instruction=False, **text)
    clip = Video(file=ref, width=2, height=2, rotation=0, duration=1, times=[0.0])
    judged = {"parsed": parsed, "rule": "letter", "correct": right, "official_correct": right}
    return ItemResult(video=clip, sample=sample, key="0" * 32, reply="A", frames=[0], **judged)


def result(lines, protocol="motionbench") -> EvalResult:
    return EvalResult(kind="EvalResult", provenance={}, protocol=protocol, model="m", scores=[], lines=lines)


def answered(items, right, protocol="motionbench") -> EvalResult:
    """The result where `items` (name, video, type) are right or wrong."""
    return result([item(*what, bool(one)) for what, one in zip(items, right, strict=True)], protocol)


def answering(items, right, lines=None) -> list[ItemResult]:
    """The lines of the same items with other answers; faster than making them anew."""
    lines = lines or [item(*what, False) for what in items]
    return [line.model_copy(update={"correct": bool(one)}) for line, one in zip(lines, right, strict=True)]
