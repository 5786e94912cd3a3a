"""Batches: a pure function of the step, whole over any layout."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from llmtrain.data.loader import Batch, EvalLoader, StepLoader
from llmtrain.data.order import Order
from llmtrain.data.rows import Row


class Numbers:
    """Rows whose only id is their number."""

    tokens = 0
    fingerprint = "numbers"

    def __init__(self, count: int, fail_at: int | None = None) -> None:
        self.count, self.fail_at = count, fail_at

    def __len__(self) -> int:
        return self.count

    def row(self, index: int) -> Row:
        if index == self.fail_at:
            raise ValueError("broken row")
        ids = np.array([index], np.int32)
        return Row(ids=ids, labels=ids, positions=ids * 0, source="numbers", index=index)

    def place(self, index: int) -> str:
        return f"file:{index}"


def numbers(rows: list[Row]) -> list[int]:
    return [row.index for row in rows]


def loader(count: int = 23, **keys: object) -> StepLoader:
    order = Order([count], [1.0], seed=1, shuffle=bool(keys.pop("shuffle", True)))
    settings = {"global_size": 8, "micro_size": 2, "collate": numbers, **keys}
    return StepLoader([Numbers(count)], order, **settings)


def rows_of(batch: Batch) -> list[int]:
    return [row for micro_batch in batch.micro_batches for row in micro_batch]


def test_an_epoch_holds_each_row_once_and_ends_small() -> None:
    batches = [loader().batch(step) for step in range(3)]
    assert [batch.rows for batch in batches] == [8, 8, 7]
    assert sorted(row for batch in batches for row in rows_of(batch)) == list(range(23))
    assert [sample for batch in batches for sample in batch.samples] == list(range(23))
    assert loader().where(3) == (1, 23)


def test_drop_last_leaves_the_small_window_out() -> None:
    dropping = loader(drop_last=True)
    assert dropping.steps_per_epoch == 2
    assert (dropping.where(2), dropping.batch(2).rows) == ((1, 23), 8)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("micro_size", [1, 2, 3, 8])
def test_any_layout_sees_the_rows_of_the_step(ranks: int, micro_size: int) -> None:
    for step in range(4):
        whole = loader(micro_size=8).batch(step)
        parts = [loader(ranks=ranks, rank=rank, micro_size=micro_size).batch(step) for rank in range(ranks)]
        assert len({len(part.micro_batches) for part in parts}) == 1
        assert len(parts[0].micro_batches) == -(-whole.rows // (ranks * micro_size))
        interleaved = [
            row for group in zip(*(part.micro_batches for part in parts), strict=True) for m in group for row in m
        ]
        assert interleaved == rows_of(whole)
        assert all(part.samples == whole.samples for part in parts)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_prefetching_changes_nothing(prefetch: int) -> None:
    made = list(loader(prefetch=prefetch).steps(2, 9))
    assert [batch.step for batch in made] == list(range(2, 9))
    assert [rows_of(batch) for batch in made] == [rows_of(loader().batch(step)) for step in range(2, 9)]
    assert all(batch.data_wait >= 0 for batch in made)


def test_leaving_early_ends_the_thread() -> None:
    before = threading.active_count()
    steps: Iterator[Batch] = loader(prefetch=2).steps(0, 1000)
    next(steps)
    steps.close()
    assert threading.active_count() == before


def test_an_error_in_the_thread_reaches_the_loop() -> None:
    order = Order([23], [1.0], seed=1, shuffle=False)
    broken = StepLoader(
        [Numbers(23, fail_at=9)],
        order,
        global_size=8,
        micro_size=8,
        collate=numbers,
        prefetch=2,
    )
    steps = broken.steps(0, 3)
    assert rows_of(next(steps)) == list(range(8))
    with pytest.raises(ValueError, match="broken row"):
        next(steps)
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


def test_skipped_windows_are_passed_over() -> None:
    plain = [rows_of(loader(200).batch(step)) for step in range(20)]
    skipping = [rows_of(loader(200, skip_steps=[[5, 7], [2, 2], [6, 8]]).batch(step)) for step in range(10)]
    assert skipping == [plain[i] for i in (0, 2, 3, 8, 9, 10, 11, 12, 13, 14)]


def test_a_restart_begins_with_the_first_window() -> None:
    assert rows_of(loader(start_offset=7).batch(7)) == rows_of(loader().batch(0))


def test_samples_are_named() -> None:
    sequential = loader(shuffle=False)
    assert sequential.describe([3, 4]) == "numbers row 3 (file:3), numbers row 4 (file:4)"
    assert sequential.describe(range(20), limit=2).endswith("and 18 more")


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
@pytest.mark.parametrize("count", [1, 7, 16])
def test_evaluation_sees_each_row_once_on_any_layout(ranks: int, batch_size: int, count: int) -> None:
    loaders = [
        EvalLoader(Numbers(count), batch_size=batch_size, collate=numbers, ranks=ranks, rank=r) for r in range(ranks)
    ]
    made = [list(each) for each in loaders]
    assert len({len(batches) for batches in made}) == 1 and len(made[0]) == len(loaders[0])
    assert sorted(row for batches in made for batch in batches for row in batch) == list(range(count))
