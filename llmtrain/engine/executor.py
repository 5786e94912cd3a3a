"""Forward and backward of one batch on a stage; the only code that divides by the global count.

A pipeline of several stages is another executor with the same two methods.
"""

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from llmtrain.objectives.base import Loss, MicroBatch, Objective
from llmtrain.parallel.apply import reduce_now, reshard
from llmtrain.parallel.stage import Stage


class StageExecutor:
    """One stage that holds the whole model."""

    def __init__(
        self, stage: Stage, objective: Objective, *, device: torch.device, compute: torch.dtype, averaged: int
    ) -> None:
        """Bind stage and objective.

        Args:
            stage: the whole model.
            objective: gives the loss sum of a micro-batch.
            device: where micro-batches go.
            compute: format of matrix products; below fp32 it is autocast, on every layout the same way.
            averaged: ranks over which the reducer averages gradients (formulas.md 1.1, c).
        """
        self.stage, self.objective, self.device = stage, objective, device
        self.compute, self.averaged = compute, averaged

    def autocast(self, dtype: torch.dtype | None = None) -> AbstractContextManager[object, bool | None]:
        """The context forwards run in."""
        chosen = dtype or self.compute
        if chosen == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=chosen)

    def to_device(self, micro_batch: MicroBatch) -> MicroBatch:
        """The micro-batch on this executor's device."""
        return {key: value.to(self.device, non_blocking=True) for key, value in micro_batch.items()}

    def output(self, micro_batch: MicroBatch) -> Tensor:
        """What the stage returns for one micro-batch."""
        return self.stage(micro_batch["ids"], **{key: micro_batch[key] for key in self.objective.inputs})

    def forward(self, batch: Sequence[MicroBatch], dtype: torch.dtype | None = None) -> list[Tensor]:
        """Outputs without gradients, the module in the mode it is in; collective under sharding."""
        try:
            with torch.no_grad(), self.autocast(dtype):
                return [self.output(self.to_device(micro_batch)) for micro_batch in batch]
        finally:
            reshard(self.stage)

    def forward_backward(self, batch: Sequence[MicroBatch], denominator: float, *, scale: float = 1.0) -> list[Loss]:
        """Accumulate gradients of sum / denominator over all micro-batches and data ranks.

        Args:
            batch: this rank's micro-batches; every rank has the same number of them.
            denominator: global weight of the step, over all data ranks.
            scale: fp16 loss scale, undone when gradients are clipped.

        Returns:
            Per micro-batch the undivided, unscaled sums, detached.
        """
        losses: list[Loss] = []
        for number, micro_batch in enumerate(batch):
            reduce_now(self.stage, last=number == len(batch) - 1)
            on_device = self.to_device(micro_batch)
            with self.autocast():
                out = self.output(on_device)
            loss = self.objective.loss(out, on_device)
            (loss.total * (self.averaged * scale / denominator)).backward()  # pyright: ignore[reportUnknownMemberType]
            losses.append(Loss(loss.total.detach(), loss.logs))
            del out, loss
        return losses
