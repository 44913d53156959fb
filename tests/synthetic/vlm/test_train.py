"""Training the small vision-language model: what it is shown, a run that goes on exactly, the card, its own seeds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from components.core.errors import DataError, ParameterError
from components.media.sampling import spread
from components.models.vlm.example import IGNORED, collate
from components.models.vlm.interface import Conversation
from components.models.vlm.model import load_vlm
from components.models.vlm.reader import open_reader
from components.models.vlm.rows import request_rows
from components.synthetic.questions import QUESTION_TYPES
from components.synthetic.scenes import draw, make_clip
from components.synthetic.vlm.card import read_card
from components.synthetic.vlm.network import NUM_FRAMES, SEEN, SIZE, TRAINING_SEEDS, Architecture, Recipe, make_network
from components.synthetic.vlm.talks import FIRST, THEN, TrainingTalks, drawn, in_words, prepared
from components.synthetic.vlm.train import VlmTraining, cell_changes, train
from tests.synthetic.trainings import assert_same_training

SMALL = Architecture(layers=1, width=32, feed_forward=32, vision_layers=1, vision_width=16)
RECIPE = Recipe(**SMALL.model_dump(), steps=4, batch=4, warmup=1, validation_questions=24)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return make_network(tmp_path_factory.mktemp("untrained"), RECIPE)


@pytest.fixture(scope="module")
def talks(untrained):
    return TrainingTalks(open_reader(untrained), RECIPE, TRAINING_SEEDS[2])


@pytest.fixture(scope="module")
def whole(one_thread, tmp_path_factory):
    """A checkpoint of four updates in one go."""
    return train(tmp_path_factory.mktemp("whole") / "model", RECIPE, workers=0)


def learned(talks, position):
    example = talks[position]
    tokens = example.input_ids[example.labels != IGNORED]
    return example, talks.reader.tokenizer.decode(tokens)


def test_each_word_of_the_set_and_each_option_is_a_token(talks):
    """So no text has more tokens than words and marks; an option is one."""
    tokenizer = talks.reader.tokenizer
    for index in range(60):
        question = make_clip("bench", 1, index, SIZE, NUM_FRAMES).question
        caption = make_clip("scenes", 1, index, SIZE, NUM_FRAMES).caption
        for text in (question.text, caption):
            pieces = tokenizer.tokenize(text)
            assert len(pieces) <= len(text.split()) + sum(map(text.count, ",?")), pieces
        assert [tokenizer.tokenize(option) for option in question.options] == [[text] for text in question.options]


def test_forms_take_turns(talks):
    """Batches of four: of twenty, five to see, then those with letters alone."""
    many = TrainingTalks(talks.reader, RECIPE.model_copy(update={"steps": 20, "clips": 6}), TRAINING_SEEDS[2])
    bench = [make_clip("bench", TRAINING_SEEDS[2], number, SIZE, NUM_FRAMES).question for number in range(6)]
    captions = {make_clip("scenes", TRAINING_SEEDS[2], number, SIZE, NUM_FRAMES).caption for number in range(6)}
    assert [question.kind for question in bench] == [*QUESTION_TYPES]
    for turn, form in enumerate(
        [FIRST[turn % len(FIRST)] if turn < 5 else THEN[turn % len(THEN)] for turn in range(20)]
    ):
        example, responses = learned(many, 4 * turn + 3)
        answers = responses.removesuffix("<|im_end|>").split("<|im_end|>")
        if form == "caption":
            assert answers[0] in captions
            continue
        possible = {
            "words": [[question.right] for question in bench],
            "letter": [[question.answer] for question in bench],
            "both": [[question.right, letter] for question in bench for letter in "ABCD"],
        }
        assert answers in possible[form]
        assert ("Answer with only the option letter." in example.text) == (form != "words")
        if form == "both":
            assert f"\n{answers[1]}. {answers[0]}\n" in example.text


def test_clips_come_back_and_grow_in_number(talks):
    many = TrainingTalks(talks.reader, RECIPE.model_copy(update={"steps": 9, "clips": 40}), TRAINING_SEEDS[2])
    assert [many.pool(batch) for batch in range(9)] == [10, 10, 10, 20, 20, 20, 40, 40, 40]


def test_a_position_says_everything(talks):
    one, other = talks[7], TrainingTalks(talks.reader, RECIPE, TRAINING_SEEDS[2])[7]
    assert torch.equal(one.input_ids, other.input_ids)
    assert torch.equal(one.pixels["pixel_values_videos"], other.pixels["pixel_values_videos"])
    assert not torch.equal(talks[6].pixels["pixel_values_videos"], one.pixels["pixel_values_videos"])


def test_options_move_and_the_letter_with_them():
    question = make_clip("bench", 1, 0, SIZE, NUM_FRAMES).question
    answers = {in_words(question, np.random.default_rng(seed)).response for seed in range(20)}
    assert answers == set("ABCD")


def test_the_frames_are_those_that_the_default_viewing_shows():
    clip, frames = drawn("bench", 3, 4)
    every = draw(clip.scene, SIZE)[0]
    assert spread(NUM_FRAMES, 4) == list(SEEN)
    assert np.array_equal(frames, every[list(SEEN)])


def test_motion_is_where_the_frames_of_a_pair_differ(talks):
    """One cell of the first pair and one of the second change, the second three times as much."""
    frames = np.full((4, *SIZE, 3), 100, np.uint8)
    frames[1, 16:32, 32:48] += 20
    frames[3, 48:64, 0:16] += 60
    batch = collate([prepared(talks.reader, Conversation([], "What moves?", "the red square"), frames)] * 2)
    expected = torch.zeros(2, 2, 4, 4)
    expected[:, 0, 1, 2], expected[:, 1, 3, 0] = 8, 24  # mean 1 over 32 cells
    torch.testing.assert_close(cell_changes(batch), expected.flatten(1), atol=1e-4, rtol=1e-4)


def test_the_loss_is_the_responses_and_the_rows_distance(untrained, tmp_path):
    """Sample by sample, token by token, row by row."""
    training = VlmTraining(tmp_path / "model", RECIPE.model_copy(update={"steps": 20}), untrained, 1, 0)
    vlm, samples = training.vlm, training.samples()
    found = training.losses(collate([samples[position] for position in (0, 5, 13, 35)])).detach()
    for loss, position in zip(found, (0, 5, 13, 35), strict=True):
        batch = collate([samples[position]])
        ids, labels = batch["input_ids"][0], batch["labels"][0]
        learned = torch.nonzero(labels != IGNORED).flatten()
        begin = int(torch.nonzero(ids == vlm.tokenizer.convert_tokens_to_ids("<|vision_end|>"))) + 1
        rows = torch.tensor([*range(begin, begin + 5), *(learned - 1).tolist()])
        with torch.no_grad():
            maps = vlm.vision_rows(batch, [rows])[0]
            every = replace(request_rows(batch, [rows]), cols=None, col_mask=None)
            text = vlm.forward(batch, every).rows_BRS[0]
            logits = vlm.forward(batch, all_logits=True).logits_BLV[0].log_softmax(-1)
        response = -torch.stack([logits[k - 1, ids[k]] for k in learned.tolist()]).mean()
        away = [(row / row.mean() - cell_changes(batch)[0]).square().mean() for row in maps]
        option = torch.zeros(())
        if "Answer with" in samples[position].text:
            words = vlm.tokenizer.convert_ids_to_tokens(ids.tolist())
            starts = [k for k in range(len(words) - 1) if words[k] in "ABCD" and words[k + 1] == "."]
            shares = [text[-2, k : words.index("Ċ", k)].sum() for k in starts]
            option = -torch.log(shares["ABCD".index(words[learned[-2]])] / sum(shares))
        weighted = RECIPE.align_weight * torch.stack(away).mean() + RECIPE.option_weight * option
        torch.testing.assert_close(loss, response + weighted)


def test_a_resumed_training_is_the_same_bit_for_bit(whole, tmp_path):
    folder = tmp_path / "model"
    assert train(folder, RECIPE, workers=0, stop_after=2) is None
    parts = train(folder, RECIPE, workers=0)
    assert_same_training(whole, parts, 4)


def test_the_card_is_true_or_refused(whole):
    card = read_card(whole)
    assert card.recipe == RECIPE
    assert sum(own.asked for own in card.answers.values()) == 24
    assert load_vlm(whole, torch.float32, "cpu").model.dtype == torch.float32
    config = whole / "config.json"
    text = config.read_text()
    config.write_text(text + " ")
    try:
        with pytest.raises(DataError, match=r"config\.json is"):
            read_card(whole)
    finally:
        config.write_text(text)


def test_seeds_of_others_and_existing_folders_are_refused(whole, talks):
    with pytest.raises(ParameterError, match="clip seed 2"):
        TrainingTalks(talks.reader, RECIPE, 2)
    with pytest.raises(ParameterError, match="exists"):
        train(whole, RECIPE, workers=0)
