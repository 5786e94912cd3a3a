"""Baselines against a plain loop that counts."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from llmtrain.data.rows import IGNORED, Row
from llmtrain.scoring import ngram


class Fixed:
    """Rows made of documents of ids."""

    def __init__(self, rows: list[list[list[int]]]) -> None:
        self.rows = rows
        self.tokens = sum(len(document) for row in rows for document in row)
        self.fingerprint = str(hash(str(rows)))

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int) -> Row:
        ids = np.array([i for document in self.rows[index] for i in document], np.int32)
        positions = np.array([p for document in self.rows[index] for p in range(len(document))], np.int32)
        return Row(
            ids=ids,
            labels=np.where(positions == 0, IGNORED, ids).astype(np.int32),
            positions=positions,
            source="s",
            index=index,
        )

    def place(self, index: int) -> str:
        return "f:1"


class Vocabulary:
    """Ten ids of two bytes each; id 0 ends."""

    eos_id, vocab_size, fingerprint = 0, 10, "v"

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        raise NotImplementedError

    def token_bytes(self) -> np.ndarray:
        return np.array([0] + [2] * 9, np.int32)


def rows(count: int, seed: int) -> list[list[list[int]]]:
    """A chain: each id is the sum of the two before, mod 9, plus 1; with some noise."""
    generator = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        row = []
        for length in generator.integers(1, 12, size=3):
            document = [int(generator.integers(1, 10)), int(generator.integers(1, 10))]
            while len(document) < length:
                noise = generator.random() < 0.2
                document.append(int(generator.integers(1, 10)) if noise else (document[-1] + document[-2]) % 9 + 1)
            row.append([*document, 0])
        out.append(row)
    return out


def test_the_unigram_equals_a_plain_count() -> None:
    train, held = rows(30, 1), rows(8, 2)
    found = ngram.baselines(Fixed(train), Fixed(held), Vocabulary())["1-gram"]
    targets = [i for row in train for document in row for i in document[1:]]
    counts, tested = (
        Counter(targets),
        [i for row in held for document in row for i in document[1:]],
    )
    nats = -sum(math.log((counts[i] + 1) / (len(targets) + 10)) for i in tested)
    size = sum(0 if i == 0 else 2 for i in tested)
    assert found["loss"] == pytest.approx(nats / len(tested), rel=1e-12)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-12)
    assert (found["targets"], found["counted"]) == (len(tested), len(targets))


def test_the_trigram_finds_the_rule() -> None:
    found = ngram.baselines(Fixed(rows(4000, 1)), Fixed(rows(200, 2)), Vocabulary())
    assert found["3-gram"]["loss"] < 0.75 * found["1-gram"]["loss"]


def test_probabilities_sum_to_one_for_any_context() -> None:
    train = [Fixed(rows(50, 1)).row(index) for index in range(50)]
    model = ngram._Model(ngram._joined([ngram._targets(row) for row in train]), 10)
    weights = ngram._fit(model, model.data)
    for second in (-1, 1, 3, 0):
        for first in (1, 5):
            data = ngram._Targets(
                target=np.arange(10),
                first=np.full(10, first),
                second=np.full(10, second),
            )
            total = ngram._mixed(model.parts(data), weights).sum()
            assert total == pytest.approx(1.0, abs=1e-12)


def test_context_never_crosses_a_document() -> None:
    joined, apart = [[[1, 2, 3, 4]]] * 20, [[[1, 2], [3, 4]]] * 20
    assert ngram._targets(Fixed(apart).row(0)).second.tolist() == [-1, -1]
    assert ngram._targets(Fixed(joined).row(0)).second.tolist() == [-1, 1, 2]
    model = ngram._Model(ngram._joined([ngram._targets(Fixed(apart).row(i)) for i in range(20)]), 10)
    assert model.twos.of(np.array([12, 23, 34])).tolist() == [20, 0, 20]
    model = ngram._Model(ngram._joined([ngram._targets(Fixed(joined).row(i)) for i in range(20)]), 10)
    assert model.threes.of(np.array([123, 234])).tolist() == [20, 20]


def test_results_are_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, held = Fixed(rows(20, 1)), Fixed(rows(5, 2))
    first = ngram.baselines(train, held, Vocabulary(), cache=tmp_path)
    monkeypatch.setattr(ngram, "_measure", lambda *a: {"other": {}})
    assert ngram.baselines(train, held, Vocabulary(), cache=tmp_path) == first
    assert ngram.baselines(train, Fixed(rows(5, 3)), Vocabulary(), cache=tmp_path) == {"other": {}}


def test_large_data_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram, "COUNTED", 100)
    found = ngram.baselines(Fixed(rows(200, 1)), Fixed(rows(5, 2)), Vocabulary())
    assert 50 < found["1-gram"]["counted"] <= 100
