"""The vision-language model that travels with the package: its card is true, and it answers questions about motion."""

from components.benchmark_eval.step import STEP as EVALUATE
from components.core.artifacts import EvalResult
from components.dataset_import.step import STEP as IMPORT
from components.models.registry import SHIPPED, resolve
from components.store.entries import Store
from components.synthetic.scenes import write_set
from components.synthetic.vlm.card import read_card
from components.synthetic.vlm.network import TRAINING_SEEDS, Recipe
from tests.runner import published, run_step

NAME = "scenes-qwen2.5-vl"
FOLDER = SHIPPED[NAME].path
SEED = 4711  # of no other set
CHANCE = 1 / 4  # of the set's four options


def answers(folder, count):
    """The result of the untouched model on a new bench of `count` clips, imported and asked as in a run."""
    write_set(folder / "bench", "bench", count, SEED)
    store, given = folder / "store", f"motionbench={folder / 'bench'}"
    params = {"processes": 1, "allow_subset": True}
    imported = run_step(
        IMPORT, folder, store, params, {"benchmarks": [given]}, form="benchmark", task="benchmark_import"
    )
    shared, inputs = {"vlm": NAME, "benchmark": given}, {"videos": imported["videos"]}
    return published(run_step(EVALUATE, folder, store, {}, shared, inputs, form="untouched"), "result", EvalResult)


def overall(result):
    return next(score for score in result.scores if score.name == "Overall")


def test_its_card_is_true():
    card = read_card(FOLDER)  # recomputes every digest
    assert sum(size for size, _ in card.files.values()) <= 2_000_000
    assert card.recipe == Recipe()  # the documented command, without options
    assert card.scene_seed == TRAINING_SEEDS[card.recipe.seed]
    assert card.reserved_seeds == (TRAINING_SEEDS[0], TRAINING_SEEDS[-1])
    assert not [path.name for path in FOLDER.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_its_name_finds_it(tmp_path):
    found = resolve(NAME, Store(tmp_path.as_uri()))
    assert (found.path, found.id.name, found.id.digest) == (FOLDER, NAME, read_card(FOLDER).digest)


def test_it_answers_in_letters_above_chance(tmp_path):
    score = overall(answers(tmp_path, 250))
    assert score.n == 240
    assert score.low / 100 > CHANCE + 0.05
    assert score.unparsed <= 0.02 * score.n
