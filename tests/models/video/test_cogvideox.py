"""What is particular to CogVideoX, on tiny twins of both patch layouts; what every family does: test_families.py."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from components.core.errors import DataError, ParameterError
from components.models.video import load_vdm
from components.models.video.causal import causal_grid
from components.models.video.cogvideox import make_tiny
from components.models.video.interface import TextPiece, text_pieces, unread_characters

TEXT = "The red square moves left;  then it's spinning\nquickly."

WHOLE = (0.0, 1.0, 0.0, 1.0)


@pytest.fixture(scope="module", params=["5b", "1.5"])
def vdm_folder(request, tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("tiny") / request.param, request.param)


def test_frames_whose_latents_come_in_no_pairs_are_refused(vdm):
    with pytest.raises(DataError, match=r"8k\+1"):
        vdm.encode_video(np.zeros((13, 64, 64, 3), np.uint8))


def test_what_a_token_covers():
    times = [i / 8 for i in range(17)]
    grid = causal_grid(times, 480, 720, WHOLE, patch=2, patch_t=None)
    assert grid.shape == (5, 30, 45)
    assert grid.times == [(-1 / 16, 1 / 16)] + [((4 * k - 3) / 8 - 1 / 16, 4 * k / 8 + 1 / 16) for k in range(1, 5)]
    joined = causal_grid(times, 768, 1360, WHOLE, patch=2, patch_t=2)
    assert joined.shape == (3, 48, 85)  # 5 latents, one copied in front: (0 0) (1 2) (3 4)
    assert joined.times == [grid.times[0], (grid.times[1][0], grid.times[2][1]), (grid.times[3][0], grid.times[4][1])]
    even = causal_grid([i / 8 for i in range(13)], 64, 64, WHOLE, patch=2, patch_t=2)
    assert even.times == [(grid.times[0][0], grid.times[1][1]), (grid.times[2][0], grid.times[3][1])]
    assert causal_grid([i / 8 for i in range(49)], 480, 720, WHOLE, 2, None).shape == (13, 30, 45)
    assert causal_grid([i / 16 for i in range(81)], 768, 1360, WHOLE, 2, 2).shape == (11, 48, 85)


def test_frames_that_make_no_tokens_are_refused():
    for count, height, width in [(16, 64, 64), (17, 60, 64), (17, 64, 72), (0, 64, 64)]:
        with pytest.raises(ParameterError):
            causal_grid([i / 8 for i in range(count)], height, width, WHOLE, patch=2, patch_t=None)


def test_schedule_ends_in_pure_noise(vdm, vdm_folder):
    scheduler = CogVideoXDDIMScheduler.from_pretrained(vdm_folder / "scheduler")
    assert vdm.alphas_cumprod.shape == (1000,)
    assert vdm.alphas_cumprod[-1] == 0
    assert torch.equal(vdm.alphas_cumprod, scheduler.alphas_cumprod.double())


@pytest.mark.parametrize("text", [TEXT, "日本 runs", "a — b", " leading", "word " * 3, "🙂 smiles", "e", ""])
def test_pieces_cover_every_visible_character_once(vdm, text):
    pieces = vdm.read_text(text)
    covered = [i for piece in pieces for i in range(piece.start, piece.end)]
    assert covered == [i for i, character in enumerate(text) if not character.isspace()]
    ids = vdm.tokenizer(text).input_ids
    for piece in pieces:
        assert vdm.tokenizer.convert_ids_to_tokens(ids[piece.index]) == piece.token
        assert piece.token in ("▁" + text[piece.start : piece.end], text[piece.start : piece.end]) or not piece.known
        assert piece.known == (piece.token != "<unk>") == text[piece.start : piece.end].isascii()
    assert "</s>" not in [piece.token for piece in pieces]
    assert vdm.truncated(text) == 0
    assert vdm.tokenize(text) == [piece for piece in pieces if piece.known]


def test_unread_characters_are_counted_once(vdm):
    texts = {"日本 runs": (2, 6), "a — b": (1, 3), "the dog": (0, 6), "男人走路": (4, 4), "": (0, 0)}
    assert {text: unread_characters(vdm.read_text(text)) for text in texts} == texts
    shared = [TextPiece(0, "▁a", 0, 3), TextPiece(1, "<unk>", 2, 6, known=False)]  # spans may overlap
    assert unread_characters(shared) == (3, 6)


def test_spans_that_begin_with_the_space_are_trimmed():
    """A tokenizer file whose word starts own the space before them, as a plain Metaspace one does."""
    backend = Tokenizer(Unigram([("<unk>", 0.0), ("▁", -3.0), ("▁red", -1.0), ("▁ball", -1.0), ("s", -2.0)], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert tokenizer("red balls", return_offsets_mapping=True)["offset_mapping"][1] == (3, 8)
    found = [(piece.token, piece.start, piece.end) for piece in text_pieces(tokenizer, "red balls", None)]
    assert found == [("▁red", 0, 3), ("▁ball", 4, 8), ("s", 8, 9)]


def test_a_repository_with_only_a_sentencepiece_model_loads(vdm_folder, tmp_path):
    """Real CogVideoX repositories ship `spiece.model`; lone word starts share the next piece's span there."""
    import sentencepiece

    corpus = tmp_path / "corpus.txt"
    lines = ["the red square moves left", "a blue circle rolls right", TEXT.replace("\n", " ")]
    corpus.write_text("\n".join(lines * 20))
    copy = shutil.copytree(vdm_folder, tmp_path / "copy")
    (copy / "tokenizer" / "tokenizer.json").unlink()
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "vocab_size": 60, "hard_vocab_limit": False}
    prefix = str(copy / "tokenizer" / "spiece")
    sentencepiece.SentencePieceTrainer.train(input=str(corpus), model_prefix=prefix, **ids)
    config = json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 0})
    (copy / "tokenizer" / "tokenizer_config.json").write_text(config)
    text = "the red zebra  moves quickly"
    pieces = load_vdm(copy, "float32", "cpu").read_text(text)
    covered = sorted({i for piece in pieces for i in range(piece.start, piece.end)})
    assert covered == [i for i, character in enumerate(text) if not character.isspace()]
    assert all(piece.token.strip("▁") for piece in pieces)


def test_what_is_no_cogvideox_is_named(vdm_folder, tmp_path):
    """Parts that are not whole: `tests/models/test_pretrained.py`."""
    copy = shutil.copytree(vdm_folder, tmp_path / "copy")

    def write(name, content):
        (copy / name).write_text(content)

    scheduler = json.loads((copy / "scheduler/scheduler_config.json").read_text()) | {"prediction_type": "epsilon"}
    with pytest.raises(ParameterError, match=r"model_index\.json"):
        load_vdm(tmp_path, "float32")
    with pytest.raises(ParameterError, match="dtype"):
        load_vdm(vdm_folder, "int4")
    write("scheduler/scheduler_config.json", json.dumps(scheduler))
    with pytest.raises(ParameterError, match="epsilon"):
        load_vdm(copy, "float32")
    write("model_index.json", json.dumps({"_class_name": "WanPipeline"}))
    with pytest.raises(ParameterError, match="WanPipeline"):
        load_vdm(copy, "float32")
    write("model_index.json", "{")
    with pytest.raises(DataError, match="JSON"):
        load_vdm(copy, "float32")
