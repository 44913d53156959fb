"""The small vision-language model: its sizes and recipe, vocabulary, and the folder that `load_vlm` opens.

Qwen2.5-VL's own class, every part of it narrow: patches of 8 × 8 pixels in pairs of frames, cells of 16 × 16. The
tokenizer is a byte-level BPE that reads any text; each word of the synthetic set is one token, and so is each text that
an option may have: to find the right option is then to find one token.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from tokenizers import AddedToken

from components.core.records import Record
from components.media.viewing import Viewing
from components.models.vlm.qwen2_5_vl import CONTROL, fps_indices, qwen_template, write_small
from components.models.vlm.twins import byte_tokenizer, small_llm
from components.synthetic.questions import ANSWERS
from components.synthetic.recipe import Optimization
from components.synthetic.scenes import VOCABULARY

SIZE, NUM_FRAMES, FPS = (64, 64), 17, 8.0  # of a clip, as `synthesize` writes it
VIEWING = Viewing.model_validate({})  # the default: four of its frames
TRAINING_SEEDS = range(7_350_000, 7_351_000)  # of `scenes` and `bench`: reserved, no test, smoke or bench may use one
VALIDATION_SEED = TRAINING_SEEDS[-1]  # its clips are never trained on: the accuracy on the card
SEEN = tuple(fps_indices(NUM_FRAMES / FPS, NUM_FRAMES, VIEWING.fps))
PATCH = 8
_WORDS = """
    a also and answer are at by camera centre clip describe detail do does down end grows here how in is it jump
    letter lower many motion move moves moving no object of on only option or order out pans shrinks spins stands
    starts stay stays still that the then this three tilts times to up upper video what where which while with zooms
    yes"""
_ROLES = ("user", "assistant")


class Architecture(Record):
    """Sizes of the network."""

    layers: int = Field(default=4, ge=1, description="layers of the language model")
    width: int = Field(default=64, ge=32, multiple_of=32, description="of the language model, in four heads")
    feed_forward: int = Field(default=128, ge=1, description="of the language model's layers")
    vision_layers: int = Field(default=1, ge=1, description="blocks of the vision tower")
    vision_width: int = Field(default=48, ge=16, multiple_of=16, description="of the vision tower, in four heads")


class Recipe(Optimization, Architecture):
    """What decides a training's result."""

    steps: int = Field(default=6000, ge=1, description="updates")
    batch: int = Field(default=16, ge=1, description="conversations per update")
    learning_rate: float = Field(default=2e-3, gt=0, description="peak of AdamW")
    beta2: float = Field(default=0.98, ge=0, lt=1, description="decay of AdamW's mean square gradients")
    ema: float = Field(default=0.998, ge=0, lt=1, description="decay of the averaged weights, which are what is saved")
    align_weight: float = Field(default=3.0, ge=0, description="weight of the attention's distance from motion")
    option_weight: float = Field(default=0.5, ge=0, description="weight of the attention on other options")
    clips: int = Field(default=6400, ge=1, description="of each preset, at the end of the training")
    noise: float = Field(default=4.0, ge=0, description="deviation of the noise on the frames, of 255")
    seed: int = Field(default=0, ge=0, lt=999, description="of the initialization and of the clips")
    validation_questions: int = Field(
        default=480, ge=24, multiple_of=24, description="unseen ones, whose answers are on the card"
    )


def make_network(folder: Path, recipe: Recipe) -> Path:
    """Write the untrained model into `folder`, and return the folder."""
    words = sorted({*VOCABULARY, *_WORDS.split()})
    spaced = [f"Ġ{word}" for word in [*words, "It", "In", "The"]]  # first: a piece's merges come before its end's own
    pieces = [*spaced, *(word.capitalize() for word in words), "the", *_ROLES]
    tokenizer = byte_tokenizer(CONTROL, "<|endoftext|>", qwen_template(system=""), words=pieces)
    tokenizer.add_tokens([AddedToken(answer, normalized=False) for answer in ANSWERS if len(answer) > 1])
    # fast axes tell rows and columns apart, slow ones match what stands far apart: a head has few, so theta is small
    rope = {"rope_theta": 500.0, "mrope_section": [1, 1, recipe.width // 8 - 2]}
    text = small_llm(tokenizer, **rope) | {
        "hidden_size": recipe.width,
        "intermediate_size": recipe.feed_forward,
        "num_hidden_layers": recipe.layers,
        "max_position_embeddings": 2048,
        "initializer_range": 0.1,
    }
    vision = {
        "depth": recipe.vision_layers,
        "hidden_size": recipe.vision_width,
        "intermediate_size": 2 * recipe.vision_width,
        "num_heads": 4,
        "patch_size": PATCH,
        "window_size": SIZE[0],
        "fullatt_block_indexes": [recipe.vision_layers - 1],
        "initializer_range": 0.1,
    }
    return write_small(folder, tokenizer, text, vision, recipe.seed, initializer_range=0.1)
