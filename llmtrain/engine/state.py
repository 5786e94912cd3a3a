"""What a run knows of its progress, and what of it a checkpoint holds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor, nn

from llmtrain.optim.update import Update


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Progress; everything else derives from it and the recipe."""

    step: int = 0
    """Optimizer steps taken, skipped ones included: the position in the data."""
    applied: int = 0
    """Updates applied: the position in the schedule."""
    skipped: int = 0
    skipped_in_row: int = 0
    samples: int = 0
    tokens: int = 0
    """Tokens that entered the model."""
    target_tokens: int = 0
    loss_scale: float = 1.0
    scale_age: int = 0
    """Applied updates since the loss scale changed."""

    def advance(self, *, samples: int, tokens: int, targets: int, applied: bool) -> "TrainState":
        """The state after one more step."""
        return replace(
            self, step=self.step + 1, applied=self.applied + applied, skipped=self.skipped + (not applied),
            skipped_in_row=0 if applied else self.skipped_in_row + 1, samples=self.samples + samples,
            tokens=self.tokens + tokens, target_tokens=self.target_tokens + targets,
        )  # fmt: skip


class RunTensors:
    """The live tensors of a run under canonical names, and its state as JSON."""

    def __init__(self, model: nn.Module, aliases: Mapping[str, str], update: Update, state: TrainState) -> None:
        self.model, self.aliases, self.update, self.train_state = model, aliases, update, state
        self.with_optimizer = True
        self.extra: dict[str, Any] = {}
        """Small JSON facts beside the state: best evaluation, length of the metrics file."""

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """`weights` and `optimizer`: canonical name -> live tensor; tied weights once."""
        weights: dict[str, Tensor] = {name: p.detach() for name, p in self.model.named_parameters()}
        persistent = set(self.model.state_dict().keys())
        weights |= {name: b for name, b in self.model.named_buffers() if name in persistent}
        optimizer = dict(self.update.tensors()) if self.with_optimizer else {}
        return {"weights": weights, "optimizer": optimizer}

    def state(self) -> dict[str, Any]:
        """JSON of the counters."""
        return {"train": asdict(self.train_state), **self.extra}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over the counters of a checkpoint."""
        self.train_state = TrainState(**state["train"])
        self.extra = {key: value for key, value in state.items() if key != "train"}
