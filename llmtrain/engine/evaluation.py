"""Held-out numbers: float64 sums over rows, each row once, the same at any batch size and on any layout."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmtrain.dist import Ranks
from llmtrain.engine.executor import StageExecutor
from llmtrain.objectives.base import IGNORED, MicroBatch, Objective

Batches = Callable[[], Iterable[MicroBatch]]
"""Starts a pass over this rank's share of a set; every rank yields the same number of micro-batches."""

ASK_EVERY = 16
"""Micro-batches between questions whether to go on: each is a message among the ranks."""


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Evaluation sets and what turns their sums into metrics."""

    executor: StageExecutor
    objective: Objective
    ranks: Ranks
    sets: Mapping[str, Batches]
    """Name -> batches; the empty name is the only set, or the held-out share."""
    token_bytes: Any
    """int array: UTF-8 bytes each token stands for (formulas.md 6)."""
    dtype: torch.dtype | None

    def evaluate(self, interrupted: Callable[[], bool] | None = None) -> dict[str, float] | None:
        """`eval_loss` (nats a token), `eval_perplexity`, `eval_bits_per_byte`, `eval_tokens`; per named set its own.

        Collective: every rank must call it. The model's mode and the random streams are left as they were.

        Args:
            interrupted: asked now and then, on all ranks together; once true, the evaluation ends and gives None.
        """
        pooled = np.zeros(3)
        values: dict[str, float] = {}
        sums: np.ndarray[Any, Any] | None = None
        training = self.executor.stage.training
        self.executor.stage.eval()
        with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
            for name, batches in self.sets.items():
                sums = self._sums(batches, interrupted)
                if sums is None:
                    break
                pooled += sums
                if name:
                    values |= _metrics(sums, f"eval_{name}_")
        self.executor.stage.train(training)
        if sums is None:
            return None
        return _metrics(pooled, "eval_") | values

    def _sums(self, batches: Batches, interrupted: Callable[[], bool] | None) -> np.ndarray[Any, Any] | None:
        """(loss, targets, bytes) over the set and all ranks; None when interrupted."""
        sums = np.zeros(3)
        for number, micro_batch in enumerate(batches()):
            if interrupted is not None and number % ASK_EVERY == 0 and interrupted():
                return None
            out = self.executor.forward([micro_batch], self.dtype)[0]
            loss, weight = self.objective.evaluate(out, self.executor.to_device(micro_batch))["loss"]
            targets = micro_batch["targets"]
            bytes_of = self.token_bytes[targets[targets != IGNORED].numpy()]
            sums += np.array([float(loss), float(weight), float(bytes_of.sum())])
        return np.array(self.ranks.sum(sums.tolist()))


def _metrics(sums: np.ndarray[Any, Any], prefix: str) -> dict[str, float]:
    loss, targets, size = (float(value) for value in sums)
    mean = loss / targets if targets else math.nan
    values = {f"{prefix}loss": mean, f"{prefix}perplexity": math.exp(mean) if mean < 700 else math.inf}
    if size:
        values[f"{prefix}bits_per_byte"] = loss / (math.log(2) * size)
    values[f"{prefix}tokens"] = targets
    return values
