"""Prior sets and tuned models from one store to another by `export` and `import`: same digests, every file right."""

import gzip
import json
import pickle
import subprocess
import sys

import pytest

from components.core.artifacts import PriorSet, TunedModel
from components.core.errors import DataError
from components.core.lines import part_path
from components.core.records import PieceCounts, Ref, canonical_json, sha256
from components.models.tuned import materialize
from components.prior_set.reading import read_priors
from components.sft.step import STEP
from components.store.entries import Store
from components.store.transfer import original_name, references
from components.vlm_attention.step import STEP as VLM_ATTENTION
from tests.command import motion_enhancer
from tests.runner import load_manifest, run_step
from tests.vlm_attention import made

QWEN = "tiny-qwen2.5-vl"
FAST = {"global_batch": 2, "max_steps": 1, "held_out": 0.0, "gradient_checkpointing": False}


def with_a_file_of_pieces(line, store):
    """The line as steps of today write it."""
    data = canonical_json([piece.model_dump() for piece in line.pieces])
    ref = made.put(store, f"fixture/{line.key}/pieces-{sha256(data)[:16]}.json", data)
    return line.model_copy(update={"pieces": ref, "counts": PieceCounts(**line.piece_counts.model_dump())})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store with a prior set and a model really tuned on it (one step), and both exported with all their videos."""
    tmp = tmp_path_factory.mktemp("transfer")
    store = Store((tmp / "store").as_uri())
    lines = [with_a_file_of_pieces(line, store) for line in made.prior_lines(tmp / "set", tmp / "store", count=2)]
    priors = made.prior_set(tmp / "priors", lines, store.uri)
    params, shared = {"viewing": made.VIEWING}, {"vlm": QWEN, "shard": "0/1"}
    maps = run_step(VLM_ATTENTION, tmp, store.uri, params, shared, {"priors": priors}, form="frozen")["maps"]
    shared = {"vlm": QWEN, "align_weight": 1.0, "seed": 5}
    model = run_step(STEP, tmp, store.uri, FAST, shared, {"maps": [maps]})["model"]
    found = {"priors": load_manifest(priors, PriorSet), "model": load_manifest(model, TunedModel)}
    for name, manifest in found.items():
        assert motion_enhancer("export", f"sha256:{manifest.digest}", tmp / "out" / name, "--store", store.uri) == 0
    return tmp / "out", store, found


@pytest.fixture(params=["priors", "model"])
def exported(request, world):
    """The exported folder, the store it came from, and its manifest: of each kind."""
    folder, store, found = world
    return folder / request.param, store, found[request.param]


models = pytest.mark.parametrize("exported", ["model"], indirect=True)
sets = pytest.mark.parametrize("exported", ["priors"], indirect=True)


def inner(folder, manifest):
    return folder / "motion_enhancer" if isinstance(manifest, TunedModel) else folder


def verified(store, manifest):
    """How many files the manifest names; each is read, which verifies size and sha256."""
    refs = {ref.path: ref for ref in references(manifest)}
    for ref in refs.values():
        store.read(ref)
    return len(refs)


def test_another_store_holds_the_same_manifest_and_every_file(exported, tmp_path, capsys):
    folder, _, manifest = exported
    other = Store((tmp_path / "other").as_uri())
    assert motion_enhancer("import", folder, "--store", other.uri) == 0
    assert capsys.readouterr().out.strip() == f"sha256:{manifest.digest}"
    opened = other.manifest(manifest.digest, type(manifest))
    assert opened == manifest
    assert opened.digest == manifest.digest
    assert verified(other, opened) >= 8
    assert (folder / "videos").exists() == isinstance(manifest, PriorSet)


def test_a_second_export_gives_the_same_bytes(exported, tmp_path):
    folder, _, manifest = exported
    other = (tmp_path / "other").as_uri()
    assert motion_enhancer("import", folder, "--store", other) == 0
    assert motion_enhancer("export", f"sha256:{manifest.digest}", tmp_path / "again", "--store", other) == 0
    first, second = (
        {file.relative_to(top): file.read_bytes() for file in top.rglob("*") if file.is_file()}
        for top in (folder, tmp_path / "again")
    )
    assert first == second


def test_a_set_has_a_card_and_its_samples_whole(world):
    folder, store, found = world[0] / "priors", world[1], world[2]["priors"]
    card = (folder / "README.md").read_text()
    assert found.digest in card
    assert "## Decisions" in card
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    whole = [line.model_copy(update={"pieces": store.pieces(line)}) for line in found.lines]
    assert samples == [line.model_dump(mode="json") for line in whole]


def test_a_models_card_says_what_it_was_trained_on(world):
    found = world[2]["model"]
    card = (world[0] / "model/motion_enhancer/README.md").read_text()
    assert "on 2 samples of 2 videos" in card
    assert len(found.maps) == 1
    assert f"sha256:{found.maps[0]}" in card
    assert len(found.lines) == 0


def test_a_model_opens_with_plain_from_pretrained(world):
    folder, _, found = world
    code = (
        "import sys; sys.modules['components'] = None\n"  # importing it would fail
        "from transformers import AutoModelForImageTextToText, AutoTokenizer\n"
        "model = AutoModelForImageTextToText.from_pretrained(sys.argv[1]); AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "print(model.config.model_type)"
    )
    opened = subprocess.run(
        [sys.executable, "-I", "-c", code, str(folder / "model")], capture_output=True, text=True, check=True
    )
    assert opened.stdout.split() == ["qwen2_5_vl"]
    names = {file.name for file in (folder / "model").iterdir() if file.is_file()}
    assert names == {original_name(ref) for ref in found["model"].files}
    inner_names = {file.name for file in (folder / "model" / "motion_enhancer").iterdir()}
    aligner = {original_name(ref) for ref in found["model"].aligner}
    assert inner_names == {"README.md", "manifest.json", "log.jsonl", *aligner}


@sets
def test_without_videos_the_target_must_hold_them(exported, tmp_path, capsys):
    folder, store, manifest = exported
    bare, other = tmp_path / "bare", Store((tmp_path / "other").as_uri())
    assert motion_enhancer("export", f"sha256:{manifest.digest}", bare, "--store", store.uri, "--no-videos") == 0
    assert not list(bare.rglob("videos"))
    for flag in ([], ["--no-videos"]):
        assert motion_enhancer("import", bare, "--store", other.uri, *flag) == 3
        assert "videos/" in capsys.readouterr().err
        assert not list(other.backend.walk("manifests"))
    assert motion_enhancer("import", folder, "--store", other.uri, "--no-videos") == 3
    assert not list(other.backend.walk("videos"))
    for ref in references(manifest):
        if ref.path.startswith("videos/"):
            other.backend.put(ref.path, store.read(ref))
    assert motion_enhancer("import", bare, "--store", other.uri, "--no-videos") == 0
    assert verified(other, other.manifest(manifest.digest, type(manifest)))


@pytest.fixture
def copied(exported, tmp_path):
    """A copy that a test may damage (links, so that it costs nothing; a damaged file is replaced, not written into)."""
    folder, store, manifest = exported
    subprocess.run(["cp", "-rl", str(folder), str(tmp_path / "copy")], check=True)
    return tmp_path / "copy", store, manifest


@pytest.mark.parametrize("damage", ["flip", "delete"])
@pytest.mark.parametrize(
    ("exported", "which"),
    [
        ("model", "*.safetensors"),
        *(("priors", which) for which in ("*.safetensors", "videos/*.mp4", "pieces-*.json", "*.jsonl.gz")),
    ],
    indirect=["exported"],
)
def test_a_damaged_or_missing_file_is_named(copied, tmp_path, capsys, damage, which):
    folder, _, manifest = copied
    file = next(folder.rglob(which))
    data = file.read_bytes()
    file.unlink()
    if damage == "flip":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    other = Store((tmp_path / "other").as_uri())
    assert motion_enhancer("import", folder, "--store", other.uri) == 3
    said = capsys.readouterr().err
    assert file.name in said
    assert other.backend.get(f"manifests/{manifest.digest}.json") is None


def test_of_a_target_that_holds_all_only_a_damaged_file_is_written(exported, tmp_path):
    folder, _, manifest = exported
    other = Store((tmp_path / "other").as_uri())
    assert motion_enhancer("import", folder, "--store", other.uri) == 0
    before = [item for item in other.backend.walk() if not item.path.startswith("manifests/")]
    assert motion_enhancer("import", folder, "--store", other.uri) == 0
    assert [item for item in other.backend.walk() if not item.path.startswith("manifests/")] == before
    ref = next(ref for ref in references(manifest) if ref.path.endswith(".safetensors"))
    data = other.read(ref)
    other.backend.put(ref.path, data[:-1] + bytes([data[-1] ^ 1]))
    assert motion_enhancer("import", folder, "--store", other.uri) == 0
    assert other.read(ref) == data


# What must not come in ------------------------------------------------------------------------------------------------


class Foreign:
    """A copy of an exported folder whose manifest names what somebody else put there."""

    def __init__(self, folder, manifest):
        self.folder, self.file = folder, inner(folder, manifest) / "manifest.json"
        self.kind, self.raw = type(manifest), json.loads(self.file.read_bytes())
        self.lines = [line.model_dump(mode="json") for line in manifest.lines]

    def replace(self, before, after):
        """Change the text of manifest and lines."""
        text = canonical_json([self.raw, self.lines]).decode()
        assert before in text
        self.raw, self.lines = json.loads(text.replace(before, after))

    def place(self, name, data, field="files"):
        """Put a file where `export` puts one of a model's `field`, in the place of its namesake; name it."""
        stem, _, ending = name.rpartition(".")
        digest = sha256(data)
        path = f"sft/{self.raw['key']}/{stem}-{digest[:16]}.{ending}"
        ref = {"path": path, "sha256": digest, "bytes": len(data), "task": "sft"}
        file = (self.folder if field == "files" else self.file.parent) / name
        file.unlink(missing_ok=True)
        file.write_bytes(data)
        if field == "log":
            self.raw["log"] = ref
        else:
            names = [original_name(Ref(**item)) for item in self.raw[field]]
            kept = [item for item, known in zip(self.raw[field], names, strict=True) if known != name]
            self.raw[field] = sorted([*kept, ref], key=lambda item: item["path"])

    def imported(self, store):
        """The exit code of an import of it."""
        self.file.unlink()
        self.file.write_bytes(canonical_json(self.raw))
        if self.kind is PriorSet:
            manifest = PriorSet.model_validate({**self.raw, "lines": self.lines})
            manifest.lines.write(self._put_part)
            self.file.write_bytes(manifest.to_bytes())
        return motion_enhancer("import", self.folder, "--store", store.uri)

    def _put_part(self, text):
        (self.file.parent / part_path(sha256(text))).unlink(missing_ok=True)
        (self.file.parent / part_path(sha256(text))).write_bytes(gzip.compress(text))


