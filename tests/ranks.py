"""Ranks forked from the test's own process: a gloo group on a file store, without a launcher or new imports."""

import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from llmtrain.dist import Ranks

WAIT = 60.0


def on_ranks(world: int, work: Callable[[Ranks], object], scratch: Path, *, wait: float = WAIT) -> list[int]:
    """Run `work` in forked processes that form a gloo group; their exit codes, -9 for one that had to be killed."""
    store = scratch / f"store-{time.monotonic_ns()}"
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            _rank(rank, world, work, store)
        children.append(child)
    deadline = time.monotonic() + wait
    codes: dict[int, int] = {}
    while len(codes) < world:
        for child in set(children) - set(codes):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                codes[child] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            for child in set(children) - set(codes):
                os.kill(child, 9)
                os.waitpid(child, 0)
                codes[child] = -9
        time.sleep(0.01)
    return [codes[child] for child in children]


def _rank(rank: int, world: int, work: Callable[[Ranks], object], store: Path) -> None:
    code = 97
    try:
        torch.set_num_threads(1)
        torch.distributed.init_process_group(
            "gloo",
            store=torch.distributed.FileStore(str(store), world),
            rank=rank,
            world_size=world,
        )
        work(
            Ranks(
                rank=rank,
                world=world,
                local_rank=rank,
                group=torch.distributed.group.WORLD,
            )
        )
        torch.distributed.barrier()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
