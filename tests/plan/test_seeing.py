"""What the VLM's part costs: passes against a FLOP counter on the tiny twins, totals against sums by hand."""

import json
from math import prod
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from components.benchmark_eval.asking import controlled
from components.benchmarks.interface import get_benchmark
from components.core.records import Option, Video
from components.media.viewing import Viewing
from components.models.registry import ensure_tiny
from components.models.vlm.example import collate
from components.models.vlm.interface import conversation
from components.plan.cost import A100_FLOPS, Shown
from components.plan.seeing import A100_BYTES, LARGEST, Seeing, Text, evaluated, tuned
from components.plan.tuning import Counts, count
from components.sft.settings import Params
from components.vlm_attention.settings import Params as Mapping
from tests.models.vlm.cases import NAMES, example, load
from tests.sft.test_flops import head_size

HOUR = 3600 * A100_FLOPS
VIEWING = Viewing()
CLIP = Shown(40, 64, 96, 5.0)
OPTIONS = [Option(letter="A", text="a red ball"), Option(letter="B", text="nobody at all")]


def row(question="which one", response="", **more):
    """A row's texts, or a sample's."""
    return SimpleNamespace(
        **{"earlier": [], "options": [], "answer": "", "weight": 1.0} | more, question=question, response=response
    )


def video(shown, times=None):
    """The clip as an import finds it."""
    file = {"path": "a.mp4", "sha256": "0" * 64, "bytes": 1, "task": "t"}
    sizes = {"height": shown.height, "width": shown.width, "rotation": 0, "kind": shown.kind}
    return Video(file=file, **sizes, duration=shown.duration, times=list(times or shown.times))


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


def laid_out(seeing, one, viewing=VIEWING, talk=None):
    """The sample's conversation as a step prepares it."""
    return seeing.reader.lay_out(talk or conversation(one.row), video(one.shown), viewing)[0]


def one_pass(seeing, one, method="asked"):
    made = laid_out(seeing, one)
    cells = made.video_grid.shape
    work, learned = seeing.reader.family.tower_work(seeing.config, cells), int((made.labels != -100).sum())
    return getattr(seeing.rates, method)(work, prod(cells), len(made.input_ids), learned)


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


VIEWINGS = {
    "default": VIEWING,
    "dense": Viewing(fps=2.0, num_frames=16, max_pixels=28 * 28 * 8),
    "few": Viewing(max_frames=4, num_frames=2, positions="transformers"),
}


@pytest.mark.parametrize("viewing", VIEWINGS.values(), ids=VIEWINGS)
@pytest.mark.parametrize("seconds", [0.5, 5.0, 12.0, 130.0])
def test_tokens_are_those_of_what_is_prepared(seeing, seconds, viewing):
    shown = Shown(round(4 * seconds), 64, 96, seconds)
    one = Text("a", shown, row("what moves here", "a red ball", options=OPTIONS))
    made, (cells, clip) = laid_out(seeing, one, viewing), seeing.look(shown, viewing)
    assert cells == made.video_grid.shape
    assert seeing.length(one, viewing).all == len(made.input_ids)
    # Qwen3-VL's time stamps and InternVL3's lines stand between the cells
    assert clip.all > prod(cells) or seeing.reader.family.name == "Qwen2.5-VL"


def test_an_unknown_clip_is_the_largest_that_the_model_has_room_for(seeing):
    looks = [seeing.look(clip, VIEWING) for clip in (CLIP, Shown(2000, 720, 1280, 60.0), LARGEST)]
    totals = [prod(cells) for cells, _ in looks]
    assert totals == sorted(totals)
    (frames, *sides), length = seeing.look(None, VIEWING)
    whole, *largest = looks[-1][0]
    assert sides == largest
    assert length.all <= seeing.reader.max_tokens
    assert frames == whole or length.all > 0.9 * seeing.reader.max_tokens


def test_times_of_frames_are_kept_only_where_they_are_uneven():
    even, uneven = video(CLIP), video(CLIP, [k + 0.01 * (k % 3) for k in range(40)])
    assert Shown.of(even) == CLIP
    assert list(Shown.of(uneven).times) == uneven.times
    assert len({Shown.of(even), CLIP, Shown.of(uneven)}) == 2
    assert Shown(**json.loads(json.dumps(CLIP.header))) == CLIP