@pytest.fixture
def foreign(copied, tmp_path):
    folder, _, manifest = copied
    return Foreign(folder, manifest)


@pytest.fixture
def refused(foreign, tmp_path, capsys):
    """Import the folder into an empty store: it is refused with these words, and nothing of it was stored."""

    def check(*words):
        other = Store((tmp_path / "other").as_uri())
        assert foreign.imported(other) == 3
        said = capsys.readouterr().err
        assert [word for word in words if word not in said] == []
        assert "remedy:" in said
        assert list(other.backend.walk()) == []

    return check


WRONG = "../../videos/{}.mp4 /videos/{}.mp4 videos/0000{}.mp4 benchmark_eval/{:.32}/entry.json"


@pytest.mark.parametrize("path", [*WRONG.split(), "sft/{:.32}/a-0000000000000000.b"])
def test_a_path_that_is_no_place_for_the_content_is_refused(foreign, refused, copied, path):
    folder, _, manifest = copied
    ref = next(references(manifest))
    placed = path.format(ref.sha256)
    place = foreign.file.parent / placed
    foreign.replace(f'"path":"{ref.path}"', f'"path":"{placed}"')
    if not placed.startswith(("/", "..")) and isinstance(manifest, PriorSet):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((folder / ref.path).read_bytes())
    refused(f"{placed!r}, which is no place")
    if isinstance(manifest, PriorSet):
        with pytest.raises(DataError, match="which is no place"):
            list(read_priors(folder))


