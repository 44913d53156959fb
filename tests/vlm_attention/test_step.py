"""The step on real clips and tiny models of all families: maps, coverage, memory, shards, failures, the tuned form."""

import pytest
import torch
from torch.nn import functional

from components.core import artifacts
from components.core.artifacts import PriorSet, VlmMaps
from components.core.errors import DataError
from components.core.records import sha256, smallest_by_hash
from components.core.text import sample_id
from components.core.units import number
from components.media.viewing import Viewing
from components.models.registry import ensure_tiny
from components.models.vlm.example import collate
from components.models.vlm.model import load_vlm
from components.store.entries import Store
from components.store.tensors import unpack
from components.store.transfer import original_name
from components.vlm_attention.maps import WordRows
from components.vlm_attention.step import MAPS, STEP
from tests.arithmetic import rounding
from tests.models.vlm.cases import INTERN, NAMES, QWEN
from tests.runner import changed, load_manifest, metrics, published, put_manifest, run_step
from tests.vlm_attention import made


def run(made_priors, tmp_path, vlm=QWEN, shard="0/1", rerun="0", priors=None, **params):
    folder, _, artifact = made_priors
    params, inputs = {"viewing": made.VIEWING, "maps_for": "all", **params}, {"priors": priors or artifact}
    shared = {"vlm": vlm, "shard": shard}
    return run_step(STEP, tmp_path, folder / "store", params, shared, inputs, rerun, form="frozen")


def maps(outputs):
    return published(outputs, "maps", VlmMaps)


def eager_map(name, line, store, own_positions=False):
    """A_VLM of the selected words from an eager model's full maps, word rows found by decoding token by token.

    With `own_positions` Qwen's model finds its positions itself.
    """
    vlm = load_vlm(ensure_tiny(name), torch.float32, "cpu", rows=False)
    vlm.model.set_attn_implementation("eager")
    example = made.example(vlm, line, store)
    batch = vlm.arguments(collate([example]))
    if own_positions:
        del batch["position_ids"]
        batch["mm_token_type_ids"] = torch.where(batch["input_ids"] == vlm.inputs.visual_id, 2, 0)
        count = len(vlm.family.frames(Viewing(**made.VIEWING), line.video))
        batch["second_per_grid_ts"] = torch.tensor([2 * line.video.duration / count])
    with torch.no_grad():
        out = vlm.model(**batch, output_attentions=True)
    full_NN = torch.stack([layer[0].double().mean(0) for layer in out.attentions]).mean(0)
    start = example.text.rindex(line.sample.response)
    rows = []
    for piece in (piece for piece in line.pieces if piece.selected):
        shared = []
        for begin, end in example.offsets.tolist():
            begin += example.text[begin:end].startswith(" ")
            shared.append(max(0, min(end, start + piece.end) - max(begin, start + piece.start)))
        weights = torch.tensor(shared, dtype=torch.float64)
        rows.append((weights / weights.sum()) @ full_NN)
    return torch.stack(rows)[:, example.video_columns].reshape(-1, *example.grid.shape)


@pytest.mark.parametrize("name", NAMES)
def test_map_is_the_eager_models_and_the_distance_the_mean_square_of_densities(made_priors, tmp_path, name):
    store = Store(str(made_priors[0] / "store"))
    found = next(iter(maps(run(made_priors, tmp_path, name, grid="interpolate")).lines))
    tensors = unpack(store.read(found.vlm_map))
    seen = eager_map(name, found, store)[None]
    wanted = functional.interpolate(seen, found.grid.shape, mode="trilinear", align_corners=False)[0]
    assert (tensors["map"].double() - wanted).abs().max() < rounding(64, size=float(wanted.max()))  # its width
    prior = unpack(store.read(found.prior))["prior"].double()
    density = wanted / wanted.mean((1, 2, 3), keepdim=True)
    distance = (density - prior / prior.mean((1, 2, 3), keepdim=True)).square().mean()
    assert found.distance == pytest.approx(float(distance), rel=1e-4)
    assert found.coverage == 1.0


