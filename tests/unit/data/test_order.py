"""The order of rows: exact, pure and free to seek."""

from collections import Counter

import numpy as np
import pytest

from llmtrain.data.order import Order, Permutation


@pytest.mark.parametrize("n", [*range(1, 201), 1000, 4097])
def test_a_permutation_hits_each_index_once(n: int) -> None:
    permutation = Permutation(n, key=n)
    assert sorted(permutation.at(index) for index in range(n)) == list(range(n))


def test_many_equals_at() -> None:
    permutation = Permutation(997, key=5)
    assert permutation.many(np.arange(997)).tolist() == [permutation.at(index) for index in range(997)]


def test_a_permutation_is_the_same_on_every_machine() -> None:
    assert [Permutation(10, key=1).at(index) for index in range(10)] == [
        6,
        1,
        3,
        4,
        2,
        5,
        0,
        9,
        8,
        7,
    ]
    assert Permutation(10**12, key=7).at(10**11) == 473755941991
    big = Permutation(10**12, key=7)
    assert len({big.at(index) for index in range(10**12 - 500, 10**12)}) == 500


@pytest.mark.parametrize("n", [1, 2, 3, 7, 50, 199])
@pytest.mark.parametrize("shuffle", [True, False])
def test_each_row_comes_once_an_epoch(n: int, shuffle: bool) -> None:
    order = Order([n, 2 * n], [1.0, 1.0], seed=3, shuffle=shuffle)
    for epoch in range(3):
        draws = [order.draw(epoch * 3 * n + index) for index in range(3 * n)]
        assert Counter(draws) == Counter(
            [(0, row, epoch) for row in range(n)] + [(1, row, epoch) for row in range(2 * n)]
        )
        if not shuffle:
            assert [draw[:2] for draw in draws[:n]] == [(0, row) for row in range(n)]


def test_epochs_and_seeds_differ() -> None:
    order, other = (
        Order([100], [1.0], seed=1, shuffle=True),
        Order([100], [1.0], seed=2, shuffle=True),
    )
    first = [row for _, row in order.window(0, 100)]
    assert first != [row for _, row in order.window(100, 100)]
    assert first != [row for _, row in other.window(0, 100)]
    assert first != sorted(first)


@pytest.mark.parametrize("shuffle", [True, False])
def test_weights_multiply_rows(shuffle: bool) -> None:
    order = Order([10, 10, 10], [0.5, 2.0, 1.3], seed=4, shuffle=shuffle)
    assert order.rows_per_epoch == 5 + 20 + 13
    halves = []
    for epoch in range(2):
        counts = Counter(order.draw(epoch * 38 + index)[:2] for index in range(38))
        halves.append({row for (source, row) in counts if source == 0})
        assert len(halves[-1]) == 5
        assert all(counts[1, row] == 2 for row in range(10))
        assert sorted(counts[2, row] for row in range(10)) == [1] * 7 + [2] * 3
    assert halves[0] != halves[1]
    if not shuffle:
        assert halves[0] | halves[1] == set(range(10))


def test_seeking_far_equals_walking_there() -> None:
    order = Order([1000, 37], [1.0, 2.5], seed=9, shuffle=True)
    walked = [order.draw(index) for index in range(5000)]
    assert Order([1000, 37], [1.0, 2.5], seed=9, shuffle=True).draw(4321) == walked[4321]
    source, row, epoch = order.draw(10**12)
    assert (source in (0, 1), row < 1000, epoch) == (
        True,
        True,
        10**12 // order.rows_per_epoch,
    )