def test_a_manifest_that_is_wrong_about_a_size_is_refused(foreign, copied, tmp_path, capsys):
    ref = next(references(copied[2]))
    rest = f',"path":"{ref.path}"'
    foreign.replace(f'"bytes":{ref.bytes}{rest}', f'"bytes":{ref.bytes + 1}{rest}')
    assert foreign.imported(Store((tmp_path / "other").as_uri())) == 3
    assert f"{ref.path} is damaged" in capsys.readouterr().err


PICKLED = pickle.dumps({"weight": 1})


@models
@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("pytorch_model.bin", "files"),
        ("modeling_own.py", "files"),
        ("training_args.pt", "files"),
        ("tokenizer.pkl", "files"),
        ("weights.gguf", "files"),
        ("setup.sh", "files"),
        ("adapter_model.bin", "adapter"),
        ("own.py", "adapter"),
        ("aligner.pt", "aligner"),
        ("log.py", "log"),
    ],
)
def test_a_model_with_a_pickle_or_code_is_refused_by_name(foreign, refused, name, field):
    foreign.place(name, PICKLED, field)
    refused(f"{name}: refused by name", "only .safetensors, .json" if field == "files" else ".safetensors, .json")


@models
@pytest.mark.parametrize("name", ["pytorch_model.bin", "custom_generate/generate.py"])
def test_a_pickle_or_code_that_only_lies_there_is_refused_by_name(foreign, refused, name):
    """Not of the manifest, but whoever opens the folder opens it."""
    (foreign.folder / name).parent.mkdir(exist_ok=True)
    (foreign.folder / name).write_bytes(PICKLED)
    refused(f"{name}: refused by name")


