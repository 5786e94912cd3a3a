"""The ledger closes or does not exist."""

import pytest

from llmtrain.record.ledger import Ledger, SourceLedger


def test_sums_must_close() -> None:
    SourceLedger(
        source="a",
        split="train",
        documents=1,
        raw=10,
        truncated=1,
        dropped=2,
        masked=3,
        supervised=4,
    )
    with pytest.raises(AssertionError):
        SourceLedger(
            source="a",
            split="train",
            documents=1,
            raw=10,
            truncated=1,
            dropped=2,
            masked=3,
            supervised=5,
        )


def test_totals_and_round_trip() -> None:
    entries = [
        SourceLedger(
            source=name,
            split=split,
            documents=2,
            raw=4,
            masked=1,
            supervised=3,
            bad_rows=1,
            bad=("f:1: x",),
        )
        for name, split in [("a", "train"), ("b", "train"), ("a", "eval:one")]
    ]
    ledger = Ledger(sources=tuple(entries), split="sources", notices=("look",))
    assert (ledger.total("raw"), ledger.total("supervised", "eval")) == (8, 3)
    assert Ledger.from_json(ledger.to_json()) == ledger
