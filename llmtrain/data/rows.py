"""Token streams to rows: packing, splitting and the labels; separate because training, evaluation and baselines must
see exactly the same targets.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

IGNORED = -100
"""Label of a token that is no target (the Hugging Face convention)."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training sequence of S tokens."""

    ids: np.ndarray
    """int32 [S]."""
    labels: np.ndarray
    """int32 [S]: the ids, not shifted; `IGNORED` at each document's first token in the row."""
    positions: np.ndarray
    """int32 [S]: 0 at each document's first token in the row, then counting on."""
    source: str
    index: int


class RowSource(Protocol):
    """Rows by index; rows never change and cost the same wherever they stand."""

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when any row could differ."""
        ...

    def __len__(self) -> int: ...

    def row(self, index: int) -> Row: ...

    def place(self, index: int) -> str:
        """`file:row` of the row's first token, for messages."""
        ...


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Documents, or parts of documents, as slices of a token array; int64 arrays of one length."""

    starts: np.ndarray
    lengths: np.ndarray

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())

    def where(self, chosen: np.ndarray) -> "Segments":
        """Those the boolean mask keeps."""
        return Segments(starts=self.starts[chosen], lengths=self.lengths[chosen])


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Segments of a source's tokens and how to name them."""

    tokens: np.ndarray
    segments: Segments
    source: str
    locate: Callable[[int], str]
    """`file:row` of a token index."""


class _Rows:
    """What packed and single rows share."""

    def __init__(self, stream: Stream, seq_len: int, fingerprint: str) -> None:
        self.stream = stream
        self.seq_len = seq_len
        self.fingerprint = fingerprint

    def _row(self, parts: Sequence[tuple[int, int]], index: int) -> Row:
        """A row of (start, stop) slices, each a document of its own."""
        ids = np.concatenate([self.stream.tokens[start:stop] for start, stop in parts]).astype(np.int32)
        positions = np.concatenate([np.arange(stop - start, dtype=np.int32) for start, stop in parts])
        labels = np.where(positions == 0, np.int32(IGNORED), ids)
        return Row(
            ids=ids,
            labels=labels,
            positions=positions,
            source=self.stream.source,
            index=index,
        )


class PackedRows(_Rows):
    """The stream cut every `seq_len` tokens; only the last row is shorter. Rows without a target are left out."""

    def __init__(self, stream: Stream, seq_len: int, fingerprint: str) -> None:
        super().__init__(stream, seq_len, fingerprint)
        self._bounds = np.concatenate([[0], np.cumsum(stream.segments.lengths)]).astype(np.int64)
        total = int(self._bounds[-1])
        count = -(-total // seq_len)
        targets = self._targets(count, total)
        self._kept = None if bool((targets > 0).all()) else np.flatnonzero(targets > 0)
        self._count = count if self._kept is None else len(self._kept)
        self.supervised = int(targets.sum())
        lengths = np.full(count, seq_len, np.int64)
        lengths[-1:] = total - (count - 1) * seq_len
        self.tokens = int(lengths[targets > 0].sum())

    def _targets(self, count: int, total: int) -> np.ndarray:
        """int64 [count]: targets of each row of the stream."""
        firsts = self._bounds[:-1]
        targets = np.full(count, self.seq_len, np.int64)
        targets[-1:] = total - (count - 1) * self.seq_len
        targets -= np.bincount(firsts // self.seq_len, minlength=count)
        goes_on = np.ones(count, bool)
        goes_on[firsts[firsts % self.seq_len == 0] // self.seq_len] = False
        return targets - goes_on

    def __len__(self) -> int:
        return self._count

    def _span(self, index: int) -> tuple[int, int]:
        assert 0 <= index < self._count, (index, self._count)
        number = index if self._kept is None else int(self._kept[index])
        return number * self.seq_len, min((number + 1) * self.seq_len, int(self._bounds[-1]))

    def row(self, index: int) -> Row:
        low, high = self._span(index)
        first = int(np.searchsorted(self._bounds, low, side="right")) - 1
        last = int(np.searchsorted(self._bounds, high, side="left"))
        shifts = self.stream.segments.starts[first:last] - self._bounds[first:last]
        begins = np.maximum(self._bounds[first:last], low) + shifts
        ends = np.minimum(self._bounds[first + 1 : last + 1], high) + shifts
        return self._row(list(zip(begins.tolist(), ends.tolist(), strict=True)), index)

    def place(self, index: int) -> str:
        low, _ = self._span(index)
        segment = int(np.searchsorted(self._bounds, low, side="right")) - 1
        return self.stream.locate(int(self.stream.segments.starts[segment]) + low - int(self._bounds[segment]))


class SingleRows(_Rows):
    """One piece of one document a row, at most `seq_len` long; pieces of one token have no target and are left out."""

    def __init__(self, stream: Stream, seq_len: int, fingerprint: str) -> None:
        super().__init__(stream, seq_len, fingerprint)
        lengths = stream.segments.lengths
        lone = (lengths % seq_len == 1).astype(np.int64)
        self._ends = np.cumsum(-(-lengths // seq_len) - lone)
        self.tokens = int(lengths.sum() - lone.sum())
        self.supervised = self.tokens - len(self)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _span(self, index: int) -> tuple[int, int]:
        assert 0 <= index < len(self), (index, len(self))
        segment = int(np.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[segment - 1]) if segment else 0
        start, length = (
            int(self.stream.segments.starts[segment]),
            int(self.stream.segments.lengths[segment]),
        )
        offset = (index - before) * self.seq_len
        return start + offset, start + min(offset + self.seq_len, length)

    def row(self, index: int) -> Row:
        return self._row([self._span(index)], index)

    def place(self, index: int) -> str:
        return self.stream.locate(self._span(index)[0])


class JoinedRows:
    """Several row sources one after the other."""

    def __init__(self, parts: Sequence[RowSource]) -> None:
        self.parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        self.tokens = sum(part.tokens for part in parts)
        self.fingerprint = hashlib.sha256("".join(part.fingerprint for part in parts).encode()).hexdigest()

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.parts else 0

    def _find(self, index: int) -> tuple[RowSource, int]:
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[part], index - int(self._ends[part - 1] if part else 0)

    def row(self, index: int) -> Row:
        part, within = self._find(index)
        return part.row(within)

    def place(self, index: int) -> str:
        part, within = self._find(index)
        return part.place(within)
