"""The whole page, made by the step from a run: sections, sizes, determinism, and the lines for missing data."""

import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import world

from bench.table import Row, write
from components.core.artifacts import EvalResult, LeakageCounts, Report
from components.core.errors import DataError
from components.core.records import Failure, ModelId, Span, StepRecord, sha256
from components.core.text import CANNOT_READ
from components.core.units import probability, signed
from components.pages.page import render
from components.quality.measures import Quality, assess
from components.report.material import Material, scenes, shipped
from components.report.page import Findings, build, comparisons, sentence
from components.report.step import by_protocol
from components.sft.aligner import Aligner
from components.store.tensors import unpack
from tests.pages.reading import Tags, plain, rows
from tests.runner import changed, load_manifest

ORDER = ["verdict", "idea", "reconstruction", "heads", "words", "quality", "tokens", "training", "benchmarks"]
ORDER += ["leakage", "left-out", "provenance"]


def material_of(run, evaluated=False, **changed):
    both = {f"{name}": {"motionbench": getattr(run, name)[0]} if evaluated else {} for name in ("untouched", "tuned")}
    fields = {
        "priors": run.priors,
        "model": run.model,
        "after": {},
        "masked": 256,
        "provenance": run.untouched[0].provenance,
        **both,
    }
    return Material(run.store, **{**fields, **changed})


def page_of(material, quality=None, shown=8, bench=()):
    findings = Findings(quality or Quality({}, None, {}), comparisons(material), list(bench))
    return render(build(material, findings, shown))


def test_sections_in_order_and_well_formed(page):
    assert Tags(page).ids == ORDER


def test_self_contained_without_scripts(page):
    found = Tags(page)
    assert all(address.startswith(("data:image/", "#")) for address in found.addresses)
    assert not re.search(r"<script|javascript:|@import|url\(|https?://", page)
    assert "prefers-color-scheme: dark" in page


def test_every_picture_carries_its_sample(run, page):
    assert page.count('<figure class="stored"') == 8 + 3
    for figure in re.findall(r'<figure class="stored">.*?</figure>', page, re.S):
        assert re.search(r"sample [0-9a-f]{16}", figure)
    wanted = sorted((line.sample.id for line in run.priors.lines), key=lambda name: sha256(name.encode()))[:8]
    assert all(f"sample {name}" in page for name in wanted)


def test_verdict_and_numbers(run, page):
    pairs = list(zip(run.untouched[0].lines, run.tuned[0].lines, strict=True))
    gain = 100 * sum(int(b.correct) - int(a.correct) for a, b in pairs) / len(pairs)
    text = plain(page)
    before, after = (100 * sum(int(pair[k].correct) for pair in pairs) / len(pairs) for k in (0, 1))
    models = f"{before:.1f} % right untouched, {after:.1f} % tuned"
    outcome = rf"\+{gain:.1f} points \[[+−][\d.]+, [+−][\d.]+\], p [=<] [\d.]+, {len(pairs)} items\."
    assert re.search(rf"MotionBench: {models}: {outcome}", text)
    assert "Selection may be positional" in text
    assert "sft.max_steps = 60 (paper: none)" in text
    assert "head ratio" not in text
    won = sum(b.correct and not a.correct for a, b in pairs)
    lost = sum(a.correct and not b.correct for a, b in pairs)
    assert f"{won} won, {lost} lost of {len(pairs)} items" in text
    assert page.count('class="card won"') == page.count('class="card lost"') == min(won, lost, 4)
    assert "coverage 0.31 is below min_coverage=0.5" in text
    assert f"sha256:{run.priors.digest}" in text


def test_the_verdict_on_many_benchmarks_is_short(run):
    material = material_of(run, evaluated=True)
    (one,) = comparisons(material)
    said = [sentence(material, [one] * many) for many in (2, 3)]
    assert said[0].count(" items") == 2
    short = f"MotionBench {signed(one.overall.value)} ({probability(one.p)})"
    assert said[1] == f"Tuned − untouched, in points: {', '.join([short] * 3)}."


def test_summary_and_cut(run, page):
    summary = run.out["summary"].read_text()
    shown = rows(summary)
    assert len(shown["Overall"]) == 6
    assert shown["prior, debiased"][3] == "12"
    assert all(re.fullmatch(r"−?[\d.]+ \[−?[\d.]+, −?[\d.]+\]", cell) for cell in shown["prior, debiased"][:3])
    assert pointing_line(run) in summary
    assert pointing_line(run) in plain(page)
    for title in ("AUC_obj: mover against", "Pointing game: frames whose", "Track: path of"):
        assert title in page
    cut, report = run.out["page"].read_text(), load_manifest(run.out["report"], Report, run.store.uri)
    assert cut.index("% right untouched") < cut.index(report.page.path) < cut.index('<section id="idea"')
    read = re.sub(r"<style.*?</style>|<pre>.*?</pre>|<[^>]*>", " ", cut, flags=re.DOTALL)
    assert not re.search(r"\de[+−-]\d", read)
    assert summary.index("% right untouched") < summary.index("## ") < summary.index(report.page.path)
    assert len(cut.encode()) <= 1_000_000
    assert report.page.bytes <= 8_000_000


