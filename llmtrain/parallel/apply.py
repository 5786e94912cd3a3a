"""The only place that orders what happens to a stage: recompute, compile, shard.

Sharding comes last, on whole weights: every rank built the same ones, so each keeps its slice without a message.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.utils.checkpoint import checkpoint

from llmtrain.parallel.mesh import Mesh
from llmtrain.parallel.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is done to a stage."""

    recompute: bool
    compile: dict[str, Any] | None
    """Keyword arguments of torch.compile, None = off."""
    reshard: bool
    """Give gathered parameters back after the forward (full sharding)."""


def apply(stage: Stage, mesh: Mesh, layout: Layout) -> None:
    """Prepare `stage` in place; collective when the mesh has more than one rank."""
    if layout.recompute:
        for block in stage.blocks():
            _recompute(block)
    if layout.compile is not None:
        for block in stage.blocks():
            block.compile(**layout.compile)
    if mesh.data_ranks > 1:
        for block in stage.blocks():
            fully_shard(block, mesh=mesh.grid, reshard_after_forward=layout.reshard)
        fully_shard(stage, mesh=mesh.grid, reshard_after_forward=False)


def reshard(stage: Stage) -> None:
    """Give gathered parameters back after a pass without a backward, which would have done it.

    Until then the module shows gathered tensors whose memory may be gone.
    """
    for module in stage.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def reduce_now(stage: Stage, *, last: bool) -> None:
    """Whether the next backward sums gradients over the ranks: only the last of a step does; every rank must agree."""
    if isinstance(stage, FSDPModule):
        stage.set_is_last_backward(last)
        stage.set_requires_gradient_sync(last)


@contextmanager
def gathered_outside_blocks(stage: Stage) -> Iterator[None]:
    """Parameters outside the blocks whole, so that the inner model may be called without the stage; collective."""
    if isinstance(stage, FSDPModule):
        stage.unshard()
    try:
        yield
    finally:
        reshard(stage)


def _recompute(block: nn.Module) -> None:
    """Run the block's forward again in the backward pass; no wrapper module, so no name changes."""
    forward = block.forward

    def again(*arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401 - a block's own signature
        return checkpoint(forward, *arguments, use_reentrant=False, **keywords)

    block.forward = again  # type: ignore[method-assign]
