"""Which row comes at which place of training: a pure function of seed, epoch and index; separate because resume,
layout and workers must not be able to change it.
"""

import math
from collections.abc import Sequence

import numpy as np

from llmtrain.dist import fold_seed

_ROUNDS = 6
_MASK = (1 << 64) - 1
_MIX1, _MIX2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Permutation:
    """A keyed permutation of 0..n-1 without an index array.

    A Feistel network over the next even power of two, walked until the result is below n (Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains"); the round function is splitmix64's finaliser.
    """

    def __init__(self, n: int, key: int) -> None:
        assert 0 < n < 1 << 62
        self.n = n
        self.half = max(1, math.ceil((n - 1).bit_length() / 2))
        self.keys = [fold_seed(key, "round", number) for number in range(_ROUNDS)]

    def at(self, index: int) -> int:
        """The index-th element, 0 <= index < n."""
        assert 0 <= index < self.n
        low = (1 << self.half) - 1
        while True:
            left, right = index >> self.half, index & low
            for key in self.keys:
                left, right = right, left ^ (_mix(right ^ key) & low)
            index = left << self.half | right
            if index < self.n:
                return index

    def many(self, indices: np.ndarray) -> np.ndarray:
        """`at` for an array; int64 in and out."""
        out = indices.astype(np.uint64)
        todo = np.arange(len(out))
        low, half = np.uint64((1 << self.half) - 1), np.uint64(self.half)
        while len(todo):
            left, right = out[todo] >> half, out[todo] & low
            for key in self.keys:
                left, right = right, left ^ (mix_many(right ^ np.uint64(key)) & low)
            out[todo] = left << half | right
            todo = todo[out[todo] >= np.uint64(self.n)]
        return out.astype(np.int64)


def _mix(value: int) -> int:
    value = (value ^ value >> 30) * _MIX1 & _MASK
    value = (value ^ value >> 27) * _MIX2 & _MASK
    return value ^ value >> 31


def mix_many(value: np.ndarray) -> np.ndarray:
    """`mix` of every item; uint64 to uint64."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(_MIX1)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(_MIX2)
    return value ^ (value >> np.uint64(31))


class Order:
    """Draws of rows from weighted sources (formulas.md 14, factors).

    An epoch draws round(w * n) rows of a source: floor(w) whole copies, and a keyed subset for the rest, another one
    each epoch. With every weight 1 each row comes once an epoch. Unshuffled, sources follow each other and the subset
    is a window that moves on each epoch.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        *,
        seed: int,
        shuffle: bool,
    ) -> None:
        """Args:
        sizes: rows of each source.
        weights: factor of each source; a source with rows gives at least one draw.
        """
        assert len(sizes) == len(weights)
        self.sizes = tuple(sizes)
        self.draws = tuple(max(1, round(w * n)) if n else 0 for n, w in zip(sizes, weights, strict=True))
        self.whole = tuple(d // n * n if n else 0 for n, d in zip(sizes, self.draws, strict=True))
        self.ends = np.cumsum(self.draws, dtype=np.int64)
        self.rows_per_epoch = int(sum(self.draws))
        self.seed = seed
        self.shuffle = shuffle
        self._kept: dict[tuple[int, int], Permutation] = {}

    def draw(self, sample: int) -> tuple[int, int, int]:
        """(source, row, epoch) of the sample-th draw since the start of training; any sample costs the same."""
        epoch, position = divmod(sample, self.rows_per_epoch)
        if self.shuffle:
            position = self._permutation(epoch, -1, self.rows_per_epoch).at(position)
        source = int(np.searchsorted(self.ends, position, side="right"))
        within = position - int(self.ends[source] - self.draws[source])
        return source, self._row(source, within, epoch), epoch

    def window(self, first: int, count: int) -> list[tuple[int, int]]:
        """(source, row) of `count` draws from `first` on."""
        return [self.draw(sample)[:2] for sample in range(first, first + count)]

    def _row(self, source: int, within: int, epoch: int) -> int:
        size, whole = self.sizes[source], self.whole[source]
        if within < whole:
            return within % size
        rest = self.draws[source] - whole
        if not self.shuffle:
            return (epoch * rest + within - whole) % size
        return self._permutation(epoch, source, size).at(within - whole)

    def _permutation(self, epoch: int, source: int, n: int) -> Permutation:
        """That of the epoch (source -1) or of a source's subset; those of the last epochs are kept."""
        found = self._kept.get((epoch, source))
        if found is None:
            if len(self._kept) > 4 * len(self.sizes) + 8:
                self._kept.clear()
            found = Permutation(n, fold_seed(self.seed, "order", source, epoch))
            self._kept[epoch, source] = found
        return found
