"""Optimizers as slots: each config builds torch optimizers over parameter groups; no optimizer is written twice here.

Separate from the groups because a group is a fact of the model, an optimizer one of the recipe.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtrain.errors import fail
from llmtrain.lazy import Lazy
from llmtrain.recipe.schema import Code
from llmtrain.recipe.slots import OptimizerConfig, option, register

if TYPE_CHECKING:
    from llmtrain.optim.groups import Group

torch = Lazy("torch")
groups_module = Lazy("llmtrain.optim.groups")
lion = Lazy("llmtrain.optim.lion")


@register(OptimizerConfig, "adamw")
@dataclass(frozen=True, kw_only=True)
class AdamWConfig(OptimizerConfig):
    """AdamW with decoupled weight decay, fused where the device can."""

    name: str = "adamw"
    betas: list[float] = option(lambda: [0.9, 0.95], length=2, ge=0, lt=1)
    """Decay rates of the first and second moment."""
    eps: float = option(1e-8, gt=0)
    """Added to the denominator."""

    def build(self, groups: "list[Group]") -> list[Any]:
        """One torch.optim.AdamW."""
        fused = all(p.device.type in ("cpu", "cuda", "mps", "xpu") for g in groups for p in g.parameters)
        return [torch.optim.AdamW([g.options() for g in groups], betas=tuple(self.betas), eps=self.eps, fused=fused)]


@register(OptimizerConfig, "sgd")
@dataclass(frozen=True, kw_only=True)
class SgdConfig(OptimizerConfig):
    """Plain gradient descent with momentum; weight decay is added to the gradient, as torch does."""

    name: str = "sgd"
    weight_decay: float = option(0.0, ge=0, lt=1)
    """L2 term added to the gradient."""
    momentum: float = option(0.0, ge=0, lt=1)
    """Share of the last update that is kept."""
    nesterov: bool = False
    """Look ahead by the momentum; needs one."""

    def build(self, groups: "list[Group]") -> list[Any]:
        """One torch.optim.SGD.

        Raises:
            Failure: nesterov without momentum.
        """
        if self.nesterov and self.momentum == 0:
            raise fail("E-RECIPE-009", "nesterov needs a momentum above 0", key="optimizer.nesterov")
        return [torch.optim.SGD([g.options() for g in groups], momentum=self.momentum, nesterov=self.nesterov)]


@register(OptimizerConfig, "adafactor")
@dataclass(frozen=True, kw_only=True)
class AdafactorConfig(OptimizerConfig):
    """Adafactor: second moments kept as rows and columns."""

    name: str = "adafactor"
    lr: float = option(1e-2, gt=0, lt=100)
    """Peak of the relative step size."""
    weight_decay: float = option(0.0, ge=0, lt=1)
    """Decoupled decay of matrices."""
    beta2_decay: float = option(-0.8, lt=0)
    """Exponent of the second moment's decay."""
    clipping: float = option(1.0, gt=0)
    """Largest root mean square of an update."""

    def build(self, groups: "list[Group]") -> list[Any]:
        """One torch.optim.Adafactor."""
        options = [g.options() for g in groups]
        return [torch.optim.Adafactor(options, beta2_decay=self.beta2_decay, d=self.clipping)]


@register(OptimizerConfig, "lion")
@dataclass(frozen=True, kw_only=True)
class LionConfig(OptimizerConfig):
    """Lion: the sign of a moving average."""

    name: str = "lion"
    lr: float = option(1e-4, gt=0, lt=100)
    """Peak learning rate; about a tenth of AdamW's."""
    betas: list[float] = option(lambda: [0.9, 0.99], length=2, ge=0, lt=1)
    """Decay rates of the update and of the moving average."""

    def build(self, groups: "list[Group]") -> list[Any]:
        """One Lion."""
        return [lion.Lion([g.options() for g in groups], betas=tuple(self.betas))]


@register(OptimizerConfig, "muon")
@dataclass(frozen=True, kw_only=True)
class MuonConfig(OptimizerConfig):
    """Muon for hidden matrices, AdamW for embeddings, head, norms, biases and everything that is not 2-D.

    Updates of Muon are scaled to AdamW's root mean square, so that one `lr` serves both.
    """

    name: str = "muon"
    momentum: float = option(0.95, ge=0, lt=1)
    """Momentum of Muon."""
    nesterov: bool = True
    """Look ahead by the momentum."""
    iterations: int = option(5, ge=1, lt=100)
    """Newton-Schulz iterations."""
    betas: list[float] = option(lambda: [0.9, 0.95], length=2, ge=0, lt=1)
    """AdamW's decay rates."""
    eps: float = option(1e-8, gt=0)
    """AdamW's epsilon."""

    def build(self, groups: "list[Group]") -> list[Any]:
        """A torch.optim.Muon and, for the rest, a torch.optim.AdamW."""
        hidden, rest = groups_module.split_hidden(groups)
        built: list[Any] = []
        if hidden:
            built.append(
                torch.optim.Muon(
                    [g.options() for g in hidden],
                    momentum=self.momentum,
                    nesterov=self.nesterov,
                    ns_steps=self.iterations,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if rest:
            built += AdamWConfig(lr=self.lr, betas=self.betas, eps=self.eps).build(rest)
        return built


@register(OptimizerConfig, "custom")
@dataclass(frozen=True, kw_only=True)
class CustomConfig(OptimizerConfig):
    """An optimizer class of one's own or of another package."""

    name: str = "custom"
    class_: Code = option(None, key="class")
    """`pkg.mod:Class`, a torch.optim.Optimizer."""
    args: dict[str, Any] = option(dict)
    """Keyword arguments of its constructor."""

    def build(self, groups: "list[Group]") -> list[Any]:
        """One optimizer of the named class.

        Raises:
            Failure: the class is missing or refuses its arguments.
        """
        return [groups_module.build_custom(self.class_, self.args, groups)]
