"""Ranks: the process group, agreement of ranks by JSON bytes, and seeds folded from names.

Separate so that nothing else calls collectives for control; no collective here pickles.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from llmtrain.lazy import Lazy

torch = Lazy("torch")
distributed = Lazy("torch.distributed")


def launched_world() -> tuple[int, int, int]:
    """(rank, local rank, world size) as the launcher's environment tells; (0, 0, 1) without one."""
    environment = os.environ
    world = int(environment.get("WORLD_SIZE", "1"))
    return int(environment.get("RANK", "0")), int(environment.get("LOCAL_RANK", "0")), world


SPINS = "1000"
"""Turns a waiting OpenMP thread takes before it sleeps; the runtime's own default is some hundred thousand."""


def share_processors() -> None:
    """Let waiting threads sleep soon; takes effect only before torch is imported.

    With a processor to itself training is as fast; beside another busy process it was measured 2.4 to 10 times faster
    (docs/benchmarks.md), because waiting threads no longer burn the time the others need. The user's own setting wins.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among its peers. All methods are collectives over a CPU group: every rank must call them."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    group: Any = None
    store: Any = None
    """Key-value store of the rendezvous; None in a world of one."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.world > 1:
            self.sum([0.0])

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise float64 sum over ranks."""
        return self._reduce(values, "SUM")

    def max(self, values: Sequence[float]) -> list[float]:
        """Element-wise float64 maximum over ranks."""
        return self._reduce(values, "MAX")

    def gather(self, value: Any) -> list[Any]:  # noqa: ANN401 - any JSON value
        """The JSON value of every rank, in rank order, on every rank."""
        if self.world == 1:
            return [json.loads(json.dumps(value))]
        payload = json.dumps(value).encode()
        sizes = self._reduce([float(len(payload)) if r == self.rank else 0.0 for r in range(self.world)], "SUM")
        width = int(max(sizes))
        mine = torch.zeros(width, dtype=torch.uint8)
        mine[: len(payload)] = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        parts = [torch.zeros(width, dtype=torch.uint8) for _ in range(self.world)]
        distributed.all_gather(parts, mine, group=self.group)
        return [json.loads(bytes(part[: int(size)].tolist())) for part, size in zip(parts, sizes, strict=True)]

    def broadcast(self, value: Any) -> Any:  # noqa: ANN401 - any JSON value
        """Rank 0's JSON value on every rank."""
        return self.gather(value if self.is_first else None)[0]

    def _reduce(self, values: Sequence[float], operation: str) -> list[float]:
        if self.world == 1:
            return [float(value) for value in values]
        tensor = torch.tensor(list(values), dtype=torch.float64)
        distributed.all_reduce(tensor, op=getattr(distributed.ReduceOp, operation), group=self.group)
        return tensor.tolist()


def start(*, backend: str, timeout: int) -> Ranks:
    """Join the process group that the environment describes; a world of one needs no network.

    Args:
        backend: `gloo` or `nccl`; control collectives always use a gloo group.
        timeout: seconds any collective may take.
    """
    rank, local_rank, world = launched_world()
    limit = timedelta(seconds=timeout)
    if world == 1:
        with tempfile.NamedTemporaryFile(prefix="llmtrain-store-", delete=False) as handle:
            name = handle.name
        try:
            store = distributed.FileStore(name, 1)
            distributed.init_process_group(backend, store=store, rank=0, world_size=1, timeout=limit)
        finally:
            Path(name).unlink(missing_ok=True)
        return Ranks()
    store, rank, world = next(distributed.rendezvous("env://", rank, world, timeout=limit))
    store.set_timeout(limit)
    distributed.init_process_group(
        backend, store=distributed.PrefixStore("llmtrain", store), rank=rank, world_size=world, timeout=limit
    )
    group = distributed.new_group(backend="gloo", timeout=limit) if backend != "gloo" else distributed.group.WORLD
    return Ranks(rank=rank, world=world, local_rank=local_rank, group=group, store=store)


def stop(ranks: Ranks) -> None:
    """Leave the process group; only on the clean path, when every rank arrives here.

    Nobody closes its connections before all ranks have ended their last collective: gloo reports a peer that closed
    after its last message as lost, even where that message has arrived.
    """
    if ranks.world > 1:
        _leave_together(ranks)
    distributed.destroy_process_group()


def _leave_together(ranks: Ranks) -> None:
    """Two rounds over the store, which the first rank may host: it goes on last."""
    others = range(1, ranks.world)
    if ranks.is_first:
        ranks.store.wait([f"leave/done/{rank}" for rank in others])
        ranks.store.set("leave/go", "1")
        ranks.store.wait([f"leave/gone/{rank}" for rank in others])
    else:
        ranks.store.set(f"leave/done/{ranks.rank}", "1")
        ranks.store.wait(["leave/go"])
        ranks.store.set(f"leave/gone/{ranks.rank}", "1")


PEER_ENDS = ("gloo", "connection closed by peer", "connection reset by peer", "nccl")
"""What backends say when the other side of a collective is gone."""


def is_peer_loss(error: BaseException) -> bool:
    """Whether an error inside a collective tells that another rank is gone, not that this one is wrong."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in PEER_ENDS)


def fold_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed from a seed and a path of names: the same on every machine, layout and Python."""
    text = json.dumps([seed, *names], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