def test_token_maps_of_a_hundred_clips_decode_no_frame_and_load_no_weights(made_priors, tmp_path, monkeypatch):
    """Nobody has the clips' files: only their manifest is there. By default a map is computed for pictures alone."""
    folder, lines, _ = made_priors
    store, whole = Store(str(folder / "store")), load_vlm(ensure_tiny(QWEN), torch.float32, "cpu")
    lengths = [len(made.example(whole, line, store).input_ids) for line in lines]
    clips, expected = [], {}
    for k in range(100):
        line = lines[k % len(lines)]
        digest = sha256(str(k).encode())
        file = line.video.file.model_copy(update={"path": f"videos/{digest}.mp4", "sha256": digest})
        name = sample_id(digest, line.sample.question, [], line.sample.response, [])
        sample = line.sample.model_copy(update={"id": name})
        video = line.video.model_copy(update={"file": file})
        clips.append(line.model_copy(update={"video": video, "sample": sample, "key": digest[:32]}))
        expected[name] = lengths[k % len(lines)]
    monkeypatch.setattr("av.open", lambda *_, **__: pytest.fail("a video was opened"))
    monkeypatch.setattr("components.models.vlm.model.load_vlm", lambda *_, **__: pytest.fail("a model was loaded"))
    inputs = {"priors": made.prior_set(tmp_path / "priors", clips, made_priors[0] / "store")}
    params, shared = {"viewing": made.VIEWING, "pictures": 0}, {"vlm": QWEN, "shard": "0/1"}
    found = maps(run_step(STEP, tmp_path, folder / "store", params, shared, inputs, form="frozen")).lines
    assert {line.sample.id: line.tokens for line in found} == expected
    assert len(found) == 100
    assert all(line.coverage == 1.0 and line.vlm_map is None for line in found)


def test_the_rule_of_positions_reaches_the_map(made_priors, tmp_path):
    """Under `transformers` it is the plain model's that is given no positions; the token map is the same."""
    store, viewing = Store(str(made_priors[0] / "store")), {**made.VIEWING, "positions": "transformers"}
    found = next(iter(maps(run(made_priors, tmp_path, grid="interpolate", viewing=viewing)).lines))
    qwen = next(iter(maps(run(made_priors, tmp_path, grid="interpolate")).lines))
    assert store.read(found.token_map) == store.read(qwen.token_map)
    tensors, other = (unpack(store.read(line.vlm_map))["map"].double() for line in (found, qwen))
    seen = eager_map(QWEN, found, store, own_positions=True)[None]
    wanted = functional.interpolate(seen, found.grid.shape, mode="trilinear", align_corners=False)[0]
    close = rounding(64, size=float(wanted.max()))
    assert (tensors - wanted).abs().max() < close
    assert (other - wanted).abs().max() > 4 * close


def test_second_run_computes_nothing_and_publishes_the_same_bytes(made_priors, tmp_path, monkeypatch):
    first = run(made_priors, tmp_path)
    monkeypatch.setattr("components.models.vlm.model.load_vlm", lambda *_, **__: pytest.fail("a model was loaded"))
    second = run(made_priors, tmp_path)
    assert metrics(second)["share_remembered"] == 1.0
    assert (second["maps"] / "manifest.json").read_bytes() == (first["maps"] / "manifest.json").read_bytes()


def test_preview_shows_four_pictured_samples_that_have_a_map(made_priors, tmp_path):
    found = maps(run(made_priors, tmp_path, pictures=5))
    page = run(made_priors, tmp_path, pictures=5)["preview"].read_text()
    shown = smallest_by_hash([line.sample.id for line in found.lines], 4)
    assert [part.split('"')[0] for part in page.split('<section id="')[1:]] == shown
    for line in found.lines:
        text = f"coverage {line.coverage:.0%} of the selected words · distance to the prior {number(line.distance)}"
        assert (text in page) is (line.sample.id in shown)
    assert page.count("<b>the VLM&#39;s own map</b>") == 4
    assert "No pictured sample" in run(made_priors, tmp_path, pictures=0, maps_for="pictures")["preview"].read_text()


@pytest.mark.parametrize("kept", [0, 2])
def test_more_samples_may_be_pictured_than_a_head_names(made_priors, monkeypatch, kept):
    """A head names the first 64; one of version 1 none."""
    found = load_manifest(made_priors[2], PriorSet, made_priors[0] / "store")
    every = smallest_by_hash([line.sample.id for line in found.lines], 6)
    monkeypatch.setattr(artifacts, "SMALLEST", 2)
    priors = changed(found, first_by_hash=every[:kept])
    assert [priors.smallest(count) for count in (0, 1, 2, 5)] == [every[:count] for count in (0, 1, 2, 5)]


def test_shards_divide_the_videos(made_priors, tmp_path):
    parts = [maps(run(made_priors, tmp_path, shard=f"{k}/2")).lines for k in range(2)]
    whole = maps(run(made_priors, tmp_path)).lines
    assert [line.sample.id for part in parts for line in part] == [line.sample.id for line in whole]
    assert [{int(line.video.id, 16) >> 255 for line in part} for part in parts] == [{0}, {1}]


def test_maps_for_pictures_keeps_token_maps_for_all(made_priors, tmp_path):
    lines = maps(run(made_priors, tmp_path, INTERN, maps_for="pictures", pictures=2)).lines
    shown = smallest_by_hash([line.sample.id for line in lines], 2)
    assert {line.sample.id for line in lines if line.vlm_map} == set(shown)
    assert all(line.coverage == 1.0 for line in lines)
    full = maps(run(made_priors, tmp_path, INTERN, maps_for="all")).lines
    assert [line.key for line in full] == [line.key for line in lines]


