"""A run whose models were shown no video says so, and draws none."""

from components.core.records import StepRecord
from tests.report.test_step import material_of, page_of, plain
from tests.runner import changed


def blind(result):
    return changed(result, lines=[line.model_copy(update={"frames": []}) for line in result.lines])


def test_a_control_stands_in_the_benchmarks_heading(run):
    record = StepRecord(version="3", params={"control": "no_video"}, scalars={})
    provenance = {**run.untouched[0].provenance, "baseline_eval": record}
    both = {"untouched": {"motionbench": blind(run.untouched[0])}, "tuned": {"motionbench": blind(run.tuned[0])}}
    page = page_of(material_of(run, provenance=provenance, **both))
    assert "MotionBench · no video" in page
    section = page[page.index("MotionBench · no video") :]
    assert section.count("It was shown no video.") == section.count("<article") > 0
    assert "no video" not in plain(page_of(material_of(run, evaluated=True)))
