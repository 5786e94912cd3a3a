"""Text from models: `predict`, and the samples of a training run."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from llmtrain import generate
from llmtrain.data.tokens import FastTokenizer
from llmtrain.doors import transformers as door
from llmtrain.engine.events import EventBus
from llmtrain.errors import fail
from llmtrain.model.build import position_limit
from llmtrain.parallel.apply import gathered_outside_blocks
from llmtrain.recipe.compose import Composed
from llmtrain.recipe.schema import Recipe
from llmtrain.run import RunOptions
from llmtrain.run.assembly import Assembly, cache_folder
from llmtrain.run.machine import FORMATS, choose
from llmtrain.run.models import resolve
from llmtrain.run.vocabulary import vocabulary

SAMPLE_TOKENS = 64
"""New tokens of a sample while training."""


def _words(tokenizer: FastTokenizer, config: Any) -> generate.Vocabulary:  # noqa: ANN401
    """What generation needs of a tokenizer; it stops at every end-of-text id the model or the tokenizer knows."""
    stops = {tokenizer.eos_id}
    told = None if config is None else config.eos_token_id
    stops |= set(told) if isinstance(told, list) else {told} if told is not None else set()
    return generate.Vocabulary(
        encode=lambda text: tokenizer.encode_batch([text])[0], decode=tokenizer.decode, stop_ids=stops,
        pad_id=tokenizer.eos_id, empty_id=tokenizer.eos_id,
    )  # fmt: skip


def _sampling(recipe: Recipe) -> generate.Sampling:
    section = recipe.predict
    return generate.Sampling(
        max_new_tokens=section.max_new_tokens, temperature=section.temperature, top_p=section.top_p, stop=section.stop,
        batch_size=section.batch_size, seed=recipe.run.seed,
    )  # fmt: skip


def predict(
    composed: Composed, options: RunOptions, bus: EventBus, prompts: Sequence[str],
    speak: Callable[[int, str], None] | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Continue prompts with the recipe's model; see `llmtrain.run.predict`."""
    recipe = composed.recipe
    if recipe.model.name is None:
        raise fail("E-RECIPE-006", "predict needs a trained model", key="model.name", hint="--run RUN or --model M")
    door.hush()
    machine = choose(recipe)
    words = vocabulary(
        replace(recipe, tokenizer=replace(recipe.tokenizer, train=None)), cache=cache_folder(), workers=1
    )
    section = recipe.model
    origin = door.locate(
        resolve(recipe.model.name, cache_folder(), recipe.run.root),
        revision=section.revision,
        trust_remote_code=section.trust_remote_code,
        offline=recipe.offline,
    )
    model = door.open_causal(origin, attention=section.attention)
    torch.nn.Module.to(model, device=machine.device, dtype=FORMATS[recipe.precision.params])
    with torch.autocast(machine.device.type, dtype=machine.compute, enabled=machine.compute != torch.float32):
        results = generate.generate(
            model, prompts, _words(words.tokenizer, model.generation_config), _sampling(recipe),
            positions=position_limit(model.config), on_text=speak,
        )  # fmt: skip
    return [asdict(result) for result in results]


def continuations(
    recipe: Recipe, assembly: Assembly, prompts: Sequence[str], *, longest: int | None = None
) -> list[dict[str, Any]]:
    """Texts from the model in training; collective when it is sharded. No random stream of the training moves.

    Args:
        longest: at most this many new tokens, below `predict.max_new_tokens`.
    """
    words = _words(assembly.material.vocabulary.tokenizer, assembly.built.config)
    settings = _sampling(recipe)
    if longest is not None:
        settings = replace(settings, max_new_tokens=min(longest, settings.max_new_tokens))
    with torch.random.fork_rng(devices=[]), assembly.executor.autocast(), gathered_outside_blocks(assembly.stage):
        results = generate.generate(
            assembly.built.model, prompts, words, settings, positions=position_limit(assembly.built.config)
        )
    return [asdict(result) for result in results]


def sampler(recipe: Recipe, assembly: Assembly) -> Callable[[], list[dict[str, str]]]:
    """Texts for `evaluate.samples.prompts`, short enough not to hold up training."""

    def sample() -> list[dict[str, str]]:
        found = continuations(recipe, assembly, recipe.evaluate.samples.prompts, longest=SAMPLE_TOKENS)
        return [{"prompt": item["prompt"], "text": item["text"]} for item in found]

    return sample