@models
def test_what_is_hidden_or_behind_a_link_that_nobody_names_is_not_looked_at(foreign, tmp_path):
    (foreign.folder / ".git").mkdir()
    (foreign.folder / ".git" / "hook.py").touch()
    (foreign.folder / "everything").symlink_to("/")
    assert foreign.imported(Store((tmp_path / "other").as_uri())) == 0


@sets
@pytest.mark.parametrize("ending", ["pkl", "py"])
def test_a_line_with_a_pickle_or_code_is_refused_by_name(foreign, refused, ending):
    ref = foreign.lines[0]["prior"]
    own = f"token_selection/{'0' * 32}/prior-{sha256(PICKLED)[:16]}.{ending}"
    ref |= {"path": own, "sha256": sha256(PICKLED), "bytes": len(PICKLED)}
    (foreign.file.parent / own).parent.mkdir(parents=True)
    (foreign.file.parent / own).write_bytes(PICKLED)
    refused(f"{own}: refused by name")


def index(**shards):
    return {"metadata": {"total_size": 1}, "weight_map": shards}


@models
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.safetensors", PICKLED, "model.safetensors is no safetensors file"),
        ("model.safetensors.index.json", index(a="pytorch_model-1.bin"), "names pytorch_model-1.bin, not"),
        ("model.safetensors.index.json", index(a="../../x.safetensors"), "names ../../x.safetensors, not"),
        ("model.safetensors.index.json", index(a="/x.safetensors"), "names /x.safetensors, not"),
        ("model.safetensors.index.json", index(a="model-2.safetensors"), "names model-2.safetensors, not"),
        ("model.safetensors.index.json", {"weight_map": []}, "has no weight_map"),
        ("pytorch_model.bin.index.json", index(a="pytorch_model-1.bin"), "names pytorch_model-1.bin, not"),
        ("config.json", {"auto_map": {"AutoConfig": "own.Config"}}, "config.json names code: auto_map"),
        ("config.json", {"vision_config": {"auto_map": {}}}, "config.json names code: auto_map"),
        ("tokenizer_config.json", {"x": [{"auto_map": {}}]}, "tokenizer_config.json names code: auto_map"),
        ("adapter_config.json", {}, "adapter_config.json beside a model's own files"),
        ("config.json", b"{", "config.json is no JSON"),
    ],
)
def test_content_that_leads_elsewhere_is_refused(foreign, refused, name, content, said):
    foreign.place(name, content if isinstance(content, bytes) else canonical_json(content))
    refused(said)


@models
def test_a_configuration_that_was_cut_on_the_way_is_damaged_not_wrong(foreign, refused):
    file = foreign.folder / "config.json"
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data[:-3])
    refused("/config-", "is damaged", "export it again")


@models
def test_an_adapter_that_names_a_module_is_refused(foreign, refused):
    """peft imports it."""
    config = {"auto_mapping": {"base_model_class": "x", "parent_library": "antigravity"}}
    foreign.place("adapter_config.json", canonical_json(config), "adapter")
    refused("adapter_config.json names code: parent_library 'antigravity'")