def test_a_training_is_its_samples_and_its_validation(seeing):
    samples = [
        Text("a", CLIP, row("what moves here", "a red ball", weight=2.0)),
        Text("b", CLIP, row("what", "a ball")),
    ]
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
    longest = params.model_copy(update={"max_tokens": len(laid_out(seeing, samples[1]).input_ids)})
    assert seeing.training(samples, VIEWING, longest) == pytest.approx(3 * trained[1] / HOUR)


def test_a_clip_is_read_once_for_all_its_questions(seeing):
    given = {"held_out": False, "limit": None, "control": "none", "viewing": VIEWING, "preset": "paper"}
    given |= {"permutations": 3, "max_new_tokens": 10, "prompt_template": None, "system_prompt": "Be brief."}
    items = [Text("a", CLIP, row(f"which {name} one", options=OPTIONS, answer=name)) for name in ("A", "B", "")]
    nothing, family = seeing.reader.family.tower_work(seeing.config, (0, 0, 0)), seeing.reader.family

    def wanted(times, clip=CLIP, **params):
        """FLOPs of the passes, and the hours of the replies' tokens, from conversations as they are laid out."""
        read, asked = 0, 0
        for one, often in zip(items, times, strict=True):
            prompt = get_benchmark("motionbench").ask(one.row.question, one.row.options)
            talk = conversation(one.row, prompt, "Be brief.")
            if params.get("control") == "no_video":
                asked += often * seeing.rates.asked(nothing, 0, len(seeing.reader.text_only(talk).input_ids), 1)
                continue
            made = laid_out(seeing, one, talk=talk) if clip is CLIP else clip(talk)
            shared, cells = int(made.video_columns[-1]) + 1, made.video_grid.shape
            read = seeing.rates.asked(family.tower_work(seeing.config, cells), prod(cells), shared, 1)
            own = len(made.input_ids) - shared
            linear = seeing.rates.asked(nothing, 0, own, 1) - seeing.rates.attention * own**2
            asked += often * (linear + seeing.rates.attention * own * (shared + own))
        weights = seeing.rates.forward["llm"] + seeing.rates.forward["head"]  # two bytes of each, two FLOPs
        return (read + asked) / HOUR + sum(times) * 10 * weights / A100_BYTES / 3600

    source = SimpleNamespace(protocol="motionbench")

    def found(**params):
        return evaluated(seeing, source, items, SimpleNamespace(**given | params))

    task = found()
    assert task.hours == pytest.approx(wanted((2, 2, 0)))  # no more orders than options
    assert (task.name, task.pod, task.units, task.at_most) == ("evaluation motionbench", "benchmark", 1, True)
    assert found(held_out=True, permutations=1).hours == pytest.approx(wanted((1, 1, 1)))
    assert found(held_out=True).hours == pytest.approx(wanted((2, 2, 1)))  # one that is held out in one order
    assert found(control="no_video").hours == pytest.approx(wanted((2, 2, 0), control="no_video"))
    assert found(control="shuffled_frames").hours == task.hours

    def middle(talk):
        reader = controlled(seeing.reader, "one_frame")
        return reader.lay_out(talk, video(CLIP), VIEWING)[0]

    assert found(control="one_frame").hours == pytest.approx(wanted((2, 2, 0), middle))


def test_tasks_of_the_tuning(seeing):
    samples = [Text(str(k), CLIP, row("what moves", "it")) for k in range(10)]
    given = {"vlm_attention": Mapping(pictures=2), "sft": Params(global_batch=4)}
    mapped, trained = tuned(seeing, samples, given, 5, 2)
    assert (mapped.name, mapped.pods, mapped.units, mapped.at_most) == ("vlm_attention", 5, 2, True)
    assert mapped.hours == pytest.approx(2 * one_pass(seeing, samples[0]) / HOUR)
    every = tuned(seeing, samples, given | {"vlm_attention": Mapping(maps_for="all")}, 5, 2)[0]
    assert (every.units, every.hours) == (10, pytest.approx(5 * mapped.hours))
    # four samples a batch keep four processes busy, on however many nodes
    assert [trained.pod_hours(nodes, 8) for nodes in (1, 2)] == [trained.hours / 4] * 2
