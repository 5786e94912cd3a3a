"""One object over the optimizers of a run: master copies, learning rate, clipping, and state under canonical names."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from llmtrain.optim.groups import Group


class Update:
    """Turns gradients into updates; its tensors are named `<parameter>/<state>`.

    With parameters below fp32 and `master`, the optimizers own fp32 copies: gradients are copied to them and the
    result is copied back, so that updates smaller than the parameters' resolution are not lost.
    """

    def __init__(
        self, groups: Sequence[Group], build: Callable[[list[Group]], list[torch.optim.Optimizer]], *, master: bool
    ) -> None:
        self._masters: list[tuple[str, nn.Parameter, nn.Parameter]] = []
        self.groups = [self._with_masters(group) if master else group for group in groups]
        self._names = {id(p): n for g in self.groups for n, p in zip(g.names, g.parameters, strict=True)}
        self._trained = [p for group in groups for p in group.parameters]
        self.optimizers = build(self.groups)
        self._create_state()

    def _with_masters(self, group: Group) -> Group:
        copies: list[nn.Parameter] = []
        for name, parameter in zip(group.names, group.parameters, strict=True):
            if parameter.dtype == torch.float32:
                copies.append(parameter)
                continue
            copy = nn.Parameter(parameter.detach().float())
            self._masters.append((name, parameter, copy))
            copies.append(copy)
        return replace(group, parameters=tuple(copies))

    def _create_state(self) -> None:
        """Make every state tensor exist before the first step, so that fresh and resumed runs hold the same set.

        Optimizers create state at the first gradient; a step with zero gradients at rate 0 changes no parameter.
        """
        for optimizer in self.optimizers:
            rates = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] = 0.0
                for parameter in group["params"]:
                    parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            for state in optimizer.state.values():
                for value in state.values():
                    if isinstance(value, Tensor):
                        value.zero_()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Live state tensors by name, masters included."""
        for optimizer in self.optimizers:
            for parameter, state in optimizer.state.items():
                for key, value in state.items():
                    if isinstance(value, Tensor):
                        yield f"{self._names[id(parameter)]}/{key}", value
        for name, _, copy in self._masters:
            yield f"{name}/master", copy.detach()

    def refresh_masters(self) -> None:
        """Take the parameters as they are now; after weights were loaded from elsewhere."""
        with torch.no_grad():
            for _, parameter, copy in self._masters:
                copy.copy_(parameter)

    def clip(self, limit: float, *, scale: float = 1.0) -> Tensor:
        """Divide gradients by `scale`, return their global L2 norm, and bring it down to `limit` (0: no limit).

        Every rank that holds a shard must call it: the norm of shards is a collective.
        """
        gradients = [p.grad for p in self._trained if p.grad is not None]
        if scale != 1.0:
            torch._foreach_mul_(gradients, 1.0 / scale)  # pyright: ignore[reportPrivateImportUsage]
        norm = torch.nn.utils.get_total_norm(gradients)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        if limit > 0:
            torch.nn.utils.clip_grads_with_norm_(self._trained, limit, norm)
        return norm

    def step(self, factor: float) -> None:
        """Apply one update at `factor` times each group's peak rate and drop the gradients."""
        for _, parameter, copy in self._masters:
            copy.grad = None if parameter.grad is None else parameter.grad.float()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.step()
        with torch.no_grad():
            for _, parameter, copy in self._masters:
                parameter.copy_(copy)
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Forget the gradients, as after a skipped step."""
        for parameter in self._trained:
            parameter.grad = None
        for _, _, copy in self._masters:
            copy.grad = None
