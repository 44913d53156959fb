"""The inversion's pictures: their numbers, their work of their own, and what an emptied scratch changes."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from components.core.artifacts import Trajectories, VideoDataset
from components.core.errors import DataError
from components.core.records import smallest_by_hash
from components.ddim_inversion import video
from components.ddim_inversion.ddim import invert, step_residuals
from components.ddim_inversion.pictures import psnr, root_mean_squares
from components.ddim_inversion.settings import InversionSettings
from components.ddim_inversion.step import STEP
from components.models.video.noise import DiffusionLevels, diffusion_levels, flow_levels
from components.runtime.declaration import declared
from components.store.entries import Store
from components.store.tensors import unpack
from components.synthetic.scenes import write_set
from tests.chain import SMALL
from tests.runner import metrics, published, put_manifest, run_step

ALPHAS = torch.linspace(0.99, 0.0, 1000, dtype=torch.float64)


def test_residuals_of_a_solved_inversion_are_those_it_reported():
    def velocity(x, t):
        return torch.sin(x) * (1 + t / 1000)

    clean = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    schedule = diffusion_levels(ALPHAS, 6)
    solved = invert(velocity, clean, schedule, fixed_point_iters=4)
    assert step_residuals(velocity, solved.trajectory, schedule) == pytest.approx(solved.residuals, rel=1e-9)
    plain = step_residuals(velocity, invert(velocity, clean, schedule).trajectory, schedule)
    assert all(good < bad for good, bad in zip(solved.residuals, plain, strict=True))


def test_independent_noise_has_the_expected_size():
    generator = torch.Generator().manual_seed(0)
    clean = 2.0 + 0.5 * torch.randn(40, 4, 20, 20, generator=generator)
    noise = [torch.randn(clean.shape, generator=generator) for _ in range(4)]
    diffusion = DiffusionLevels(torch.tensor([1, 2, 3]), torch.tensor([1.0, 0.7, 0.2, 0.0], dtype=torch.float64))
    noised = [a.sqrt() * clean + (1 - a).sqrt() * each for a, each in zip(diffusion.alpha_bar, noise, strict=True)]
    measured, expected = root_mean_squares(torch.stack(noised), diffusion)
    assert measured == pytest.approx(expected, rel=0.01)
    assert expected == pytest.approx([(4.25 * a + 1 - a) ** 0.5 for a in (1.0, 0.7, 0.2, 0.0)], rel=0.01)
    flow = flow_levels([0.3, 0.8, 1.0], 1000)
    noised = [(1 - s) * clean + s * each for s, each in zip(flow.sigma, noise, strict=True)]
    measured, expected = root_mean_squares(torch.stack(noised), flow)
    assert measured == pytest.approx(expected, rel=0.01)
    assert expected == pytest.approx([(4.25 * (1 - s) ** 2 + s**2) ** 0.5 for s in (0.0, 0.3, 0.8, 1.0)], rel=0.01)


def test_psnr_by_hand():
    black = torch.zeros(1, 2, 2, 3, dtype=torch.uint8).numpy()
    assert psnr(black, black) == 100
    assert psnr(black, black + 255) == pytest.approx(0)
    assert psnr(black, black + 51) == pytest.approx(13.979, abs=1e-3)  # 20·log10(5)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inversion")
    write_set(folder / "set", "scenes", 3, seed=5, size=(64, 64), num_frames=17)
    shared = {"source": str(folder / "set")}
    videos = run_step(declared("dataset_import"), folder, folder / "store", {}, shared, form="training")["videos"]
    return folder, videos


def run(world, tmp_path, **params):
    folder, videos = world
    shared = {"vdm": "tiny-cogvideox", "num_steps": 2, "shard": "0/1"}
    return run_step(STEP, tmp_path, folder / "store", {**SMALL["ddim_inversion"], **params}, shared, {"videos": videos})


def works(world):
    return sorted(file.parent.name for file in (world[0] / "store" / "ddim_inversion_pictures").glob("*/entry.json"))


def test_pictures_are_work_of_their_own(world, tmp_path, monkeypatch):
    none = run(world, tmp_path, pictures=0)
    assert "No pictured video" in none["preview"].read_text()
    assert not works(world)
    one = run(world, tmp_path, pictures=1)
    assert metrics(one)["share_remembered"] == 1
    assert metrics(one)["units"] == 3  # a picture is no unit
    first = works(world)
    assert len(first) == 1
    two = run(world, tmp_path, pictures=2)
    assert set(first) < set(works(world))
    assert len({(outputs["trajectories"] / "manifest.json").read_bytes() for outputs in (none, one, two)}) == 1
    page = two["preview"].read_text()
    assert page.count("<section") == 2
    assert page.count("what the VAE keeps, ") == 12
    assert len(page) < 1_000_000
    monkeypatch.setattr("components.models.video.load_vdm", lambda *_: pytest.fail("a model was loaded"))
    assert run(world, tmp_path, pictures=2)["preview"].read_text() == page


def test_an_image_is_refused_by_name_before_a_model_is_loaded(world, tmp_path, monkeypatch):
    (line, *_), folder = published({"videos": world[1]}, "videos", VideoDataset).lines, tmp_path / "videos"
    still = line.model_copy(update={"video": line.video.model_copy(update={"kind": "image", "name": "cat.png"})})
    put_manifest(folder, VideoDataset(kind="VideoDataset", provenance={}, lines=[still]), world[0] / "store")
    monkeypatch.setattr("components.models.video.load_vdm", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(DataError, match=r"cat\.png: an image has no motion"):
        run((world[0], folder), tmp_path, num_frames=13)  # not remembered


def test_numbers_are_those_of_the_stored_trajectory(world, tmp_path):
    store, done = world[0] / "store", run(world, tmp_path, pictures=1)
    lines = {line.video.id: line for line in published(done, "trajectories", Trajectories).lines}
    (name,) = smallest_by_hash(list(lines), 1)
    entries = [json.loads(file.read_text()) for file in (store / "ddim_inversion_pictures").glob("*/entry.json")]
    (found,) = [entry["numbers"] for entry in entries if entry["unit"] == name]
    noise = unpack(Store(str(store)).read(lines[name].latents))["latents"][-1]
    assert found["rms"] == pytest.approx(float(noise.double().square().mean().sqrt()))
    assert found["expected"] == pytest.approx(1.0, abs=1e-6)  # zero terminal SNR
    assert len(found["residuals"]) == 2


def test_an_emptied_scratch_gives_the_same_picture(world, tmp_path):
    page = run(world, tmp_path, pictures=1)["preview"].read_text()
    store = world[0] / "store"
    assert any((store / "scratch").rglob("*.safetensors"))
    shutil.rmtree(store / "scratch")
    shutil.rmtree(store / "ddim_inversion_pictures")
    assert run(world, tmp_path, pictures=1)["preview"].read_text() == page
    assert not (store / "scratch").exists()  # a reader writes nothing there


def test_latents_inverted_again_come_back_where_stored_ones_do(monkeypatch):
    """On a GPU the latents lie there, and the pictures' other numbers on the CPU; `meta` stands for that device."""
    latents = torch.zeros(3, 1, 4, 2, 2, device="meta")
    monkeypatch.setattr(video, "invert_video", lambda *_: SimpleNamespace(latents=latents))
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: torch.zeros(tensor.shape))
    frames = video.SampledClip(torch.zeros(1, 1, 1, 3, dtype=torch.uint8), [0], [0.0], (0.0, 1.0, 0.0, 1.0))
    found = video.trajectory_of(frames, lambda: None, InversionSettings(), 2)
    assert (found.shape, found.device.type) == (latents.shape, "cpu")