def pointing_line(run):
    """The pointing game of the eight pictured samples, from masks and maps alone."""
    material, hits, chances = material_of(run), 0, []
    for one in scenes(material, material.order[:8]):
        hits += bool(one.mover.flat[one.prior.argmax()] > 0.1)
        chances.append((one.mover > 0.1).mean())
    chance = f"{np.mean(chances):.2f}".removeprefix("0")
    return f"Pointing game: hit by {hits} of 8 pictured samples (chance {chance} each)."


def test_the_benchs_rows_of_this_model_are_shown(run, tmp_path):
    own = {"n": 64, "clusters": 64, "model": world.VDM.digest}
    title = "difference in AUC_obj: trained − random twin"
    rows = [
        Row("AUC_obj: random twin", 0.421, None, "", low=0.362, high=0.485, **own),
        Row("AUC_obj: MHS", 0.615, None, "", low=0.575, high=0.657, **own),
        Row(title, 0.272, 0.0, "", "low >", low=0.203, high=0.338, **own),
        Row("AUC_obj: somebody else's", 0.5, None, "", low=0.4, high=0.6, **{**own, "model": "e" * 64}),
    ]
    bench = json.loads(write(rows, tmp_path / "bench-prior.json").read_text())
    quality = assess(scenes(material_of(run), material_of(run).order))
    for measured in (quality, None):  # with masks and without
        text = plain(page_of(material_of(run), measured, bench=bench))
        for wanted in ("random twin", "0.615 [0.575, 0.657], n = 64", "All 3 rows of the bench", "low > 0: holds"):
            assert wanted in text
        assert "somebody else" not in text
        assert "has no table" not in text
    absent = plain(page_of(material_of(run), quality, bench=bench[-1:]))
    assert "make bench-prior has no table for cogvideox-5b (dddddddddddd)" in absent


def test_a_shipped_table_is_one(run):
    for row in shipped("prior_table.json"):
        assert {"name", "value", "bound", "holds", "model"} <= row.keys()


def test_equal_inputs_equal_bytes(run, tmp_path, page):
    again = run.report(tmp_path, rerun="force1")
    assert run.page(again) == page
    assert (again["report"] / "manifest.json").read_bytes() == (run.out["report"] / "manifest.json").read_bytes()
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b|\d\d:\d\d:\d\d", page)


def test_a_picture_more_is_other_work(run, tmp_path):
    assert run.page(run.report(tmp_path, pictures=2)).count('<figure class="stored"') == 2 + 2


def test_what_training_and_benchmarks_have_in_common_is_said_at_the_top_and_by_kind(run):
    counts = LeakageCounts(
        report="a" * 64,
        training=12,
        benchmarks={"favor": 30, "motionbench": 40},
        found={"favor": {"file": 1, "frames": 2}, "motionbench": {}},
        excluded_videos=3,
        excluded_samples=4,
    )
    checked = StepRecord(version="1", params={"exclude": ["file"]}, scalars={})
    given = {"provenance": {**run.untouched[0].provenance, "leakage_check": checked}}
    page = page_of(material_of(run, model=run.model.model_copy(update={"leakage": counts}), **given))
    (again,) = re.findall(r"<summary>arguments.json</summary><pre>(.*?)</pre>", page, re.S)
    assert json.loads(html.unescape(again))["params_leakage_check"] == {"exclude": ["file"]}
    said = "12 training videos against favor, motionbench: 3 training videos (4 samples) left out of training."
    assert plain(page).count(said) == 2
    assert "favor 30 1 2 0 0 0 motionbench 40 0 0 0 0 0" in plain(page)
    assert plain(page_of(material_of(run))).count("Not checked: the model was trained without") == 2


def test_what_the_video_model_cannot_read_is_said_as_look_says_it(run):
    lines = list(run.priors.lines)
    text = lines[0].sample.response
    lines[0] = lines[0].model_copy(update={"unread": [Span(field="response", start=0, end=3)]})
    out = [Failure(unit="0" * 16, task="attention_capture", reason=f"{CANNOT_READ} 9 of 9 characters of the text")]
    page = plain(page_of(material_of(run, priors=changed(run.priors, lines=lines, left_out=out))))
    said = f"The video model does not know “{text[:3].strip()}”: no map shows them (1 of {len(lines)} samples)."
    assert f"{said} 1 sample left out because the video model cannot read the text." in page
    assert "does not know" not in plain(page_of(material_of(run)))


