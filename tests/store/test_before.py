"""A store and exported folders from before manifests had parts (`make_before.py`): still read, remembered and moved."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from components.core.artifacts import HeadSelection, PriorSet, TunedModel, VlmMaps, parse_manifest
from components.core.records import canonical_json, sha256
from components.models import registry
from components.prior_set.reading import read_priors
from components.prior_set.step import STEP as PRIOR_SET
from components.store.entries import Store
from components.store.tensors import unpack
from components.store.transfer import references
from components.vlm_attention.step import STEP as VLM_ATTENTION
from tests.chain import Chain
from tests.command import motion_enhancer
from tests.runner import load_manifest, run_step
from tests.vlm_attention.made import VIEWING

PRIORS = "9bc8e5575b77b92a2c66c7b52f2199dd0d63a0619bfe35e15e5832570530e2ef"
MODEL = "f3fdab552adb227bcac06f13ef76cbfae755a0721c3edd6ac8a82996328cc4f6"
KINDS = [("priors", PRIORS, PriorSet), ("model", MODEL, TunedModel)]


@pytest.fixture
def before(tmp_path):
    with tarfile.open(Path(__file__).with_name("before.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.fixture
def store(before):
    return Store((before / "store").as_uri())


def raw(store, digest):
    data = store.backend.get(f"manifests/{digest}.json")
    assert sha256(data) == digest
    return json.loads(data)


@pytest.mark.parametrize(("name", "digest", "kind"), KINDS)
def test_its_manifests_open_by_their_digests(store, name, digest, kind):
    opened, lines = store.manifest(digest, kind), raw(store, digest)["lines"]
    assert opened.digest == digest
    assert [line.model_dump(mode="json") for line in opened.lines.given or []] == lines
    assert store.publish(opened) == digest
    assert not list(store.backend.walk("manifests/parts"))
    places = [(line.video.id, line.sample.id) for line in opened.lines]
    assert (len(places), places) == (3, sorted(places))
    assert all(store.pieces(line) == line.pieces for line in opened.lines)


def test_a_line_that_does_not_have_its_tokens_keeps_its_digest(store):
    """As before vlm_attention noted the length of the conversation."""
    found = raw(store, MODEL)
    assert all(line.pop("tokens") > 0 for line in found["lines"])
    data = canonical_json(found)
    assert parse_manifest(data, TunedModel, "before").digest == sha256(data)


def test_its_work_is_remembered(before, store, monkeypatch):
    """Whatever the tiny twin is with today's packages: where all is remembered, no model is opened."""
    old = store.manifest(PRIORS, PriorSet)
    (model,) = {record.models["vdm"] for record in old.provenance.values() if "vdm" in record.models}
    monkeypatch.setattr(registry, "_folder_digest", lambda path, store: model.digest)
    chain = Chain(before, store.uri, before / "source")
    heads = chain.task("head_selection", {"maps": chain.capture()})["heads"]
    assert (chain.counts["ddim_inversion"], chain.counts["attention_capture"]) == (0, 0)
    lines = list(old.lines)
    assert [line.heads for line in load_manifest(heads, HeadSelection).lines] == [line.heads for line in lines]
    parts = [chain.task("token_selection", {"heads": heads}, shard=shard)["prior"] for shard in chain.shards]
    new = load_manifest(chain.task("prior_set", {"shards": parts}, form="collected")["priors"], PriorSet)
    for line, known in zip(new.lines, lines, strict=True):
        said = [[(piece.token, piece.selected) for piece in store.pieces(one)] for one in (line, known)]
        assert said[0] == said[1]
        assert line.piece_counts == known.piece_counts
        maps = [unpack(store.read(one.prior))["prior"].numpy() for one in (line, known)]
        np.testing.assert_allclose(*maps, rtol=2**-11 + 1e-4)  # stored in fp16 since


def test_fine_tune_takes_its_prior_set(before, store):
    opened = run_step(PRIOR_SET, before, store.uri, shared={"prior_digest": f"sha256:{PRIORS}"}, form="opened")
    assert load_manifest(opened["priors"], PriorSet).digest == PRIORS
    shared = {"vlm": "tiny-qwen2.5-vl", "shard": "0/1"}
    given = {"priors": opened["priors"]}
    maps = run_step(VLM_ATTENTION, before, store.uri, {"viewing": VIEWING}, shared, given, form="frozen")["maps"]
    made = load_manifest(maps, VlmMaps)
    assert {line.sample.id for line in made.lines} == {line["sample"]["id"] for line in raw(store, PRIORS)["lines"]}
    assert made.schema_version == "2"


@pytest.mark.parametrize(("name", "digest", "kind"), KINDS)
def test_its_exports_come_in_and_go_out_under_their_digests(before, capsys, name, digest, kind):
    other = Store((before / "other").as_uri())
    assert motion_enhancer("import", before / name, "--store", other.uri) == 0
    assert capsys.readouterr().out.strip() == f"sha256:{digest}"
    refs = list(references(other.manifest(digest, kind)))
    assert all(other.read(ref) for ref in refs)
    assert any(ref.path.startswith("videos/") for ref in refs)
    assert motion_enhancer("export", f"sha256:{digest}", before / "again", "--store", other.uri) == 0
    old, new = (
        {path.relative_to(top).as_posix(): path.read_bytes() for path in top.rglob("*") if path.is_file()}
        for top in (before / name, before / "again")
    )
    rewritten = {"README.md", "samples.jsonl", "motion_enhancer/README.md", "motion_enhancer/samples.jsonl"}
    assert {place: data for place, data in new.items() if place not in {*rewritten, "samples.parquet"}} == {
        place: data for place, data in old.items() if place not in rewritten
    }
    if kind is PriorSet:
        samples = [[json.loads(line) for line in files["samples.jsonl"].splitlines()] for files in (old, new)]
        assert samples[1] == sorted(samples[0], key=lambda line: line["video"]["file"]["sha256"])


def test_its_exported_set_is_read(before, store):
    lines = store.manifest(PRIORS, PriorSet).lines
    for prior, line in zip(read_priors(before / "priors"), lines, strict=True):
        assert (prior.sample, prior.pieces, prior.grid) == (line.sample, line.pieces, line.grid)
        assert prior.map_TFHW.equal(unpack(store.read(line.prior))["prior"])
        assert sha256(prior.video.read_bytes()) == line.video.file.sha256


def test_it_is_checked_and_nothing_that_it_names_is_collected(store, capsys):
    assert motion_enhancer("store", "check", "--store", store.uri, "--content") == 0
    assert "2 manifests" in capsys.readouterr().out
    assert motion_enhancer("store", "gc", "--store", store.uri, "--older-than", 0, "--delete") == 0
    assert motion_enhancer("store", "check", "--store", store.uri, "--content") == 0
    said = capsys.readouterr().out
    assert "2 manifests" in said
    assert said.count("0 missing or damaged") == 1
    assert not {item.path for item in store.backend.walk("manifests")} - {
        f"manifests/{digest}.json" for digest in (PRIORS, MODEL)
    }
