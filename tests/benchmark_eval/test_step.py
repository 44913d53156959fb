"""The step in process: real synthetic clips, tiny models, replies against the model's own generate, scores by hand."""

import pytest
import torch
from markupsafe import escape

from components.benchmark_eval.page import choose
from components.benchmark_eval.scores import judged, scores
from components.benchmark_eval.step import STEP, items
from components.benchmarks.interface import get_benchmark
from components.core import artifacts as a
from components.core.errors import DataError, ParameterError
from components.core.records import sha256
from components.media.video import read_frames
from components.media.viewing import Viewing
from components.models.registry import ensure_tiny
from components.models.vlm.example import collate
from components.models.vlm.interface import Conversation
from components.models.vlm.model import load_vlm
from components.store.entries import Entry, Store
from tests.benchmark_eval.world import dataset, make_world, recorded, result, run, sample
from tests.pages.reading import rows
from tests.runner import metrics, put_manifest, run_step
from tests.vlm_attention import made

QWEN = "tiny-qwen2.5-vl"
MOTIONBENCH = get_benchmark("motionbench")
TYPES = list(MOTIONBENCH.types)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("bench"))


def stretched(line):
    """The same frames, ten times as slow."""
    times, duration = [10 * time for time in line.video.times], 10 * line.video.duration
    return line.model_copy(update={"video": line.video.model_copy(update={"times": times, "duration": duration})})


def greedy(vlm, example, count):
    """Argmax again and again, each time over the whole sequence, by the model's own forward."""
    ids = example.input_ids.tolist()
    reply = []
    while len(reply) < count:
        grown = torch.tensor([ids + reply])
        more = example.position_ids[:, -1:] + 1 + torch.arange(len(reply))
        batch = vlm.arguments(collate([example])) | {"input_ids": grown, "attention_mask": torch.ones_like(grown)}
        batch["position_ids"] = torch.cat([example.position_ids, more], dim=-1)[:, None]
        token = int(vlm.model(**batch, use_cache=False).logits[0, -1].argmax())
        if token in vlm.stops:
            break
        reply.append(token)
    return vlm.tokenizer.decode(reply, skip_special_tokens=True)


@pytest.mark.parametrize("rule", ["qwen", "transformers"])
def test_replies_are_the_models_greedy_ones_to_the_official_prompt(world, tmp_path, monkeypatch, rule):
    asked = recorded(monkeypatch)
    slow = [stretched(line) for line in world[2]]  # the rules are the same for a second's clip
    videos, viewing = dataset(tmp_path / "videos", slow), {**made.VIEWING, "positions": rule}
    found = result(run(world, tmp_path, videos=videos, viewing=viewing))
    assert len(found.lines) == 8  # neither held-out items nor another protocol's
    clips = {line.video.id: line.video for line in slow}
    vlm = load_vlm(ensure_tiny(QWEN), torch.float32, "cpu", rows=False)
    store = Store(str(world[0] / "store"))
    for line in [*found.lines][:3]:
        one = line.sample
        options = [f"{option.letter}. {option.text}" for option in one.options]
        prompt = "\n".join([one.question, *options, "Answer with only the option letter."])
        frames = read_frames(store.fetch(line.video.file), line.frames)
        times = [clips[line.video.id].times[k] for k in line.frames]
        viewing = Viewing(**made.VIEWING, positions=rule)
        example = vlm.prepare(Conversation([], prompt, None), frames, times, line.video.duration, viewing)
        with torch.no_grad():
            assert line.reply == greedy(vlm, example, 16)
        same = [layout for layout, _ in asked if layout.text == example.text]
        assert any(torch.equal(example.position_ids, layout.position_ids) for layout in same)


def test_prompt_and_length_of_a_run(world, tmp_path, monkeypatch):
    asked = recorded(monkeypatch)
    own = {"max_new_tokens": 3, "system_prompt": "Be brief.", "prompt_template": "Choose.\n{options}\n{question}"}
    found = result(run(world, tmp_path, **own))
    assert {count for _, count in asked} == {3}
    for line in found.lines:
        options = "\n".join(f"{option.letter}. {option.text}" for option in line.sample.options)
        texts = [layout.text for layout, _ in asked if f"Choose.\n{options}\n{line.sample.question}<" in layout.text]
        assert len(texts) == 1
        assert texts[0].startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|vision_start|>")
    stored = found.provenance["benchmark_eval"].params
    assert {name: stored[name] for name in own} == own
    for other in ({"system_prompt": "Be kind."}, {"max_new_tokens": 2}, {"prompt_template": "{options}{question}"}):
        asked.clear()
        run(world, tmp_path, **{**own, **other})  # another question
        assert len(asked) == 8


def test_a_template_needs_question_and_options_once(world, tmp_path):
    for template in ("{question}", "{options}", "{question}{options}{question}"):
        with pytest.raises(ParameterError, match="prompt_template"):
            run(world, tmp_path, prompt_template=template)


def test_remembered_without_loading_a_model(world, tmp_path, monkeypatch):
    first = run(world, tmp_path)
    monkeypatch.setattr("components.models.vlm.model.load_vlm", lambda *_, **__: pytest.fail("a model was loaded"))
    second = run(world, tmp_path)
    assert metrics(second)["share_remembered"] == 1.0
    assert (first["result"] / "manifest.json").read_bytes() == (second["result"] / "manifest.json").read_bytes()
    with pytest.raises(pytest.fail.Exception):  # another viewing is another question
        run(world, tmp_path, viewing={**made.VIEWING, "fps": 2.0})


