"""What counting alone reaches on held-out text: 1-gram and 3-gram losses beside which a model's loss means something.

Separate because it needs rows but no model. Targets and contexts are those of the model's own evaluation: no context
crosses a document or a row.
"""

import hashlib
import json
import math
import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmtrain.data.rows import IGNORED, Row, RowSource
from llmtrain.data.tokens import Tokenizer

COUNTED = 5_000_000
"""Tokens counted at most; more training text is sampled by rows, evenly spaced."""
_VERSION = 1
_ROUNDS = 15
"""Steps of expectation maximisation; the weights stand still before."""
_BUCKETS = 8


def baselines(
    train: RowSource,
    held_out: RowSource,
    tokenizer: Tokenizer,
    *,
    cache: Path | None = None,
) -> dict[str, dict[str, float]]:
    """`1-gram` (add-one smoothing) and `3-gram` (linear interpolation), each with `loss` in nats a target,
    `bits_per_byte` of the targets' UTF-8 text, `targets`, and `counted`, the training targets counted.

    P(w|u,v) = a3 c(u,v,w)/c(u,v) + a2 c(v,w)/c(v) + a1 P1(w) (Jelinek and Mercer 1980); the weights depend on how
    often the context (u,v) was seen and are fitted by expectation maximisation on every tenth training row.

    Args:
        cache: folder of the cache; results are kept there by fingerprint.
    """
    parts = [
        _VERSION,
        COUNTED,
        train.fingerprint,
        held_out.fingerprint,
        tokenizer.fingerprint,
    ]
    name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40] + ".json"
    path = cache / "baselines" / name if cache is not None else None
    if path is not None and path.is_file():
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            path.unlink(missing_ok=True)
    found = _measure(train, held_out, tokenizer)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{name}-{secrets.token_hex(4)}")
        temporary.write_text(json.dumps(found), encoding="utf-8")
        temporary.rename(path)
    return found


@dataclass(frozen=True, kw_only=True)
class _Targets:
    """Targets with the two ids before them; int64 arrays. `second` is -1 where only one id stands before."""

    target: np.ndarray
    first: np.ndarray
    second: np.ndarray


def _measure(train: RowSource, held_out: RowSource, tokenizer: Tokenizer) -> dict[str, dict[str, float]]:
    stride = max(1, -(-train.tokens // COUNTED))
    rows = [_targets(train.row(index)) for index in range(0, len(train), stride)]
    fitted_on = _joined(rows[9::10] or rows)
    counted_on = _joined([row for index, row in enumerate(rows) if index % 10 != 9])
    weights = _fit(_Model(counted_on, tokenizer.vocab_size), fitted_on)
    model = _Model(_joined(rows), tokenizer.vocab_size)
    tested = _joined([_targets(held_out.row(index)) for index in range(len(held_out))])
    probabilities = {
        "1-gram": model.unigram(tested),
        "3-gram": _mixed(model.parts(tested), weights),
    }
    count, size = (
        len(tested.target),
        max(1, int(tokenizer.token_bytes()[tested.target].sum())),
    )
    out = {}
    for name, values in probabilities.items():
        nats = float(-np.log(values).sum())
        out[name] = {
            "loss": nats / count, "bits_per_byte": nats / math.log(2) / size,
            "targets": count, "counted": len(model.data.target),
        }  # fmt: skip
    return out


def _targets(row: Row) -> _Targets:
    at = np.flatnonzero(row.labels != IGNORED)
    second = np.where(row.positions[at] >= 2, row.ids[np.maximum(at - 2, 0)], -1)
    first, target = row.ids[at - 1].astype(np.int64), row.ids[at].astype(np.int64)
    return _Targets(target=target, first=first, second=second.astype(np.int64))


def _joined(parts: list[_Targets]) -> _Targets:
    return _Targets(
        target=np.concatenate([part.target for part in parts]),
        first=np.concatenate([part.first for part in parts]),
        second=np.concatenate([part.second for part in parts]),
    )


class _Counts:
    """Occurrences of 63-bit keys."""

    def __init__(self, keys: np.ndarray) -> None:
        self.keys, self.counts = np.unique(keys, return_counts=True)

    def of(self, keys: np.ndarray) -> np.ndarray:
        """int64: how often each key occurred."""
        if not len(self.keys):
            return np.zeros(len(keys), np.int64)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.counts[at], 0)


class _Model:
    """Counts of one, two and three ids."""

    def __init__(self, data: _Targets, vocab_size: int) -> None:
        self.data = data
        self.vocab_size = vocab_size
        self.ones = np.bincount(data.target, minlength=vocab_size)
        self.twos = _Counts(self._pair(data.first, data.target))
        self.firsts = np.bincount(data.first, minlength=vocab_size)
        known = data.second >= 0
        context = self._pair(data.second[known], data.first[known])
        self.contexts = _Counts(context)
        self.threes = _Counts(self._pair(context, data.target[known]))

    def _pair(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return left * self.vocab_size + right

    def unigram(self, data: _Targets) -> np.ndarray:
        """Add-one probability of each target."""
        return (self.ones[data.target] + 1) / (len(self.data.target) + self.vocab_size)

    def parts(self, data: _Targets) -> tuple[np.ndarray, np.ndarray]:
        """(float64 [3, n] probabilities by 1, 2 and 3 ids; int64 [n] bucket of the context's count).

        A context never seen hands over to the shorter one, so that each part is a distribution.
        """
        context = np.where(data.second >= 0, self._pair(data.second, data.first), -1)
        seen = self.contexts.of(context)
        pairs = self.twos.of(self._pair(data.first, data.target))
        triples = np.where(context >= 0, self.threes.of(self._pair(context, data.target)), 0)
        one, before = self.unigram(data), self.firsts[data.first]
        two = np.where(before > 0, pairs / np.maximum(before, 1), one)
        three = np.where(seen > 0, triples / np.maximum(seen, 1), two)
        bucket = np.minimum(np.ceil(np.log2(seen + 1)).astype(np.int64), _BUCKETS - 1)
        return np.stack([one, two, three]), bucket


def _fit(model: _Model, data: _Targets) -> np.ndarray:
    """float64 [buckets, 3]: interpolation weights that make the data most probable."""
    parts, bucket = model.parts(data)
    weights = np.full((_BUCKETS, 3), 1 / 3)
    for _ in range(_ROUNDS):
        shares = weights[bucket].T * parts
        shares /= shares.sum(axis=0)
        sums = (
            np.stack(
                [np.bincount(bucket, weights=share, minlength=_BUCKETS) for share in shares],
                axis=1,
            )
            + 1e-3
        )
        weights = sums / sums.sum(axis=1, keepdims=True)
    return weights


def _mixed(found: tuple[np.ndarray, np.ndarray], weights: np.ndarray) -> np.ndarray:
    parts, bucket = found
    return (weights[bucket].T * parts).sum(axis=0)
