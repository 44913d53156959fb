"""Hostile names come out as text on every Markdown page that shows names from data."""

import pytest

from components.benchmarks.rows import Rejected
from components.core.artifacts import PriorSet, TunedModel, VideoLine
from components.core.records import Failure, ModelId, Ref, StepRecord, Video
from components.dataset_import.checks import Lost
from components.dataset_import.page import page as import_page
from components.dataset_import.sources import Source, SourceVideo
from components.models.video.cogvideox import FRAMES
from components.plan.cost import PlannedVideo
from components.plan.page import Texts, extraction, unfit
from components.prior_set.page import card as prior_card
from components.sft.page import card as model_card
from tests.pages.reading import emphasis
from tests.pages.test_markdown import HOSTILE, parse


def shown(page):
    """All text of a page; fails on anything but text and code, in KFP's viewer as well."""
    assert not emphasis(page)
    found = []
    for token in parse(page):
        assert token.type != "html_block", token.content
        for child in token.children or []:
            assert child.type in ("text", "text_special", "code_inline", "softbreak", "strong_open", "strong_close")
            found.append(child.content)
    return " ".join("".join(found).split())


def source(name):
    bad = (Rejected(name, f"no {name}"),)
    told = {"aside": {name: 2}, "annotations": (name,), "notes": (name,), "name": name}
    return Source("root", "auto", "", (SourceVideo(name, None, (), None),), bad, **told)


def failure(name):
    return Failure(unit=name, task="dataset_import", reason=f"cannot read {name}")


def manifest(kind, name, **fields):
    record = StepRecord(version="1", params={"value": name}, scalars={}, models={"vlm": ModelId(name=name, digest="d")})
    view = record.model_copy(update={"params": {"value": name, "viewing": {}}})
    return kind(
        kind=kind.KIND, provenance={"vlm_attention": view, "sft": record}, left_out=[failure(name)], lines=[], **fields
    )


LOG = Ref(path="log", sha256="0" * 64, bytes=0, task="sft")
CLIP = VideoLine(video=Video(file=LOG, width=8, height=8, rotation=0, duration=1.0, times=[0.0]), samples=[])


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("page", ["plan", "import", "prior set", "tuned model"])
def test_hostile_names_are_text(page, name):
    lost = [Lost("row", "", name, f"no {name}"), *unfit([PlannedVideo(name, 3, [])], FRAMES)]
    made = {
        "plan": lambda: extraction([source(name)], [], name, lost, name, Texts(1, 0, [name])),
        "import": lambda: import_page([source(name)], [CLIP], [failure(name)]),
        "prior set": lambda: prior_card(manifest(PriorSet, name, heads=[], saturation={})),
        "tuned model": lambda: model_card(manifest(TunedModel, name, key="", files=[], aligner=[], log=LOG)),
    }[page]()
    wanted = f"{name}: 3 frames" if page == "plan" else f": cannot read {name}"
    assert " ".join(wanted.split()) in shown(made)
