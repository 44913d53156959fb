"""What the VLM's part costs: passes against a FLOP counter on the tiny twins, totals against sums by hand."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from components.media.viewing import Viewing
from components.models.registry import ensure_tiny
from components.models.vlm.example import collate
from components.plan.cost import A100_FLOPS, Shown
from components.plan.seeing import A100_BYTES, LARGEST, Seeing, Text, evaluated, read_of, tuned
from components.plan.tuning import Counts, count
from components.sft.settings import Params
from components.vlm_attention.settings import Params as Mapping
from tests.models.vlm.cases import NAMES, example, load
from tests.sft.test_flops import head_size

HOUR = 3600 * A100_FLOPS
VIEWING = Viewing()
CLIP = Shown(40, 64, 96, 5.0)


@pytest.fixture(scope="module", params=NAMES)
def seeing(request):
    """A model's way to look, with the rates of full tuning, kept and read again."""
    folder = ensure_tiny(request.param)
    counts = count(folder, Params())
    numbers = json.loads(json.dumps({**vars(counts), "rates": vars(counts.rates)}))
    assert Counts.read(numbers).rates == counts.rates
    assert Counts.read({name: value for name, value in numbers.items() if name != "rates"}) is None
    made = Seeing(folder, counts.rates)
    made.name = request.param
    return made


def one_pass(seeing, one, method="asked"):
    cells = seeing.cells(one.shown, VIEWING)
    size = cells[0] * cells[1] * cells[2]
    given = seeing.reader.family.tower_work(seeing.config, cells), size, size + one.tokens, one.predicted
    return getattr(seeing.rates, method)(*given)


def test_a_forward_pass_is_what_a_counter_sees(seeing):
    vlm = load(seeing.name, rows=False)
    vlm.model.set_attn_implementation("eager")
    item = example(vlm, n=5, height=64, width=96)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        vlm.forward(collate([item]))
    cells, predicted = item.video_grid.shape, int((item.labels[1:] != -100).sum())
    work = vlm.family.tower_work(vlm.model.config, cells)
    size = cells[0] * cells[1] * cells[2]
    text = vlm.model.config.get_text_config()
    rotary = 2 * item.position_ids.numel() * head_size(text) // 2
    assert seeing.rates.asked(work, size, len(item.input_ids), predicted) == counter.get_total_flops() - rotary


def test_cells_are_those_of_the_reader_and_an_unknown_clip_is_the_largest(seeing):
    frames = len(seeing.reader.family.frames(VIEWING, CLIP))
    assert seeing.cells(CLIP, VIEWING) == seeing.reader.inputs.shape(frames, 64, 96, VIEWING)
    sizes = [seeing.cells(clip, VIEWING) for clip in (CLIP, Shown(2000, 720, 1280, 60.0), LARGEST)]
    totals = [t * y * x for t, y, x in sizes]
    assert seeing.cells(None, VIEWING)[1:] == sizes[-1][1:]
    assert seeing.cells(None, VIEWING)[0] == min(
        sizes[-1][0], seeing.reader.max_tokens // (sizes[-1][1] * sizes[-1][2])
    )
    assert totals == sorted(totals)


def test_a_training_is_its_samples_and_its_validation(seeing):
    samples = [Text("a", CLIP, "what moves here", "a red ball", 2.0), Text("b", CLIP, "what", "a ball")]
    params = Params(held_out=0.0, epochs=3, gradient_checkpointing=False)
    trained = [one_pass(seeing, one, "trained") for one in samples]
    passed = [one_pass(seeing, one) for one in samples]
    whole = 3 * (2 * trained[0] + trained[1])
    assert seeing.training(samples, VIEWING, params) == pytest.approx(whole / HOUR)
    again = params.model_copy(update={"gradient_checkpointing": True})
    more = 3 * (2 * passed[0] + passed[1])
    assert seeing.training(samples, VIEWING, again) == pytest.approx((whole + more) / HOUR)
    steps = params.model_copy(update={"max_steps": 4, "global_batch": 3, "held_out": 0.5, "eval_every": 2})
    # 4 steps in place of 3 · 3 · ½ / 3, and after each second one the loss of the one sample that is held out
    known = 4 / 2 * whole / 2 + 2 * sum(passed) / 2
    assert seeing.training(samples, VIEWING, steps) == pytest.approx(known / HOUR)
    assert seeing.training([], VIEWING, params) == 0


def test_a_clip_is_read_once_for_all_its_questions(seeing):
    items = [(SimpleNamespace(answer=answer), Text("a", CLIP, "which one", "")) for answer in ("A", "B", "")]
    params = {"held_out": False, "limit": None, "control": "none", "viewing": VIEWING, "preset": "paper"}
    params |= {"permutations": 2, "max_new_tokens": 10}
    source = SimpleNamespace(protocol="motionbench")
    found = evaluated(seeing, source, items, SimpleNamespace(**params))
    cells = seeing.cells(CLIP, VIEWING)
    size, nothing = cells[0] * cells[1] * cells[2], seeing.reader.family.tower_work(seeing.config, (0, 0, 0))
    clip = seeing.rates.asked(seeing.reader.family.tower_work(seeing.config, cells), size, size, 1)
    question = seeing.rates.asked(nothing, 0, items[0][1].tokens, 1)
    weights = seeing.rates.forward["llm"] + seeing.rates.forward["head"]  # two bytes of each, two FLOPs
    replies = 4 * 10 * weights / A100_BYTES / 3600
    assert found.hours == pytest.approx((clip + 4 * question) / HOUR + replies)
    assert (found.name, found.pod, found.units, found.at_most) == ("evaluation motionbench", "benchmark", 1, True)
    blind = evaluated(seeing, source, items, SimpleNamespace(**params | {"control": "no_video"}))
    assert blind.hours < found.hours
    every = evaluated(seeing, source, items, SimpleNamespace(**params | {"held_out": True}))
    assert every.hours - found.hours == pytest.approx(2 * question / HOUR + replies / 2)


def test_tasks_of_the_tuning(seeing):
    samples = [Text(str(k), CLIP, "what moves", "it") for k in range(10)]
    given = {"vlm_attention": Mapping(pictures=2), "sft": Params(global_batch=4)}
    mapped, trained = tuned(seeing, samples, given, 5, 2)
    assert (mapped.name, mapped.pods, mapped.units, mapped.at_most) == ("vlm_attention", 5, 2, True)
    assert mapped.hours == pytest.approx(2 * one_pass(seeing, samples[0]) / HOUR)
    every = tuned(seeing, samples, given | {"vlm_attention": Mapping(maps_for="all")}, 5, 2)[0]
    assert (every.units, every.hours) == (10, pytest.approx(5 * mapped.hours))
    # four samples a batch keep four processes busy, on however many nodes
    assert [trained.pod_hours(nodes, 8) for nodes in (1, 2)] == [trained.hours / 4] * 2
    sample = SimpleNamespace(earlier=[], question="what moves", options=[SimpleNamespace(text="a ball")])
    assert read_of(sample) == "what moves a ball"
