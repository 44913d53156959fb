"""The model that travels with the package: its card is true, it is found by its name, and it has learned."""

from components.models.registry import SHIPPED, resolve
from components.models.video import load_vdm
from components.store.entries import Store
from components.synthetic.cards import PAGE, RECORD
from components.synthetic.vdm.card import Card, read_card
from components.synthetic.vdm.network import TRAINING_SEEDS, Recipe, latent_grid, make_denoiser
from components.synthetic.vdm.train import validation_losses

FOLDER = SHIPPED["scenes-cogvideox"].path


def test_its_card_is_true():
    card = read_card(FOLDER)  # recomputes every digest
    assert sum(size for size, _ in card.files.values()) <= 6_000_000
    assert 1_000_000 <= sum(card.parameters[part] for part in ("transformer", "text_encoder")) <= 1_500_000
    assert card.recipe == Recipe()  # the documented command, without options
    assert card.scene_seed == TRAINING_SEEDS[card.recipe.seed]
    assert card.reserved_seeds == (TRAINING_SEEDS[0], TRAINING_SEEDS[-1])
    assert not [path.name for path in FOLDER.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_the_larger_models_card_stands_beside_it():
    """Its weights do not; the page tells the same files, losses and command as the record."""
    folder = FOLDER.with_name("larger")
    card, page = Card.model_validate_json((folder / RECORD).read_bytes()), (folder / PAGE).read_text()
    assert (card.recipe.heads, latent_grid(card.num_frames)[0]) == (16, 9)
    assert (card.scene_seed, card.validation_seed) == (TRAINING_SEEDS[card.recipe.seed], TRAINING_SEEDS[-1])
    changed = {name: value for name, value in card.recipe.model_dump().items() if value != getattr(Recipe(), name)}
    assert "FOLDER " + " ".join(f"--{name.replace('_', '-')} {value}" for name, value in changed.items()) in page
    assert " | ".join(f"{loss:.4f}" for loss in card.losses) in page
    assert all(f"| `{path}` | {size} | `{digest}` |" in page for path, (size, digest) in card.files.items())
    assert card.digest in page


def test_its_name_finds_it(tmp_path):
    found = resolve("scenes-cogvideox", Store(tmp_path.as_uri()))
    assert (found.path, found.id.name, found.id.digest) == (FOLDER, "scenes-cogvideox", read_card(FOLDER).digest)


def test_it_has_learned():
    """Its loss on unseen clips, through the loader of every pipeline run, is near the card's; a fresh one's is not."""
    vdm = load_vdm(FOLDER, "float32")
    trained, few = make_denoiser(0), Recipe(validation_clips=5)
    trained.transformer.load_state_dict(vdm.transformer.state_dict())
    trained.text_encoder.load_state_dict(vdm.text_encoder.state_dict())
    losses, fresh = validation_losses(trained.eval(), few), validation_losses(make_denoiser(1).eval(), few)
    said = read_card(FOLDER).losses
    assert all(abs(found - wanted) < 0.5 * wanted for found, wanted in zip(losses, said, strict=True))
    assert all(found < 0.9 * other for found, other in zip(losses, fresh, strict=True))
