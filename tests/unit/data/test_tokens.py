"""Tokenizers: training is repeatable, files open elsewhere, bytes are exact, user text is never control."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from llmtrain.data.documents import PIECE, cut
from llmtrain.data.tokens import (
    END,
    TRAINING_CHARACTERS,
    FastTokenizer,
    sampled,
    train_bpe,
    training_key,
)
from llmtrain.errors import Failure
from tests.unit.data.conftest import sentence

TEXTS = [
    "plain words",
    "caf\u00e9 \u65e5\u672c \U0001f600",
    "tabs\tand\n\nlines  ",
    "def f(x):\n    return x**2\n",
    "\u2028",
]


def test_training_twice_gives_the_same_file(tmp_path: Path) -> None:
    folders = [train_bpe((sentence(n) for n in range(100)), vocab_size=400, folder=tmp_path / name) for name in "ab"]
    assert len({(folder / "tokenizer.json").read_bytes() for folder in folders}) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b"]


def test_small_data_give_what_they_can(tmp_path: Path) -> None:
    tokenizer = FastTokenizer(train_bpe(["ab"], vocab_size=4096, folder=tmp_path / "t"))
    assert 257 <= tokenizer.vocab_size < 300 and tokenizer.eos_id == 0


def test_transformers_opens_it_and_agrees(tokenizer: FastTokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    other = transformers.AutoTokenizer.from_pretrained(str(tokenizer.path.parent))
    assert (other.eos_token_id, other.bos_token_id, other.pad_token_id) == (0, 0, 0)
    assert [other(text, add_special_tokens=False)["input_ids"] for text in TEXTS] == tokenizer.encode_batch(TEXTS)
    assert len(other) == tokenizer.vocab_size


def test_text_comes_back_and_its_bytes_are_exact(tokenizer: FastTokenizer) -> None:
    sizes = tokenizer.token_bytes()
    assert (sizes.dtype, len(sizes), sizes[tokenizer.eos_id]) == (
        np.int32,
        tokenizer.vocab_size,
        0,
    )
    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        assert tokenizer.decode(ids) == text
        assert sizes[ids].sum() == len(text.encode())


def test_a_special_token_in_text_is_text(tokenizer: FastTokenizer) -> None:
    [ids] = tokenizer.encode_batch([f"a{END}b"])
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == f"a{END}b"


def test_bytes_of_a_vocabulary_with_byte_fallback(tmp_path: Path) -> None:
    vocabulary = {
        "<unk>": 0,
        "</s>": 1,
        "\u2581the": 2,
        "caf": 3,
        "<0xC3>": 4,
        "<0xA9>": 5,
        "\u2581": 6,
        "\u00e9": 7,
    }
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    inner.add_special_tokens(["<unk>", "</s>"])
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    inner.decoder = tokenizers.decoders.Metaspace()
    inner.save(str(tmp_path / "tokenizer.json"))
    assert FastTokenizer(tmp_path).token_bytes().tolist() == [0, 0, 4, 3, 1, 1, 1, 2]
    assert FastTokenizer(tmp_path).eos_id == 1


def test_truncation_and_padding_in_the_file_are_off(tokenizer: FastTokenizer, tmp_path: Path) -> None:
    spec = json.loads(tokenizer.path.read_text())
    spec["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    spec["padding"] = {
        "strategy": {"Fixed": 9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": END,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    assert FastTokenizer(tmp_path).encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    assert FastTokenizer(tmp_path).fingerprint != tokenizer.fingerprint


def test_long_documents_tokenise_in_pieces_as_they_do_whole(tmp_path: Path) -> None:
    ends = (" ", "  ", "\n\n\n", " \n \n", "\n")
    text = "".join(sentence(n) + ends[n * n % 9 % 5] for n in range(20_000))
    tokenizer = FastTokenizer(train_bpe([text[:50_000]], vocab_size=400, folder=tmp_path / "t"))
    pieces = list(cut([text[i : i + 99_991] for i in range(0, len(text), 99_991)], file="f", row=1))
    assert "".join(piece.text for piece in pieces) == text and len(pieces) > 3
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert max(len(piece.text) for piece in pieces) <= 2 * PIECE
    joined = [id for ids in tokenizer.encode_batch([piece.text for piece in pieces]) for id in ids]
    assert joined == tokenizer.encode_batch([text])[0]
    assert [p.text for p in pieces] == [p.text for p in cut([text], file="f", row=1)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no tokenizer.json"),
        ("", "not a tokenizer"),
        ("{}", "not a tokenizer"),
        ("[1]", "not a tokenizer"),
        ("\u00e9", "not a tokenizer"),
    ],
)
def test_what_is_no_tokenizer_is_refused(content: str | None, expected: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content, "latin-1")
    with pytest.raises(Failure, match=expected) as caught:
        FastTokenizer(tmp_path)
    assert caught.value.problems[0].id == "E-MODEL-004"


def test_an_unknown_end_of_text_is_refused(tokenizer: FastTokenizer) -> None:
    with pytest.raises(Failure, match='no token "<end>"'):
        FastTokenizer(tokenizer.path, eos="<end>")


def test_large_data_are_sampled_by_content() -> None:
    texts = [sentence(n) for n in range(2000)]
    chosen = list(sampled(texts, TRAINING_CHARACTERS * 4))
    assert 400 < len(chosen) < 600
    assert set(sampled(texts[::-1], TRAINING_CHARACTERS * 4)) == set(chosen)
    assert list(sampled(texts, None)) == texts


def test_the_key_of_a_trained_tokenizer_follows_its_data() -> None:
    assert (
        len(
            {
                training_key(["a"], 300),
                training_key(["b"], 300),
                training_key(["a"], 301),
            }
        )
        == 3
    )
