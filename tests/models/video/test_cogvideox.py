"""The CogVideoX wrapper against the diffusers pipeline that it stands for, on tiny twins of both patch layouts."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from components.core.errors import DataError, ParameterError
from components.models.video import load_vdm
from components.models.video.cogvideox import cogvideox_grid, make_tiny
from components.models.video.interface import TextPiece, text_pieces, unread_characters
from tests.arithmetic import rounding

TEXT = "The red square moves left;  then it's spinning\nquickly."

WHOLE = (0.0, 1.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def pipeline(vdm_folder):
    return CogVideoXPipeline.from_pretrained(vdm_folder)


def frames(count=17, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def test_twins_are_byte_deterministic_and_leave_the_global_generator_alone(vdm_folder, tmp_path):
    state = torch.random.get_rng_state()
    again = make_tiny(tmp_path / "again", "1.5" if vdm_folder.name == "1.5" else "5b")
    assert torch.equal(state, torch.random.get_rng_state())

    def content(root):
        return {file.relative_to(root): file.read_bytes() for file in root.rglob("*") if file.is_file()}

    assert content(vdm_folder) == content(again)
    assert not [file for file in vdm_folder.rglob("*") if file.suffix in (".bin", ".pt", ".pkl")]


def test_encode_is_the_posterior_mode_and_unit_scaled(vdm, pipeline):
    video = frames()
    latents = vdm.encode_video(video)
    pixels = torch.from_numpy(video).permute(3, 0, 1, 2)[None].double() / 255 * 2 - 1
    mean = pipeline.vae.double().encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
    pipeline.vae.float()
    assert latents.shape == (1, 5, 4, 8, 8)
    # thirteen 3 × 3 × 3 convolutions of 8 channels, three in the plane, those of the colours and of the latents
    close = rounding(13 * 27 * 8 + 3 * 9 * 8 + 27 * (3 + 8), size=float(latents.abs().max()))
    torch.testing.assert_close(latents, mean.transpose(1, 2).float(), atol=close, rtol=0)
    assert 0.5 < float(latents.std()) < 2


def test_decode_agrees_with_the_pipeline(vdm, pipeline):
    latents = vdm.encode_video(frames())
    with torch.no_grad():
        video = pipeline.video_processor.postprocess_video(pipeline.decode_latents(latents), output_type="np")[0]
    ours = vdm.decode_latents(latents)
    assert ours.shape == (17, 64, 64, 3)
    assert np.abs(ours.numpy().astype(float) - video * 255).max() <= 0.51


@pytest.mark.parametrize("bad", [frames(16), frames(13), frames(17)[:, :60], frames().astype(np.float32)])
@pytest.mark.usefixtures("unchecked")
def test_frames_that_do_not_make_whole_latents_are_refused(vdm, bad):
    with pytest.raises(DataError, match="frames"):
        vdm.encode_video(bad)


def test_text_is_encoded_as_the_pipeline_does(vdm, pipeline):
    for text in ("", TEXT, "a red ball " * 40):
        length = vdm.sizes.text_tokens
        theirs, _ = pipeline.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=length)
        ours = vdm.encode_text(text)
        # two layers of norm, q·k over 16, 64 keys, projections of 32, a gated layer of 64
        close = rounding(2 * (32 + 16 + 64 + 3 * 32 + 64), size=float(ours.abs().max()))
        torch.testing.assert_close(ours, theirs.detach(), atol=close, rtol=0)


@pytest.mark.parametrize("shape", [(5, 8, 8), (4, 8, 8), (3, 6, 8), (5, 4, 8)])
def test_velocity_is_the_transformer_as_the_pipeline_calls_it(vdm, pipeline, shape):
    """The pipeline's own rotary embedding, on latents that are padded by hand where patches join two frames."""
    count, rows, cols = shape
    x = torch.randn(2, count, 4, rows, cols, generator=torch.Generator().manual_seed(1))
    embeds = torch.cat([vdm.encode_text(""), vdm.encode_text(TEXT)])
    padded = torch.cat([x[:, :1], x], 1) if vdm.sizes.patch_t > 1 and count % 2 else x
    rotary = pipeline._prepare_rotary_positional_embeddings(rows * 8, cols * 8, padded.shape[1], torch.device("cpu"))
    timesteps = torch.tensor([599, 599])
    with torch.no_grad():
        theirs = pipeline.transformer(padded, embeds, timesteps, image_rotary_emb=rotary, return_dict=False)[0]
    ours = vdm.velocity(x, 599, embeds)
    assert ours.shape == x.shape
    # two layers of norm, q·k over 16, up to 144 keys, projections of 64, a layer of 256
    close = rounding(2 * (64 + 16 + 144 + 3 * 64 + 256), size=float(ours.abs().max()))
    torch.testing.assert_close(ours, theirs[:, -count:], atol=close, rtol=0)
    assert vdm.patch_grid(shape) == (padded.shape[1] // vdm.sizes.patch_t, rows // 2, cols // 2)


def test_what_a_token_covers():
    times = [i / 8 for i in range(17)]
    grid = cogvideox_grid(times, 480, 720, WHOLE, patch=2, patch_t=None)
    assert grid.shape == (5, 30, 45)
    assert grid.times == [(-1 / 16, 1 / 16)] + [((4 * k - 3) / 8 - 1 / 16, 4 * k / 8 + 1 / 16) for k in range(1, 5)]
    joined = cogvideox_grid(times, 768, 1360, WHOLE, patch=2, patch_t=2)
    assert joined.shape == (3, 48, 85)  # 5 latents, one copied in front: (0 0) (1 2) (3 4)
    assert joined.times == [grid.times[0], (grid.times[1][0], grid.times[2][1]), (grid.times[3][0], grid.times[4][1])]
    even = cogvideox_grid([i / 8 for i in range(13)], 64, 64, WHOLE, patch=2, patch_t=2)
    assert even.times == [(grid.times[0][0], grid.times[1][1]), (grid.times[2][0], grid.times[3][1])]
    assert cogvideox_grid([i / 8 for i in range(49)], 480, 720, WHOLE, 2, None).shape == (13, 30, 45)
    assert cogvideox_grid([i / 16 for i in range(81)], 768, 1360, WHOLE, 2, 2).shape == (11, 48, 85)


def test_frames_that_make_no_tokens_are_refused(vdm):
    with pytest.raises(ParameterError, match="patches"):
        vdm.patch_grid((5, 7, 8))
    for count, height, width in [(16, 64, 64), (17, 60, 64), (17, 64, 72), (0, 64, 64)]:
        with pytest.raises(ParameterError):
            cogvideox_grid([i / 8 for i in range(count)], height, width, WHOLE, patch=2, patch_t=None)


def test_schedule_ends_in_pure_noise(vdm, pipeline):
    assert vdm.alphas_cumprod.shape == (1000,)
    assert vdm.alphas_cumprod[-1] == 0
    assert torch.equal(vdm.alphas_cumprod, pipeline.scheduler.alphas_cumprod.double())


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


def test_truncation_is_counted_in_characters(vdm):
    text = "a red ball moves " * 30
    pieces = vdm.tokenize(text)
    assert len(pieces) == vdm.sizes.text_tokens - 1
    assert text[pieces[-1].end :].strip()
    assert vdm.truncated(text) == len(text.rstrip()) - pieces[-1].end


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


def test_a_model_is_loaded_in_the_asked_format(vdm_folder):
    loaded = load_vdm(vdm_folder, "bfloat16", "cpu")
    dtypes = {p.dtype for module in (loaded.transformer, loaded.vae, loaded.text_encoder) for p in module.parameters()}
    assert dtypes == {torch.bfloat16}
    assert loaded.encode_video(frames()).dtype == torch.bfloat16
    x = torch.randn(1, 5, 4, 8, 8)
    assert loaded.velocity(x, 999, loaded.encode_text("")).dtype == torch.float32


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