@sets
def test_a_file_that_holds_no_pieces_is_refused(foreign, refused):
    data = b'[{"token":"a"}]'
    own = f"token_selection/{'0' * 32}/pieces-{sha256(data)[:16]}.json"
    foreign.lines[0]["pieces"] |= {"path": own, "sha256": sha256(data), "bytes": len(data)}
    (foreign.file.parent / own).parent.mkdir(parents=True)
    (foreign.file.parent / own).write_bytes(data)
    refused(f"{own} holds no pieces", "token")


@sets
def test_tensors_of_a_line_that_are_none_are_refused(foreign, refused):
    ref = foreign.lines[0]["prior"]
    own = f"token_selection/{'0' * 32}/prior-{sha256(PICKLED)[:16]}.safetensors"
    ref |= {"path": own, "sha256": sha256(PICKLED), "bytes": len(PICKLED)}
    (foreign.file.parent / own).parent.mkdir(parents=True)
    (foreign.file.parent / own).write_bytes(PICKLED)
    refused("is no safetensors file")


@models
def test_two_files_of_one_name_are_refused(foreign, refused):
    """The second would have been written through the first one's link into the store, as the model is opened."""
    twin = next(item for item in foreign.raw["files"] if original_name(Ref(**item)) == "config.json")
    foreign.raw["files"].append({**twin, "path": twin["path"].replace("sft/", "other/")})
    refused("two files called config.json")


@pytest.mark.parametrize(
    ("exported", "place"),
    [
        *(("priors", place) for place in ("videos/*", "videos", "manifest.json", "manifests/parts/*")),
        *(("model", place) for place in ("config.json", "motion_enhancer", "motion_enhancer/manifest.json")),
    ],
    indirect=["exported"],
)
def test_links_out_of_the_folder_are_refused(foreign, refused, tmp_path, place):
    linked, outside = next(foreign.folder.glob(place)), tmp_path / "outside"
    foreign.imported = lambda store: motion_enhancer("import", foreign.folder, "--store", store.uri)
    linked.rename(outside)
    linked.symlink_to(outside)
    refused("is a link out of the folder", "cp -rL")


def test_a_link_inside_of_the_folder_and_to_it_is_none_out_of_it(copied, tmp_path):
    folder, _, manifest = copied
    file = next(folder.rglob("*.safetensors"))
    file.rename(folder / ".file")
    file.symlink_to(folder / ".file")
    (tmp_path / "link").symlink_to(folder)
    other = Store((tmp_path / "other").as_uri())
    assert motion_enhancer("import", tmp_path / "link", "--store", other.uri) == 0
    assert verified(other, manifest)


@models
def test_what_a_store_was_given_before_is_refused_as_it_is_opened(world, tmp_path, exported):
    _, store, found = world
    model = found["model"]
    ref = model.files[0].model_copy(update={"path": f"sft/{model.key}/modeling-{model.files[0].sha256[:16]}.py"})
    for files, said in (([*model.files, ref], "modeling.py: refused by name"), (model.files * 2, "two files called")):
        with pytest.raises(DataError, match=said):
            materialize(files, store, tmp_path / "opened")


def test_other_folders_and_kinds_are_refused(world, tmp_path, capsys):
    folder, store, found = world
    target = (tmp_path / "other").as_uri()
    assert motion_enhancer("import", tmp_path, "--store", target) == 3
    assert "manifest.json" in capsys.readouterr().err
    (tmp_path / "maps").mkdir()
    for text, word in (
        ('{"kind": "AttentionMaps", "schema_version": "1"}', "AttentionMaps"),
        ("[1]", "None"),
        ("{", "not a manifest"),
        (found["model"].to_bytes().decode(), "TunedModel"),  # a model's manifest where a prior set's belongs
    ):
        (tmp_path / "maps" / "manifest.json").write_text(text)
        assert motion_enhancer("import", tmp_path / "maps", "--store", target) == 3
        assert word in capsys.readouterr().err
    (tmp_path / "maps" / "manifest.json").write_text('{"kind": "AttentionMaps", "schema_version": "1"}')
    assert motion_enhancer("export", tmp_path / "maps", tmp_path / "new", "--store", store.uri) == 3
    assert "only PriorSet and TunedModel" in capsys.readouterr().err
    assert motion_enhancer("export", f"sha256:{found['model'].digest}", folder / "model", "--store", store.uri) == 2
    assert motion_enhancer("export", "sha256:" + "0" * 64, tmp_path / "new", "--store", store.uri) == 2