def test_a_new_item_computes_one(world, tmp_path):
    run(world, tmp_path)
    first, *others = world[2]
    more = first.model_copy(update={"samples": [*first.samples, sample(first.video, 99)]})
    outputs = run(world, tmp_path, videos=dataset(tmp_path / "more", [more, *others]))
    assert metrics(outputs)["share_remembered"] == pytest.approx(8 / 9, abs=1e-4)


def answered(world, replies):
    units = items(a.VideoDataset(kind="VideoDataset", provenance={}, lines=world[2]), MOTIONBENCH)
    made = {"step": "benchmark_eval", "version": "1", "unit": "", "reads": {}}
    entries = [Entry(key=str(k), numbers={"reply": reply, "frames": [0]}, **made) for k, reply in enumerate(replies)]
    pairs = zip(units, entries, strict=True)
    return [judged(unit.line, unit.sample, MOTIONBENCH, found) for unit, found in pairs]


REPLIES = ["A", "B", "A", "A", "The answer is A.", "no idea", "(A) left", "B. right"]


def test_scores_by_hand(world):
    # answers are A, B for each of four videos; types cycle with the item's number
    lines = answered(world, REPLIES)
    assert [line.correct for line in lines] == [True, True, True, False, True, False, True, True]
    assert [line.parsed for line in lines] == ["A", "B", "A", "A", "A", "", "A", "B"]
    found = {score.name: score for score in scores(lines, MOTIONBENCH)}
    overall = found["Overall"]
    assert (overall.n, overall.correct, overall.accuracy, overall.unparsed) == (8, 6, 75.0, 1)
    by_type = {}
    for line in lines:
        by_type.setdefault(line.sample.question_type, []).append(line.correct)
    macro = sum(sum(values) / len(values) for values in by_type.values()) / len(by_type)
    assert found["Average"].accuracy == pytest.approx(100 * macro)
    for name, values in by_type.items():
        one, n, right = found[MOTIONBENCH.types[name]], len(values), sum(values)
        assert (one.n, one.accuracy) == (n, 100 * right / n)
        assert one.low is one.high is None if n == 1 else one.low <= one.accuracy <= one.high
    assert overall.low < 75 < overall.high
    official = found["Official rule"]  # "The answer is A." starts with T, "no idea" with n
    assert official.correct == sum(line.official_correct for line in lines) == 5


def test_as_many_wrong_as_right_are_shown(world):
    lines = answered(world, REPLIES)
    ranked = sorted(lines, key=lambda line: sha256(line.sample.id.encode()))
    right, wrong = ([line for line in ranked if line.correct is kind] for kind in (True, False))
    assert choose(lines) == [*right[:2], *wrong[:2]]
    assert choose(list(reversed(lines))) == choose(lines)
    assert choose([*right, wrong[1]]) == [right[0], wrong[1]]
    assert choose(right) == right[:2]


def test_examples_page(world, tmp_path):
    outputs = run(world, tmp_path)
    lines, page = result(outputs).lines, outputs["examples"].read_text()
    shown = choose(lines)
    assert {line.sample.id for line in lines if line.sample.id in page} == {line.sample.id for line in shown}
    assert 0 < len(shown) <= 4
    for line in shown:
        card = next(part for part in page.split("<article") if line.sample.id in part)
        assert 4 <= card.count("<img") == min(6, len(line.frames))
        assert str(escape(line.reply)) in card
        right = next(option for option in line.sample.options if option.letter == line.sample.answer)
        assert f"<li class=right>{right.letter}. {right.text}</li>" in card
        assert (f"{line.parsed}, by the rule “{line.rule}”" if line.parsed else "unparsed, counted as wrong") in card
    assert run(world, tmp_path)["examples"].read_text() == page
    assert metrics(outputs)["units"] == 8  # pictures are no units


def test_tuned_form_has_keys_of_its_own(world, tmp_path):
    folder, artifact, _ = world
    before = result(run(world, tmp_path))
    model = made.tuned_model(Store(str(folder / "store")), ensure_tiny(QWEN), {}, [])

    def run_tuned(key):
        manifest = put_manifest(tmp_path / key, model.model_copy(update={"key": key}))
        params, scalars = {"viewing": made.VIEWING}, {"benchmark": "motionbench=x"}
        inputs = {"videos": artifact, "model": manifest}
        return run_step(STEP, tmp_path, folder / "store", params, scalars, inputs, form="tuned")

    outputs = run_tuned(model.key)
    after = result(outputs)
    assert [line.reply for line in after.lines] == [line.reply for line in before.lines]
    assert not {line.key for line in after.lines} & {line.key for line in before.lines}
    assert metrics(run_tuned("d" * 32))["share_remembered"] == 0
    assert after.model == f"tuned-{model.key[:12]}"
    shown = rows(outputs["table"].read_text())
    assert shown["Overall"][0] == "8"
    assert "Motion Recognition" in shown


def test_refuses_what_it_cannot_score(world, tmp_path):
    with pytest.raises(DataError, match="no items"):
        run(world, tmp_path, benchmark="seed=./data")
    clip = world[2][0].video
    wrong = sample(clip, 1).model_copy(update={"question_type": "Dancing"})
    with pytest.raises(DataError, match="Dancing"):
        run(world, tmp_path, videos=dataset(tmp_path / "wrong", [a.VideoLine(video=clip, samples=[wrong])]))
