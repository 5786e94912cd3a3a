"""The Lion optimizer (Chen et al. 2023, algorithm 2), a dozen lines kept here so that it needs no extra package."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Lion(torch.optim.Optimizer):
    """p <- p - lr * (sign(b1 m + (1 - b1) g) + wd p), then m <- b2 m + (1 - b2) g."""

    def __init__(self, params: Iterable[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(params, {"betas": betas, "lr": 1e-4, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply one update to every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum: Tensor = state["momentum"]
                direction = momentum.lerp(parameter.grad, 1 - first).sign_()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
                momentum.lerp_(parameter.grad, 1 - second)
