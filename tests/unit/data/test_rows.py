"""Rows against a plain loop over documents: ids, labels, positions and counts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtrain.data.rows import (
    IGNORED,
    JoinedRows,
    PackedRows,
    RowSource,
    Segments,
    SingleRows,
    Stream,
)


def stream(lengths: list[int]) -> Stream:
    """Documents of those lengths with one token between them that belongs to none."""
    ends = np.cumsum(np.array(lengths) + 1)
    starts = ends - np.array(lengths)
    tokens = np.arange(int(ends[-1]), dtype=np.uint16) + 1000
    segments = Segments(starts=starts.astype(np.int64), lengths=np.array(lengths, np.int64))
    return Stream(tokens=tokens, segments=segments, source="s", locate=lambda token: f"f:{token}")


def flat(lengths: list[int]) -> list[tuple[int, bool]]:
    """(id, whether a document starts here) of the packed stream."""
    out, at = [], 1000
    for length in lengths:
        out += [(at + 1 + offset, offset == 0) for offset in range(length)]
        at += length + 1
    return out


def check(source: RowSource, expected: list[list[tuple[int, bool]]]) -> None:
    assert len(source) == len(expected)
    for index, content in enumerate(expected):
        row = source.row(index)
        assert row.ids.dtype == row.labels.dtype == row.positions.dtype == np.int32
        assert row.ids.tolist() == [id for id, _ in content]
        positions: list[int] = []
        for place, (_, starts) in enumerate(content):
            positions.append(0 if starts or place == 0 else positions[-1] + 1)
        assert row.positions.tolist() == positions
        wanted = [IGNORED if position == 0 else id for (id, _), position in zip(content, positions, strict=True)]
        assert row.labels.tolist() == wanted
        assert (row.index, source.place(index)) == (index, f"f:{content[0][0] - 1000}")
    assert source.tokens == sum(len(content) for content in expected)


lengths = st.lists(st.integers(1, 20), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(lengths=lengths, seq_len=st.integers(2, 9))
def test_packed_rows_are_the_stream_cut(lengths: list[int], seq_len: int) -> None:
    content = flat(lengths)
    cut = [content[start : start + seq_len] for start in range(0, len(content), seq_len)]
    cut = [row for row in cut if not all(starts for _, starts in row[1:])]
    source = PackedRows(stream(lengths), seq_len, "f")
    check(source, cut)
    assert source.supervised == sum(int((source.row(i).labels != IGNORED).sum()) for i in range(len(source)))


@settings(max_examples=200, deadline=None)
@given(lengths=lengths, seq_len=st.integers(2, 9))
def test_single_rows_are_pieces_of_one_document(lengths: list[int], seq_len: int) -> None:
    expected, content, at = [], flat(lengths), 0
    for length in lengths:
        pieces = [content[at + s : at + min(s + seq_len, length)] for s in range(0, length, seq_len)]
        expected += [piece for piece in pieces if len(piece) > 1]
        at += length
    source = SingleRows(stream(lengths), seq_len, "f")
    check(source, expected)
    assert source.supervised == sum(int((source.row(i).labels != IGNORED).sum()) for i in range(len(source)))


def test_joined_rows_follow_each_other() -> None:
    parts = [
        SingleRows(stream([3, 4]), 8, "a"),
        SingleRows(stream([1]), 8, "b"),
        SingleRows(stream([5]), 8, "c"),
    ]
    joined = JoinedRows(parts)
    assert [len(joined.row(index).ids) for index in range(len(joined))] == [3, 4, 5]
    assert joined.tokens == 12
    assert joined.fingerprint != JoinedRows(parts[::-1]).fingerprint


@pytest.mark.parametrize("kind", [PackedRows, SingleRows])
def test_a_row_outside_is_no_row(kind: type) -> None:
    source = kind(stream([3]), 4, "f")
    with pytest.raises(AssertionError):
        source.row(1)
