"""The map from a unigram tokenizer's pieces to the VLM's tokens, against characters counted one by one."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from components.core.errors import DataError
from components.models.vlm.interface import Conversation
from components.vlm_attention.token_map import coverage, token_map
from tests.models.vlm.cases import NAMES, TALK, example, load

LIMIT = 226
LONG = " ".join(f"the ball number {k} rolls towards the green box" for k in range(60))
CASES = {
    "plain": ("Which object moves?", "The red ball moves slowly to the left."),
    "repeated words": ("left left left right left", "left, then left, then right"),
    "white space": ("a  ball\tfalls\n\ndown  here", "it \n falls\t\tdown"),
    "CJK": ("球はどこへ moves 動きますか?", "左へ moves 動く。"),
    "emoji": ("What does 👩‍👩‍👧 do with 🎾?", "👍🏽 throws 🎾 up"),
    "compatibility forms": ("Ｗｈｅｒｅ does the ﬁsh go ½ way?", "ﬁrst ｕｐ"),
    "role name": ("user", "assistant"),
    "answer quotes the question": ("What moves?", "What moves? The ball moves."),
    "options": ("What moves?\nA. the ball\nB. the cube\nC. nothing", "A. the ball"),
    "truncated": ("What happens?", LONG),
    "composed once": ("O\u00f9 va le caf\u00e9 \u00e0 l'\u00e9cole?", "Tr\u00e8s \u00e0 gauche"),
}


@pytest.fixture(scope="module")
def t5():
    """A unigram tokenizer trained here, with T5's normalization (NFKC) and word-start pieces."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    words = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    trainer = trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    corpus = [TALK.question, "the red ball moves slowly to the left", "where which what number first"]
    corpus.append("towards the green box it rolls down and up again")
    tokenizer.train_from_iterator([*corpus, *(word for line in corpus for word in line.split())] * 20, trainer)
    return tokenizer


def pieces_of(t5, question, response):
    """Pieces of response and question without bare word starts, truncated like the video model's text."""
    found = []
    for field, text in (("response", response), ("question", question)):
        encoded = t5.encode(text)
        for token, (start, end) in zip(encoded.tokens, encoded.offsets, strict=True):
            inner = text[start:end]
            if token != "▁" and inner.strip():
                start, end = start + len(inner) - len(inner.lstrip()), start + len(inner.rstrip())
                found.append(SimpleNamespace(token=token, field=field, start=start, end=end))
    return found[: LIMIT - 1]


def counted(pieces, made):
    """Shares by characters: every visible character of a piece gives one count to every token that holds it."""
    full = torch.zeros(len(pieces), len(made.input_ids), dtype=torch.float64)
    for t, piece in enumerate(pieces):
        for place in range(made.spans[piece.field][0] + piece.start, made.spans[piece.field][0] + piece.end):
            for n, (start, end) in enumerate(made.offsets.tolist()):
                if start <= place < end:
                    blank = made.text[start:end]
                    first, last = start + len(blank) - len(blank.lstrip()), start + len(blank.rstrip())
                    full[t, n] += first <= place < last
    return full / full.sum(1, keepdim=True).clamp_min(1)


@pytest.mark.parametrize("case", CASES)
def test_every_piece_finds_its_characters(vlm, t5, case):
    question, response = CASES[case]
    made = example(vlm, Conversation([("What is it?", response[:9].strip())], question, response))
    pieces = pieces_of(t5, question, response)
    assert len(pieces) == LIMIT - 1 if case == "truncated" else len(pieces) > 0
    map_TR, rows_R, covered_T = token_map(pieces, made)
    assert bool(covered_T.all())
    assert coverage(covered_T) == 1
    assert torch.allclose(map_TR.sum(1), torch.ones(len(pieces)))
    assert int(rows_R.min()) > int(made.video_columns.max())
    full = torch.zeros(len(pieces), len(made.input_ids), dtype=torch.float64)
    full[:, rows_R] = map_TR.double()
    assert torch.allclose(full, counted(pieces, made), atol=1e-6)
    response_from = int(torch.nonzero(made.labels != -100)[0])
    for t, piece in enumerate(pieces):
        used = rows_R[map_TR[t] > 0]
        assert bool((used >= response_from).all() if piece.field == "response" else (used < response_from).all())


def test_known_map():
    """One word in two tokens of 2 and 4 characters, by hand."""
    ids = torch.zeros(5, dtype=torch.long)
    tokens = {"input_ids": ids, "position_ids": ids.expand(3, -1), "labels": ids}
    offsets = torch.tensor([[0, 6], [6, 7], [7, 10], [10, 14], [14, 16]])
    text = {"text": "video|a banana b", "spans": {"question": (6, 16)}}
    made = replace(example(load(NAMES[0])), offsets=offsets, **tokens, **text)
    spans = [(2, 8), (0, 1), (0, 8)]  # the space between belongs to nobody
    pieces = [SimpleNamespace(token="▁x", field="question", start=start, end=end) for start, end in spans]
    map_TR, rows_R, covered_T = token_map(pieces, made)
    assert rows_R.tolist() == [1, 2, 3]
    assert torch.allclose(map_TR, torch.tensor([[0, 1 / 3, 2 / 3], [1, 0, 0], [1 / 7, 2 / 7, 4 / 7]]))
    assert covered_T.tolist() == [True, True, True]


def test_pieces_without_counterpart_are_not_covered(vlm):
    made = example(vlm, Conversation([], "a  b", "c"))
    blank = SimpleNamespace(token="▁", field="question", start=1, end=3)
    word = SimpleNamespace(token="▁b", field="question", start=3, end=4)
    map_TR, _, covered_T = token_map([blank, word], made)
    assert covered_T.tolist() == [False, True]
    assert map_TR.tolist() == [[0.0], [1.0]]
    assert coverage(covered_T) == 0.5
    assert [tuple(part.shape) for part in token_map([blank], made)] == [(1, 0), (0,), (1,)]
    assert [tuple(part.shape) for part in token_map([], made)] == [(0, 0), (0,), (0,)]
    assert coverage(torch.zeros(0, dtype=torch.bool)) == 0


def test_another_text_is_refused(vlm):
    made = example(vlm, Conversation([], "Where?", None))
    with pytest.raises(DataError, match="6 characters"):
        token_map([SimpleNamespace(token="x", field="question", start=3, end=7)], made)
    with pytest.raises(DataError, match="does not have"):
        token_map([SimpleNamespace(token="x", field="response", start=0, end=1)], made)
