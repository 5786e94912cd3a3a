"""What the engine asks of an objective; separate because the engine knows this file and no objective.

Shapes: B rows of a micro-batch, S tokens of a row, H hidden width, V vocabulary.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from llmtrain.lazy import Lazy

if TYPE_CHECKING:
    from torch import Tensor

torch = Lazy("torch")
functional = Lazy("torch.nn.functional")

MicroBatch = dict[str, "Tensor"]
"""`ids`, `targets`, `positions` [B, S], the scalar `tokens` (padding left out) and what else an objective needs.

Targets are aligned once, in `collate`.
"""
IGNORED = -100
"""Target of a position that is not learned."""


class Loss(NamedTuple):
    """`total` is a sum, never a mean; `logs` maps a name to (sum, weight)."""

    total: "Tensor"
    logs: dict[str, tuple["Tensor", "Tensor"]]


class Scorer(Protocol):
    """Turns what a stage returns into per-token numbers, whether that is logits or hidden states."""

    def nll(self, out: "Tensor", targets: "Tensor") -> "Tensor":
        """Negative log-likelihood of each target in nats, fp32 [B, S]; 0 where the target is IGNORED."""
        ...

    def logits(self, out: "Tensor") -> "Tensor":
        """Full logits [B, S, V]."""
        ...


class Objective(Protocol):
    """Rows to micro-batches, micro-batches to a loss sum and its weight. It never divides."""

    inputs: tuple[str, ...]
    """Keys of a micro-batch that every stage receives beside `ids`."""

    def collate(self, rows: Sequence[Any]) -> MicroBatch:
        """One micro-batch; no rows make one fully masked row, so that every rank runs the same forwards."""
        ...

    def weight(self, micro_batch: MicroBatch) -> "Tensor":
        """Denominator of this micro-batch, from targets alone."""
        ...

    def loss(self, out: "Tensor", micro_batch: MicroBatch) -> Loss:
        """Sum over this micro-batch."""
        ...

    def evaluate(self, out: "Tensor", micro_batch: MicroBatch) -> dict[str, tuple["Tensor", "Tensor"]]:
        """Metric name -> (sum, weight), without gradients."""
        ...


class LogitsScorer:
    """The model returned logits."""

    def nll(self, out: "Tensor", targets: "Tensor") -> "Tensor":
        flat = functional.cross_entropy(
            out.reshape(-1, out.shape[-1]).float(), targets.reshape(-1), ignore_index=IGNORED, reduction="none"
        )
        return flat.view(targets.shape)

    def logits(self, out: "Tensor") -> "Tensor":
        return out
