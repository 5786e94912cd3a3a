"""A model from a recipe: configuration, random or read weights, embeddings that fit the tokenizer.

Separate from the parallel layout, which never changes a name or a number of the model.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmtrain.dist import fold_seed
from llmtrain.doors import transformers as door
from llmtrain.errors import fail
from llmtrain.recipe.schema import ModelSection


@dataclass(frozen=True, kw_only=True)
class Built:
    """A whole model on the CPU with its weights, before sharding."""

    model: nn.Module
    config: Any
    """A transformers configuration; None for a factory's module."""
    aliases: dict[str, str]
    """Tied names: alias -> stored name."""
    label: str
    """What the header calls it."""
    vocabulary: int


@dataclass(frozen=True, kw_only=True)
class TokenIds:
    """What the model must know of the tokenizer."""

    size: int
    eos: int
    pad: int


def build(section: ModelSection, tokens: TokenIds, *, seed: int, offline: bool) -> Built:
    """The recipe's model with weights; random ones depend on (seed, module name) alone.

    Raises:
        Failure: configuration, files or sizes do not come out.
    """
    if section.factory:
        return _from_factory(section, tokens, seed)
    origin = None
    if section.name is not None:
        origin = door.locate(
            section.name, revision=section.revision, trust_remote_code=section.trust_remote_code, offline=offline
        )
        config = door.load_config(origin)
    else:
        config = door.config_from({**_special_ids(section.config, tokens), **(section.config or {})})
    pretrained = origin is not None and section.init != "random"
    with torch.random.fork_rng(devices=[]):
        model = door.empty_model(config, attention=section.attention)
        model.to_empty(device="cpu")
        door.initialise(model, lambda name: fold_seed(seed, "init", name))
        door.tie(model)
        if pretrained:
            assert origin is not None
            _assign(model, door.read_weights(origin, config))
        vocabulary = _fit_embeddings(model, config, tokens, section)
    label = section.name if section.name is not None else f"{config.model_type} from scratch"
    aliases = door.tied_names(model)
    return Built(model=model, config=config, aliases=aliases, label=label, vocabulary=vocabulary)


def _special_ids(settings: Mapping[str, Any] | None, tokens: TokenIds) -> dict[str, Any]:
    """Defaults that only the tokenizer knows; what the recipe says wins."""
    ids = {"bos_token_id": tokens.eos, "eos_token_id": tokens.eos, "pad_token_id": tokens.pad}
    return {"model_type": None, "vocab_size": tokens.size, **ids}


def _assign(model: nn.Module, weights: dict[str, Tensor]) -> None:
    targets = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, target in targets.items():
            source = weights.pop(name, None)
            if source is not None:
                target.copy_(source)


def _fit_embeddings(model: Any, config: Any, tokens: TokenIds, section: ModelSection) -> int:  # noqa: ANN401
    """Rows of the embedding, grown to the tokenizer where the recipe allows it."""
    rows = model.get_input_embeddings().weight.shape[0]
    if tokens.size <= rows:
        return rows
    if not section.resize_embeddings:
        raise fail(
            "E-MODEL-005", f"the tokenizer has {tokens.size:,} tokens, the model {rows:,} rows",
            key="model.resize_embeddings", hint="set model.resize_embeddings: true",
        )  # fmt: skip
    door.resize_embeddings(model, tokens.size)
    config.vocab_size = tokens.size
    return tokens.size


def _from_factory(section: ModelSection, tokens: TokenIds, seed: int) -> Built:
    module, _, name = (section.factory or "").partition(":")
    try:
        factory = importlib.import_module(module).__dict__.get(name)
    except ImportError as error:
        raise fail("E-MODEL-007", f"cannot import {module}: {error}", key="model.factory") from error
    if not callable(factory):
        raise fail("E-MODEL-007", f"{section.factory} is not a function", key="model.factory")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold_seed(seed, "init", "factory"))
        model = factory({"vocab_size": tokens.size, **(section.config or {})})
    if not isinstance(model, nn.Module):
        raise fail("E-MODEL-007", f"{section.factory} returned no torch.nn.Module", key="model.factory")
    return Built(
        model=model, config=None, aliases=door.tied_names(model), label=str(section.factory), vocabulary=tokens.size
    )


def position_limit(config: Any) -> int | None:  # noqa: ANN401
    """Longest sequence the positions allow, None where nothing limits it (rope scaling counts as no limit)."""
    if config is None:
        return None
    settings = config.to_dict()
    scaling = settings.get("rope_scaling") or settings.get("rope_parameters") or {}
    scaled = isinstance(scaling, dict) and scaling.get("rope_type", "default") != "default"
    limit = settings.get("max_position_embeddings") or settings.get("n_positions")
    return None if scaled or not isinstance(limit, int) else limit


def check_length(config: Any, seq_len: int) -> None:  # noqa: ANN401
    """Refuse rows longer than the model's positions.

    Raises:
        Failure: `data.seq_len` is above the limit.
    """
    limit = position_limit(config)
    if limit is not None and seq_len > limit:
        raise fail(
            "E-MODEL-006", f"data.seq_len {seq_len:,} is above the model's {limit:,} positions", key="data.seq_len",
            hint=f"at most {limit}, or set max_position_embeddings in model.config",
        )  # fmt: skip
