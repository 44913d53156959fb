"""A checkpoint that is not whole, or not safe to open, is refused by its folder's name before it is used."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.core.errors import DataError, ParameterError
from components.models.registry import ensure_tiny
from components.models.video import load_vdm
from components.models.vlm.model import load_vlm

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def vdm_copy(tmp_path):
    return shutil.copytree(ensure_tiny("tiny-cogvideox"), tmp_path / "copy")


@pytest.fixture
def vlm_copy(tmp_path):
    return shutil.copytree(ensure_tiny("tiny-qwen2.5-vl"), tmp_path / "vlm" / "copy")


# What may have happened to a file -------------------------------------------------------------------------------------


def gone(file):
    if file.is_dir():
        shutil.rmtree(file)
    else:
        file.unlink()


def cut(file):
    file.write_bytes(file.read_bytes()[:-10])


def empty(file):
    file.write_bytes(b"")


def pickled(file):
    torch.save(load_file(file), file.with_name("pytorch_model.bin"))
    file.unlink()


def configured(**changes):
    return lambda file: file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def tensor(name, value=None):
    """Another in its place, or none."""

    def damage(file):
        tensors = load_file(file) | {name: value}
        save_file({key: found for key, found in tensors.items() if found is not None}, file, metadata={"format": "pt"})

    return damage


def one_shard(file):
    """Its index names a tensor that it lacks."""
    names = list(load_file(file))
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, file.name)}
    file.with_name(f"{file.name}.index.json").write_text(json.dumps(index))
    tensor(names[-1])(file)


def sharded(place):
    """All weights lie in one shard, elsewhere; a pickle would leave a trace."""

    def damage(file):
        names, shard = list(load_file(file)), file.parent / place
        if shard.suffix == ".bin":
            shard.write_bytes(pickle.dumps(Trace(str(shard.with_suffix(".read")))))
        else:
            shutil.copyfile(file, shard)
        file.unlink()
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, place)}
        file.with_name(f"{file.name}.index.json").write_text(json.dumps(index))

    return damage


class Trace:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def adapted(file):
    """Low-rank updates beside a model: transformers opens them unasked."""
    (file.parent / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')


def renamed(file):
    file.rename(file.with_name("vocab.json"))


def a_list(file):
    file.write_text("[]")


TEXT = "text_encoder/model.safetensors"
LACKS = "is not whole, missing or of another shape: "


@pytest.mark.parametrize(
    ("path", "damage", "said"),
    [
        ("tokenizer", gone, "tokenizer has no vocabulary"),
        ("tokenizer/tokenizer.json", gone, "tokenizer has no vocabulary"),
        ("tokenizer/tokenizer.json", empty, "tokenizer has no vocabulary"),
        ("tokenizer/tokenizer.json", renamed, "tokenizer has an empty vocabulary"),
        (TEXT, tensor("shared.weight"), rf"{LACKS}encoder\.embed_tokens\.weight, shared\.weight"),
        (TEXT, tensor("shared.weight", torch.ones(3, 32)), rf"text_encoder {LACKS}.*shared\.weight"),
        ("text_encoder/config.json", configured(d_model=16), rf"text_encoder {LACKS}.* and \d+ more"),
        (f"vae/{WEIGHTS}", tensor("encoder.conv_in.conv.bias"), rf"vae {LACKS}encoder\.conv_in\.conv\.bias"),
        (f"transformer/{WEIGHTS}", tensor("proj_out.bias"), rf"transformer {LACKS}proj_out\.bias"),
        (f"transformer/{WEIGHTS}", one_shard, f"transformer {LACKS}"),
        (f"vae/{WEIGHTS}", pickled, "the vae cannot be loaded"),
        ("model_index.json", a_list, "no JSON object, but list"),
    ],
)
def test_a_video_model_that_is_not_whole_is_refused(vdm_copy, path, damage, said):
    damage(vdm_copy / path)
    with pytest.raises(DataError, match=rf"{said}(.|\n)*where:  {vdm_copy}.*\n  remedy: fetch the checkpoint again"):
        load_vdm(vdm_copy, "float32", "cpu")


@pytest.mark.parametrize(
    ("path", "damage", "said"),
    [
        ("model.safetensors", pickled, r"no file named model\.safetensors"),
        ("model.safetensors", cut, "copy cannot be loaded"),
        ("model.safetensors", tensor("model.norm.weight"), rf"copy {LACKS}model\.language_model\.norm\.weight"),
        ("model.safetensors", tensor("model.norm.weight", torch.ones(3)), rf"copy {LACKS}.*\.norm\.weight"),
        ("config.json", cut, "no JSON"),
        ("config.json", configured(vision_config=3), "copy cannot be loaded"),
        ("generation_config.json", cut, "no JSON"),
        ("preprocessor_config.json", cut, "no JSON"),
        ("tokenizer.json", gone, "copy has no vocabulary"),
        ("tokenizer.json", cut, "copy cannot be loaded"),
        ("chat_template.jinja", gone, "no chat template"),
    ],
)
def test_a_language_model_that_is_not_whole_is_refused(vlm_copy, path, damage, said):
    damage(vlm_copy / path)
    with pytest.raises(DataError, match=rf"{said}(.|\n)*where:  {vlm_copy}.*\n  remedy: fetch the checkpoint again"):
        load_vlm(vlm_copy, torch.float32, "cpu", rows=False)


PICKLE, ELSEWHERE = "pytorch_model.bin", "../elsewhere.safetensors"
NAMES = r"safetensors\.index\.json names {}, not safetensors beside it(.|\n)*save it as safetensors"
ADAPTER = r"adapter_config\.json beside a model's own files(.|\n)*merge the adapter"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (sharded(PICKLE), NAMES.format(PICKLE)),
        (sharded(ELSEWHERE), NAMES.format(ELSEWHERE)),
        (sharded("gone/x.safetensors"), NAMES.format("gone/x.safetensors")),
        (adapted, ADAPTER),
    ],
    ids=["pickle", "elsewhere", "below", "adapter"],
)
@pytest.mark.parametrize("path", ["model.safetensors", TEXT, f"transformer/{WEIGHTS}"])
def test_weights_are_the_safetensors_of_the_folder_and_nothing_else(vdm_copy, vlm_copy, path, damage, said):
    folder, load = (vdm_copy, lambda: load_vdm(vdm_copy, "float32", "cpu"))
    if path == "model.safetensors":
        folder, load = vlm_copy, lambda: load_vlm(vlm_copy, torch.float32, "cpu", rows=False)
    (folder / path).with_name("gone").mkdir()
    damage(folder / path)
    with pytest.raises(DataError, match=said):
        load()
    assert not list(folder.rglob("*.read"))


def test_pickles_beside_safetensors_are_never_read(vdm_copy, vlm_copy):
    for folder in (vdm_copy, vlm_copy):
        for file in list(folder.rglob("*.safetensors")):
            for name in ("pytorch_model.bin", "model.bin", "diffusion_pytorch_model.bin", "training_args.bin", "x.pt"):
                file.with_name(name).write_bytes(pickle.dumps(Trace(str(file.with_suffix(".read")))))
    load_vdm(vdm_copy, "float32", "cpu")
    load_vlm(vlm_copy, torch.float32, "cpu", rows=False)
    assert not [*vdm_copy.rglob("*.read"), *vlm_copy.rglob("*.read")]


def test_a_saved_model_names_no_code(vlm_copy, tmp_path):
    """It could not be imported anywhere."""
    vlm = load_vlm(vlm_copy, torch.float32, "cpu", rows=False)
    vlm.save(vlm.model.state_dict(), vlm_copy, tmp_path / "plain", torch.float32)
    own = {"auto_map": {"AutoConfig": "own.Config"}}
    configured(**own)(vlm_copy / "tokenizer_config.json")
    configured(**own)(vlm_copy / "config.json")
    vlm = load_vlm(vlm_copy, torch.float32, "cpu", rows=False)
    vlm.save(vlm.model.state_dict(), vlm_copy, tmp_path / "saved", torch.float32)
    for name in ("config.json", "tokenizer_config.json", "model.safetensors"):
        plain, saved = ((tmp_path / which / name).read_bytes() for which in ("plain", "saved"))
        assert (json.loads(plain) == json.loads(saved)) if name.endswith("json") else plain == saved


def test_a_checkpoints_own_code_is_never_offered(vlm_copy, monkeypatch):
    """The original InternVL3 layout names its code; a supported one may, and is read by transformers' own classes."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a prompt"))
    (vlm_copy / "own.py").write_text("raise SystemExit")
    auto_map = {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model"}
    auto_map |= {"AutoTokenizer": ["own.Tokenizer", None]}
    for name in ("config.json", "tokenizer_config.json"):
        configured(auto_map=auto_map)(vlm_copy / name)
    assert load_vlm(vlm_copy, torch.float32, "cpu", rows=False).family.name == "Qwen2.5-VL"
    configured(model_type="internvl_chat")(vlm_copy / "config.json")
    with pytest.raises(ParameterError, match=r"model_type 'internvl_chat'(.|\n)*ends in -hf"):
        load_vlm(vlm_copy, torch.float32, "cpu", rows=False)
