"""Parameter groups: who decays, who has another rate, who is hidden; facts of the model, not of an optimizer."""

import importlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from llmtrain.errors import fail
from llmtrain.recipe.slots import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters that share a peak learning rate and a weight decay."""

    label: str
    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    hidden: tuple[bool, ...]
    """Per parameter: a 2-D matrix that is neither embedding nor head."""
    lr: float
    weight_decay: float

    def options(self) -> dict[str, Any]:
        """The dictionary torch optimizers take; `peak` and `names` ride along."""
        return {
            "params": list(self.parameters), "names": self.names, "lr": self.lr, "peak": self.lr,
            "weight_decay": self.weight_decay,
        }  # fmt: skip

    @property
    def size(self) -> int:
        """Elements of all parameters."""
        return sum(p.numel() for p in self.parameters)


def _embeddings(model: nn.Module) -> set[int]:
    """Identities of embedding and head weights; a tied head is the embedding."""
    return {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}


def _heads(model: nn.Module, vocabulary: int | None) -> set[int]:
    linear = (m for m in model.modules() if isinstance(m, nn.Linear))
    return {id(m.weight) for m in linear if vocabulary is not None and m.weight.shape[0] == vocabulary}


def group_parameters(
    named: Iterable[tuple[str, nn.Parameter]], model: nn.Module, config: OptimizerConfig, *, vocabulary: int | None
) -> list[Group]:
    """Put each trainable parameter into exactly one group.

    The first entry of `config.groups` whose regex matches wins; else 1-D tensors (norms, biases) never decay and
    embeddings decay unless `decay_embeddings` is false.

    Args:
        named: canonical names and parameters.
        model: the module that owns them, to tell embeddings.
        config: the optimizer slot.
        vocabulary: rows of the embedding, to tell the head.

    Raises:
        Failure: an entry of `groups` matches nothing or is malformed.
    """
    embeddings = _embeddings(model)
    outside = embeddings | _heads(model, vocabulary)
    custom = [_custom(entry, config, number) for number, entry in enumerate(config.groups)]
    collected: dict[tuple[str, float, float], list[tuple[str, nn.Parameter, bool]]] = {}
    used: set[int] = set()
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        match = next((i for i, (pattern, _, _) in enumerate(custom) if pattern.search(name)), None)
        if match is not None:
            used.add(match)
            key = (f"groups[{match}]", custom[match][1], custom[match][2])
        elif parameter.ndim < 2:
            key = ("norms and biases", config.lr, 0.0)
        elif id(parameter) in embeddings:
            key = ("embeddings", config.lr, config.weight_decay if config.decay_embeddings else 0.0)
        else:
            key = ("matrices", config.lr, config.weight_decay)
        hidden = parameter.ndim == 2 and id(parameter) not in outside
        collected.setdefault(key, []).append((name, parameter, hidden))
    for number, (pattern, _, _) in enumerate(custom):
        if number not in used:
            raise fail("E-RECIPE-009", f"no parameter matches {pattern.pattern!r}", key=f"optimizer.groups[{number}]")
    return [_group(label, lr, decay, entries) for (label, lr, decay), entries in collected.items()]


def _group(label: str, lr: float, decay: float, entries: Sequence[tuple[str, nn.Parameter, bool]]) -> Group:
    names, parameters, hidden = zip(*entries, strict=True)
    return Group(label=label, names=names, parameters=parameters, hidden=hidden, lr=lr, weight_decay=decay)


def _custom(entry: dict[str, Any], config: OptimizerConfig, number: int) -> tuple[re.Pattern[str], float, float]:
    key = f"optimizer.groups[{number}]"
    unknown = set(entry) - {"match", "lr", "weight_decay"}
    if unknown or "match" not in entry:
        what = f"unknown key {sorted(unknown)[0]!r}" if unknown else "`match` is missing"
        raise fail("E-RECIPE-001", what, key=key, hint="an entry has match, lr and weight_decay")
    try:
        pattern = re.compile(str(entry["match"]))
        return pattern, float(entry.get("lr", config.lr)), float(entry.get("weight_decay", config.weight_decay))
    except (re.error, TypeError, ValueError) as error:
        raise fail("E-RECIPE-004", str(error), key=key) from error


def split_hidden(groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """Groups of hidden 2-D matrices, and groups of everything else."""
    halves: tuple[list[Group], list[Group]] = ([], [])
    for group in groups:
        for half, wanted in zip(halves, (True, False), strict=True):
            chosen = [i for i, hidden in enumerate(group.hidden) if hidden is wanted]
            if chosen:
                half.append(
                    replace(
                        group,
                        names=tuple(group.names[i] for i in chosen),
                        parameters=tuple(group.parameters[i] for i in chosen),
                        hidden=tuple(group.hidden[i] for i in chosen),
                    )
                )
    return halves


def build_custom(path: str | None, arguments: dict[str, Any], groups: Sequence[Group]) -> torch.optim.Optimizer:
    """Instantiate `pkg.mod:Class` over the groups.

    Raises:
        Failure: it cannot be imported, is no optimizer, or refuses its arguments.
    """
    module, _, name = (path or "").partition(":")
    if not module or not name:
        raise fail("E-RECIPE-006", "`class` is required: pkg.mod:Class", key="optimizer.class")
    try:
        found = importlib.import_module(module).__dict__.get(name)
    except ImportError as error:
        raise fail("E-ENV-001", f"cannot import {module}: {error}", key="optimizer.class") from error
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise fail("E-RECIPE-004", f"{path} is not a torch.optim.Optimizer", key="optimizer.class")
    try:
        return found([group.options() for group in groups], **arguments)
    except (TypeError, ValueError) as error:
        raise fail("E-RECIPE-004", str(error), key="optimizer.args") from error