def test_low_coverage_fails_the_sample(made_priors, tmp_path):
    _, lines, _ = made_priors
    pieces = [piece.model_copy(update={"end": piece.start}) for piece in lines[0].pieces]
    bad = lines[0].model_copy(update={"pieces": pieces, "key": "0" * 32})
    priors = made.prior_set(tmp_path / "bad", [bad, *lines[1:]], made_priors[0] / "store")
    with pytest.raises(DataError, match="coverage"):
        run(made_priors, tmp_path, priors=priors)
    kept = maps(run(made_priors, tmp_path, priors=priors, max_failed=0.5))
    assert [item.unit for item in kept.left_out] == [bad.called]
    assert bad.sample.id not in [line.sample.id for line in kept.lines]


def test_a_sample_about_an_image_is_refused_by_name(made_priors, tmp_path):
    _, lines, _ = made_priors
    image = lines[0].video.model_copy(update={"kind": "image", "name": "pictures/cat.png"})
    still = lines[0].model_copy(update={"video": image, "key": "1" * 32})  # not remembered
    priors = made.prior_set(tmp_path / "still", [still, *lines[1:]], made_priors[0] / "store")
    with pytest.raises(DataError, match=r"an image has no motion: pictures/cat\.png"):
        run(made_priors, tmp_path, priors=priors)
    kept = maps(run(made_priors, tmp_path, priors=priors, max_failed=0.5))
    assert [item.unit for item in kept.left_out] == [still.called]


def test_a_damaged_map_is_computed_again_on_rerun_only(made_priors, tmp_path):
    store = Store(str(made_priors[0] / "store"))
    ref = next(iter(maps(run(made_priors, tmp_path)).lines)).vlm_map
    assert ref.path.startswith(MAPS)
    good = store.read(ref)
    store.backend.put(ref.path, b"damaged")
    run(made_priors, tmp_path)
    assert store.backend.get(ref.path) == b"damaged"
    assert metrics(run(made_priors, tmp_path, rerun="again"))["share_remembered"] < 1
    assert store.read(ref) == good


def test_without_mtti_the_prior_has_one_row_and_so_has_the_map(made_priors, tmp_path):
    store = Store(str(made_priors[0] / "store"))
    plain = next(iter(maps(run(made_priors, tmp_path)).lines))
    prior = unpack(store.read(plain.prior))["prior"].mean(0, keepdim=True)
    origin = next(line for line in made_priors[1] if line.sample.id == plain.sample.id)
    ref = made.put(store, "fixture/pooled.safetensors", made.pack({"prior": prior}))
    pooled = origin.model_copy(update={"prior": ref, "key": "1" * 32})
    priors = made.prior_set(tmp_path / "pooled", [pooled], made_priors[0] / "store")
    (found,) = maps(run(made_priors, tmp_path, priors=priors)).lines
    mean = unpack(store.read(plain.vlm_map))["map"].mean(0, keepdim=True)
    assert torch.allclose(unpack(store.read(found.vlm_map))["map"], mean, rtol=1e-5, atol=1e-9)
    data = store.read(plain.token_map)
    with pytest.raises(DataError, match="a prior of 99 rows"):
        WordRows.unpack(data, 99, "sample")


def test_tuned_form_reads_a_stored_model_for_the_pictured_samples(made_priors, tmp_path):
    folder, lines, artifact = made_priors
    frozen = maps(run(made_priors, tmp_path))
    model = made.tuned_model(Store(str(folder / "store")), ensure_tiny(QWEN), frozen.provenance, frozen.lines)
    assert {original_name(ref) for ref in model.files} == {file.name for file in ensure_tiny(QWEN).iterdir()}
    params, task = {"viewing": made.VIEWING, "pictures": 3}, "tuned_attention"

    def run_tuned(key):
        manifest = put_manifest(tmp_path / key, model.model_copy(update={"key": key}))
        inputs = {"priors": artifact, "model": manifest}
        return maps(run_step(STEP, tmp_path, folder / "store", params, {}, inputs, form="tuned", task=task))

    found, twin = run_tuned(model.key), run_tuned("e" * 32)
    assert found.shard == "0/1"
    assert {line.sample.id for line in found.lines} == set(smallest_by_hash([line.sample.id for line in lines], 3))
    before = {line.sample.id: line for line in frozen.lines}
    for line in found.lines:  # the same weights: the same map, under a key of its own
        assert line.key != before[line.sample.id].key
        assert line.vlm_map.sha256 == before[line.sample.id].vlm_map.sha256
    assert not {line.key for line in twin.lines} & {line.key for line in found.lines}
