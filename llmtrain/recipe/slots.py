"""Slots: `{name: ..., ...}` in a recipe picks a registered dataclass; separate because plugins add to it.

Built-ins are found by importing those modules of the packages in `BUILTINS` that say `@register(`, which is the only
dynamic import of the package besides lazy modules. Modules that register slots must be importable without torch; their
neighbours need not be.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmtrain.errors import fail

BUILTINS = ("llmtrain.optim", "llmtrain.objectives")


def option(default: Any = ..., **rules: Any) -> Any:  # noqa: ANN401 - mirrors dataclasses.field
    """A dataclass field with limits (`gt ge lt le`), or `required` when no default is given.

    A callable default is a factory.
    """
    if default is ...:
        return field(metadata=rules)
    if callable(default):
        return field(default_factory=default, metadata=rules)
    return field(default=default, metadata=rules)


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is learned: turns logits and targets into a loss sum and its weight."""

    name: str = ""
    """Which objective."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How gradients become updates."""

    name: str = ""
    """Which optimizer."""
    lr: float = option(6e-4, gt=0, lt=100)
    """Peak learning rate."""
    weight_decay: float = option(0.1, ge=0, lt=1)
    """Decoupled decay of matrices; biases, norms and other 1-D tensors never decay."""
    max_grad_norm: float = option(1.0, ge=0)
    """Clip gradients to this global norm; 0 turns clipping off."""
    decay_embeddings: bool = True
    """Whether weight decay applies to embeddings."""
    groups: list[dict[str, Any]] = option(list)
    """`{match: regex, lr:, weight_decay:}`; the first match wins, a match of nothing is an error."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate as a pure function of applied updates and planned updates."""

    name: str = ""
    """Which schedule."""
    warmup: float = option(0.02, ge=0)
    """Warm-up: below 1 a share of all steps, else a number of steps."""


SLOT_BASES: dict[str, type] = {
    "objective": ObjectiveConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
}
COMMON_KEYS: dict[str, tuple[str, ...]] = {
    "objective": (),
    "optimizer": ("lr", "weight_decay", "max_grad_norm"),
    "schedule": ("warmup",),
}
"""Keys that survive when a later layer changes a slot's name."""

_registered: dict[type, dict[str, type]] = {base: {} for base in SLOT_BASES.values()}
_discovered: set[str] = set()


def register(base: type, *names: str) -> Callable[[type], type]:
    """Class decorator: make a config selectable as `{name: NAME}` in the slot of `base`.

    Raises:
        Failure: the name is taken; the message names both files.
    """

    def add(config: type) -> type:
        table = _registered[base]
        for name in names:
            if name in table and table[name].__qualname__ != config.__qualname__:
                first, second = inspect.getfile(table[name]), inspect.getfile(config)
                raise fail("E-RECIPE-010", f"{name!r} is registered by {first} and by {second}")
            table[name] = config
        return config

    return add


def slot_table(slot: str) -> dict[str, type]:
    """All registered configs of a slot by name, built-ins discovered first."""
    for package in BUILTINS:
        if package not in _discovered:
            _discovered.add(package)
            module = importlib.import_module(package)
            for found in pkgutil.iter_modules(module.__path__):
                if "@register(" in (Path(module.__path__[0]) / f"{found.name}.py").read_text(encoding="utf-8"):
                    importlib.import_module(f"{package}.{found.name}")
    return _registered[SLOT_BASES[slot]]