def test_missing_data_is_said_in_one_line(run):
    lines = [line.model_copy(update={"mask": None, "pictures": {}}) for line in run.priors.lines]
    log = world.put(run.store, "fixture/short.jsonl", b'{"step":1,"ar":1.0}\n')
    frozen = [line.model_copy(update={"vlm_map": None, "distance": None}) for line in run.model.lines]
    material = material_of(
        run,
        priors=changed(run.priors, lines=lines, heads=[], left_out=[]),
        model=changed(run.model, log=log, lines=frozen, aligner=[], files=[]),
    )
    text = plain(page_of(material))
    for reason in (
        "No benchmark was evaluated with both models",
        "carries no reconstruction pictures",
        "has no head table",
        "No ground-truth masks",
        "Not in this run's log: alignment loss, gradient norms, learning rates",
        "No distance to the prior before and after",
        "Nothing: every unit of every step is in",
        "highest confidence",
        "No head table: how often each head was chosen is not known",
    ):
        assert reason in text, reason
    assert "VLM before" not in text
    assert "#" in text  # without a tokenizer the VLM's tokens go by their positions


def test_without_masks_the_head_choice_is_told(run):
    heads = [row.model_copy(update={"chosen": (12, 0, 7)[row.head % 3]}) for row in run.priors.heads]
    text = plain(page_of(material_of(run, priors=run.priors.model_copy(update={"heads": heads}))))
    assert "Head selection over 12 samples: of 8 heads 3 are chosen in every sample, 3 in none, 2 in some." in text
    assert "Of the chosen ones 100% have the largest possible TCS and 50% the largest DSR" in text


def test_without_pictured_samples(run):
    text = plain(page_of(material_of(run), shown=0))
    assert text.count("pictures = 0") == 2


def test_without_mtti_there_is_one_row(run):
    line = next(iter(run.priors.lines))
    prior = world.density(material_of(run).prior(line).mean(0, keepdims=True))
    single = line.model_copy(update={"prior": world.tensors(run.store, "single", prior=prior)})
    material = material_of(run, priors=changed(run.priors, lines=[single]))
    assert "“all words”" in plain(page_of(material))


def test_random_weights_are_called_plumbing(run):
    tiny = {"vlm": ModelId(name="tiny-qwen2.5-vl", digest="e" * 40)}
    provenance = {
        task: record.model_copy(update={"models": {**record.models, **(tiny if "vlm" in record.models else {})}})
        for task, record in run.untouched[0].provenance.items()
    }
    text = plain(page_of(material_of(run, evaluated=True, provenance=provenance)))
    assert f"Plumbing only: random weights (tiny-qwen2.5-vl), {len(run.tuned[0].lines)} items." in text


def test_hostile_text_stays_text(run):
    evil = "<script>alert(1)</script>\"'"
    lines = [
        item.model_copy(update={"reply": evil, "sample": item.sample.model_copy(update={"question": evil})})
        for item in run.tuned[0].lines
    ]
    tuned = {"motionbench": changed(run.tuned[0], lines=lines)}
    page = page_of(material_of(run, evaluated=True, tuned=tuned))
    Tags(page)
    assert evil in plain(page)
    assert "<script" not in page


def test_what_the_aligner_absorbs_is_its_own_output(run, page):
    """The number on the page against the loss and the aligner called by hand."""
    aligner = Aligner("local")
    aligner.load_state_dict(unpack(run.store.read(run.model.aligner[0])))
    before = {line.sample.id: line for line in run.model.lines}
    plain_gap, aligned_gap = [], []
    for line in run.after.lines:
        found = unpack(run.store.read(before[line.sample.id].vlm_map))
        prior, valid = unpack(run.store.read(line.prior))["prior"], found["valid"]
        for gaps, seen in ((plain_gap, found["map"]), (aligned_gap, aligner(found["map"], valid).detach())):
            a, b = seen[found["covered"]][:, valid], prior[found["covered"]][:, valid]
            gaps.append(float(((a / a.mean(1, keepdim=True) - b / b.mean(1, keepdim=True)) ** 2).mean()))
    numbers = re.search(r"untouched model's distance from ([\d.]+) to ([\d.]+)", plain(page))
    expected = (torch.tensor(plain_gap).mean().item(), torch.tensor(aligned_gap).mean().item())
    assert tuple(map(float, numbers.groups())) == pytest.approx(expected, rel=0.006)


def test_links_follow_the_token_map(run, page):
    shown = sorted(run.model.lines, key=lambda line: sha256(line.sample.id.encode()))[:2]
    maps = [unpack(run.store.read(line.token_map))["map"] for line in shown]
    assert page.count('class="link"') == sum(int((found > 0).sum()) for found in maps)


def test_two_results_of_one_benchmark_are_refused(run):
    with pytest.raises(DataError, match="several results"):
        by_protocol([run.tuned[0], run.tuned[0]], "tuned")


def test_unpaired_benchmarks_are_left_alone(run):
    other = EvalResult(kind="EvalResult", provenance={}, protocol="favor", model="m", scores=[], lines=[])
    assert comparisons(material_of(run, untouched={"motionbench": run.untouched[0]}, tuned={"favor": other})) == []


def test_a_damaged_prior_is_named(run, tmp_path):
    line = next(iter(run.priors.lines))
    ref = line.prior.model_copy(update={"sha256": "0" * 64})
    priors = changed(run.priors, lines=[line.model_copy(update={"prior": ref})])
    with pytest.raises(DataError, match=r"rerun_fixture|prior"):
        replace(run, priors=priors).report(tmp_path)
