"""Rows to batches: which rows of an optimizer step this rank forwards, made ahead in the background.

Separate because it has no state: a batch is a pure function of its step, so prefetching, resuming and the layout cannot
change what is trained on.
"""

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmtrain.data.order import Order
from llmtrain.data.rows import Row, RowSource

Collate = Callable[[list[Row]], Any]
"""Rows to a micro-batch; an empty list gives one without targets."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One optimizer step's data on this rank."""

    step: int
    """0-based: optimizer steps before this one."""
    epoch: int
    """0-based."""
    micro_batches: list[Any]
    samples: list[int]
    """Indices of the step's samples over all ranks, counted since the start of training."""
    rows: int
    """Rows of the step over all ranks."""
    data_wait: float = 0.0
    """Seconds the loop waited for it."""


class StepLoader:
    """Batches by step. Rank r's j-th micro-batch holds rows (j * ranks + r) * micro_size on of the step's window.

    Every rank has the same number of micro-batches in a step; those beyond the window are empty.
    """

    def __init__(
        self, sources: Sequence[RowSource], order: Order, *, global_size: int, micro_size: int, collate: Collate,
        ranks: int = 1, rank: int = 0, drop_last: bool = False, prefetch: int = 0,
        skip_steps: Sequence[Sequence[int]] = (), start_offset: int = 0,
    ) -> None:  # fmt: skip
        """Args:
        global_size: rows of a step over all ranks.
        micro_size: rows of a micro-batch.
        ranks, rank: those that read different rows.
        drop_last: leave out an epoch's last window when it is smaller.
        prefetch: batches made ahead; 0 makes them when asked.
        skip_steps: `[first, last]`, 1-based and inclusive as users count: windows that no step trains on.
        start_offset: the step (0-based) at which data begins with its first window (`data.resume: restart`).
        """
        assert [len(source) for source in sources] == list(order.sizes)
        self.sources = tuple(sources)
        self.order = order
        self.global_size, self.micro_size = global_size, micro_size
        self.ranks, self.rank = ranks, rank
        self.collate = collate
        self.prefetch = prefetch
        self.skipped = _merged(skip_steps)
        self.start_offset = start_offset
        whole, rest = divmod(order.rows_per_epoch, global_size)
        self.steps_per_epoch = whole + (1 if rest and not drop_last else 0)
        """Windows of an epoch; 0 when `drop_last` leaves none, which the plan refuses."""

    def _window(self, step: int) -> tuple[int, int, int]:
        """(epoch, first sample, rows) of a step."""
        window = step - self.start_offset
        for first, last in self.skipped:
            if window >= first - 1:
                window += last - first + 1
        epoch, within = divmod(window, self.steps_per_epoch)
        size = min(self.global_size, self.order.rows_per_epoch - within * self.global_size)
        return (
            epoch,
            epoch * self.order.rows_per_epoch + within * self.global_size,
            size,
        )

    def where(self, step: int) -> tuple[int, int]:
        """(epoch, first sample) of a step."""
        epoch, first, _ = self._window(step)
        return epoch, first

    def batch(self, step: int) -> Batch:
        """The batch of a step, made now."""
        epoch, first, size = self._window(step)
        drawn = self.order.window(first, size)
        stride = self.ranks * self.micro_size
        micro_batches = []
        for start in range(self.rank * self.micro_size, -(-size // stride) * stride, stride):
            rows = [self.sources[source].row(row) for source, row in drawn[start : start + self.micro_size]]
            micro_batches.append(self.collate(rows))
        samples = list(range(first, first + size))
        return Batch(
            step=step,
            epoch=epoch,
            micro_batches=micro_batches,
            samples=samples,
            rows=size,
        )

    def steps(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches of steps start to stop - 1, made ahead; leaving the loop early ends the thread."""
        if self.prefetch == 0:
            for step in range(start, stop):
                begun = time.monotonic()
                yield replace(self.batch(step), data_wait=time.monotonic() - begun)
            return
        yield from _Ahead(self, start, stop).batches()

    def describe(self, samples: Sequence[int], limit: int = 8) -> str:
        """The samples for a message: source, row and where the row starts."""
        shown = []
        for sample in samples[:limit]:
            source, row, _ = self.order.draw(sample)
            name = self.sources[source].row(row).source
            shown.append(f"{name} row {row} ({self.sources[source].place(row)})")
        more = f" and {len(samples) - limit} more" if len(samples) > limit else ""
        return ", ".join(shown) + more


def _merged(ranges: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Sorted ranges without overlap, as [first, last] of the windows themselves."""
    out: list[tuple[int, int]] = []
    for first, last in sorted((int(first), int(last)) for first, last in ranges):
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        elif first <= last:
            out.append((first, last))
    return out


class _Ahead:
    """A thread that makes batches into a short queue."""

    def __init__(self, loader: StepLoader, start: int, stop: int) -> None:
        self.loader = loader
        self.span = range(start, stop)
        self.made: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=loader.prefetch)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._work, name="prefetch", daemon=True)

    def batches(self) -> Iterator[Batch]:
        self.thread.start()
        try:
            for _ in self.span:
                begun = time.monotonic()
                found = self.made.get()
                if isinstance(found, BaseException):
                    raise found
                yield replace(found, data_wait=time.monotonic() - begun)
        finally:
            self.ended.set()
            self.thread.join()

    def _work(self) -> None:
        try:
            for step in self.span:
                if not self._put(self.loader.batch(step)):
                    return
        except BaseException as error:  # noqa: BLE001 - handed to the loop, which raises it
            self._put(error)

    def _put(self, item: Batch | BaseException) -> bool:
        """Queue the item; False when the loop has left."""
        while not self.ended.is_set():
            try:
                self.made.put(item, timeout=0.05)
                return True
            except queue.Full:
                continue
        return False


class EvalLoader:
    """Micro-batches that hold each row exactly once over all ranks; every rank makes the same number of forwards."""

    def __init__(
        self,
        source: RowSource,
        *,
        batch_size: int,
        collate: Collate,
        ranks: int = 1,
        rank: int = 0,
    ) -> None:
        self.source = source
        self.batch_size = batch_size
        self.collate = collate
        self.ranks, self.rank = ranks, rank

    def __len__(self) -> int:
        return math.ceil(len(self.source) / (self.batch_size * self.ranks))

    def __iter__(self) -> Iterator[Any]:
        for number in range(len(self)):
            start = (number * self.ranks + self.rank) * self.batch_size
            stop = min(start + self.batch_size, len(self.source))
            yield self.collate([self.source.row(index) for index in range(start, stop)])
