"""Causal language modelling: each token from those before it in the same document (formulas.md 1 and 2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtrain.lazy import Lazy
from llmtrain.objectives.base import IGNORED, Loss, MicroBatch, Scorer
from llmtrain.recipe.slots import ObjectiveConfig, option, register

if TYPE_CHECKING:
    from torch import Tensor

torch = Lazy("torch")
functional = Lazy("torch.nn.functional")


@register(ObjectiveConfig, "causal")
@dataclass(frozen=True, kw_only=True)
class CausalConfig(ObjectiveConfig):
    """Predict the next token of the same document."""

    name: str = "causal"
    label_smoothing: float = option(0.0, ge=0, lt=1)
    """Share of the target spread over the whole vocabulary."""
    z_loss: float = option(0.0, ge=0)
    """Weight of the squared log-normaliser of each token."""

    def build(self, scorer: Scorer, *, pad_id: int, pad_to: int | None) -> "Causal":
        """The objective.

        Args:
            scorer: turns the model's output into per-token losses.
            pad_id: token that fills masked positions.
            pad_to: pad rows to this length; None pads to the longest row of the micro-batch.
        """
        return Causal(self, scorer, pad_id=pad_id, pad_to=pad_to)


class Causal:
    """Rows of one or several documents; numerator and denominator of the token mean."""

    inputs = ("positions",)

    def __init__(self, config: CausalConfig, scorer: Scorer, *, pad_id: int, pad_to: int | None) -> None:
        self.config, self.scorer, self.pad_id, self.pad_to = config, scorer, pad_id, pad_to

    def collate(self, rows: Sequence[Any]) -> MicroBatch:
        """Pad on the right; the padding is a document of its own, so positions restart there.

        Returns:
            `ids`, `targets`, `positions`, int64 [B, S]; targets[t] = labels[t+1], the last one IGNORED. `tokens`, a
            scalar, counts those that are no padding.
        """
        longest = max((len(row.ids) for row in rows), default=2)
        shape = (max(1, len(rows)), self.pad_to or longest)
        ids = torch.full(shape, self.pad_id, dtype=torch.int64)
        targets = torch.full(shape, IGNORED, dtype=torch.int64)
        positions = torch.zeros(shape, dtype=torch.int64)
        if not rows:
            positions[0] = torch.arange(shape[1])
        for number, row in enumerate(rows):
            length = len(row.ids)
            ids[number, :length] = torch.from_numpy(row.ids)
            targets[number, : length - 1] = torch.from_numpy(row.labels[1:])
            positions[number, :length] = torch.from_numpy(row.positions)
            positions[number, length:] = torch.arange(shape[1] - length)
        tokens = torch.tensor(sum(len(row.ids) for row in rows))
        return {"ids": ids, "targets": targets, "positions": positions, "tokens": tokens}

    def weight(self, micro_batch: MicroBatch) -> "Tensor":
        """Number of supervised targets, float64 scalar."""
        return (micro_batch["targets"] != IGNORED).sum(dtype=torch.float64)

    def loss(self, out: "Tensor", micro_batch: MicroBatch) -> Loss:
        """Sum of cross-entropies in nats; with smoothing e: (1-e) CE + e mean_v(-log p_v); plus z logsumexp^2."""
        targets = micro_batch["targets"]
        nll = self.scorer.nll(out, targets)
        total, logs = nll.sum(dtype=torch.float64), {}
        if self.config.label_smoothing or self.config.z_loss:
            logits = self.scorer.logits(out).float()
            normaliser = logits.logsumexp(-1)
            kept = targets != IGNORED
            smoothing = self.config.label_smoothing
            if smoothing:
                uniform = (normaliser - logits.mean(-1))[kept].sum()
                total = (1 - smoothing) * total + smoothing * uniform
            if self.config.z_loss:
                extra = normaliser[kept].square().sum()
                total = total + self.config.z_loss * extra
                logs["z_loss"] = (extra.detach(), kept.sum())
        return Loss(total, logs)

    def evaluate(self, out: "Tensor", micro_batch: MicroBatch) -> dict[str, tuple["Tensor", "Tensor"]]:
        """`loss`: (sum of nats in float64, targets)."""
        targets = micro_batch["targets"]
        return {"loss": (self.scorer.nll(out, targets).sum(dtype=torch.float64), self.weight(micro_batch))}
