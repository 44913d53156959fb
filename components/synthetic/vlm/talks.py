"""What the small vision-language model learns from: conversations about clips of reserved seeds, drawn as needed.

All conversations of a batch have one form, and forms take turns: `words` asks a question of the `bench` without its
options; `letter` asks it as MotionBench's prompt does; `both` does one after the other, so that the letter can be read
from the words; `caption` asks to describe a clip of the `scenes`. A first part of the training is to see, and to find
the option with given words; the second to answer by letters alone. Clips come back: at first there are few, which is
what makes so small a model look at them at all, and their number grows. Every response is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import UInt8
from torch.utils.data import Dataset

from components.benchmarks.motionbench import prompt
from components.core.errors import ParameterError
from components.core.records import Option
from components.models.vlm.example import IGNORED, Example
from components.models.vlm.interface import Conversation
from components.models.vlm.reader import Reader
from components.synthetic.drawing import Camera
from components.synthetic.questions import Question
from components.synthetic.scenes import Clip, draw, make_clip
from components.synthetic.vlm.network import FPS, NUM_FRAMES, SEEN, SIZE, TRAINING_SEEDS, VIEWING, Recipe

INSTRUCTION = "Describe the motion in this video in detail."
FIRST, THEN = ("both", "words"), ("letter", "both", "letter", "words", "letter", "caption")
SEEING = 0.25  # of the training, its first part
PARTS = 3  # of the training, by the number of clips


class TrainingTalks(Dataset[Example]):
    """Item p is the conversation at position p of the run with this seed; it follows from nothing else.

    Args:
        reader: the model's.
        recipe: whose number of updates, batch and noise count.
        seed: one of `TRAINING_SEEDS`.

    Raises:
        ParameterError: a seed outside the reserved range.
    """

    def __init__(self, reader: Reader, recipe: Recipe, seed: int) -> None:
        if seed not in TRAINING_SEEDS:
            remedy = f"choose {TRAINING_SEEDS[0]} to {TRAINING_SEEDS[-1]}: other seeds may be those of test videos"
            raise ParameterError(f"clip seed {seed}", source="TrainingTalks", remedy=remedy)
        self.reader, self.recipe, self.seed = reader, recipe, seed
        self._drawn = lru_cache(maxsize=2 * recipe.clips)(drawn)

    def __getitem__(self, position: int) -> Example:
        rng, batch = np.random.default_rng([self.seed, position]), position // self.recipe.batch
        forms = FIRST if batch < SEEING * self.recipe.steps else THEN
        form, number = forms[batch % len(forms)], int(rng.integers(self.pool(batch)))
        clip, frames = self._drawn("scenes" if form == "caption" else "bench", self.seed, number)
        noisy = np.clip(np.round(frames + rng.normal(0, self.recipe.noise, frames.shape)), 0, 255).astype(np.uint8)
        return learned_throughout(prepared(self.reader, conversation(clip, form, rng), noisy), self.reader)

    def pool(self, batch: int) -> int:
        """Return how many clips of each preset there are at a batch: twice as many in every next part of the run."""
        part = min(batch * PARTS // self.recipe.steps, PARTS - 1)
        return max(1, self.recipe.clips >> (PARTS - 1 - part))


def conversation(clip: Clip, form: str, rng: np.random.Generator) -> Conversation:
    """Return a conversation of a form; the options of `both` stand in another order."""
    if clip.question is None:
        return Conversation([], INSTRUCTION, clip.caption)
    if form == "words":
        return Conversation([], clip.question.text, clip.question.right)
    return by_letter(clip.question) if form == "letter" else in_words(clip.question, rng)


def prepared(reader: Reader, talk: Conversation, frames: UInt8[np.ndarray, "n H W 3"]) -> Example:
    """Return a conversation about the frames of a clip that the model sees."""
    return reader.prepare(talk, frames, [index / FPS for index in SEEN], NUM_FRAMES / FPS, VIEWING)


def learned_throughout(example: Example, reader: Reader) -> Example:
    """Return the conversation with the responses of its earlier turns learned as well, each to the end of its turn."""
    begins = reader.tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    end = reader.tokenizer.convert_tokens_to_ids(reader.family.end_of_turn)
    ids, learned, inside = example.input_ids.tolist(), list[bool](), False
    for k, token in enumerate(ids):
        inside = inside or ids[max(0, k - len(begins)) : k] == begins
        learned.append(inside)
        inside = inside and token != end
    return replace(example, labels=torch.where(torch.tensor(learned), example.input_ids, IGNORED))


def drawn(preset: str, seed: int, number: int) -> tuple[Clip, UInt8[np.ndarray, "n H W 3"]]:
    """Return a clip and those of its frames that the model sees."""
    clip = make_clip(preset, seed, number, SIZE, NUM_FRAMES)
    scene, at = clip.scene, list(SEEN)
    camera = Camera(scene.camera.shifts[at], scene.camera.zooms[at])
    bodies = [
        replace(body, centres=body.centres[at], scales=body.scales[at], turns=body.turns[at]) for body in scene.bodies
    ]
    return clip, draw(replace(scene, bodies=tuple(bodies), camera=camera), SIZE)[0]


def by_letter(question: Question, earlier: Sequence[tuple[str, str]] = ()) -> Conversation:
    """Return the question with its options, as MotionBench's prompt asks it, and the letter of the right one."""
    options = [Option(letter=letter, text=text) for letter, text in zip("ABCD", question.options, strict=True)]
    return Conversation(earlier, prompt(question.text, options), question.answer)


def in_words(question: Question, rng: np.random.Generator) -> Conversation:
    """Return the question without options, answered in words, and then with its options in another order."""
    options = tuple(str(text) for text in rng.permutation(question.options))
    moved = replace(question, options=options, answer="ABCD"[options.index(question.right)])
    return by_letter(moved, [(question.text, question.right)])
