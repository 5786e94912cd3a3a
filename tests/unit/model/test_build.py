"""Models from scratch: weights that depend on seed and name alone, buffers as a freshly built model has them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from llmtrain.doors import transformers as door
from llmtrain.errors import Failure
from llmtrain.model.build import Built, TokenIds, build, check_length, position_limit
from llmtrain.recipe.schema import ModelSection

TOKENS = TokenIds(size=96, eos=3, pad=3)
SMALL: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "llama with long rope": {
        **SMALL, "model_type": "llama",
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 32},
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gemma2": {**SMALL, "head_dim": 8},
    "qwen3": {**SMALL, "head_dim": 8, "tie_word_embeddings": True},
}  # fmt: skip


def made(family: str, seed: int = 1, **more: Any) -> Built:
    config = {"model_type": family.split(maxsplit=1)[0], **FAMILIES[family], **more}
    return build(ModelSection(config=config), TOKENS, seed=seed, offline=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_buffers_are_those_of_a_freshly_built_model(family: str) -> None:
    """Non-persistent buffers (rotations, masks) exist in no file: a model made on the meta device must compute them."""
    built = made(family)
    fresh = AutoModelForCausalLM.from_config(built.config)
    expected, found = dict(fresh.named_buffers()), dict(built.model.named_buffers())
    assert expected.keys() == found.keys()
    for name, buffer in expected.items():
        assert torch.equal(buffer, found[name]) and buffer.dtype == found[name].dtype, name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_weights_give_the_same_logits_as_the_library(family: str) -> None:
    built = made(family)
    fresh = AutoModelForCausalLM.from_config(built.config).eval()
    fresh.load_state_dict(built.model.state_dict())
    ids = torch.arange(40)[None] % 96
    with torch.no_grad():
        assert torch.equal(built.model.eval()(ids).logits, fresh(ids).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_random_weights_are_distributed_as_the_library_makes_them(family: str) -> None:
    built = made(family)
    fresh = AutoModelForCausalLM.from_config(built.config)
    for (name, mine), theirs in zip(built.model.state_dict().items(), fresh.state_dict().values(), strict=True):
        assert mine.isfinite().all(), name
        if mine.numel() > 500:
            assert float(mine.std()) == pytest.approx(float(theirs.std()), rel=0.15), name
        else:
            assert float(mine.mean()) == pytest.approx(float(theirs.mean()), abs=0.05), name


def test_weights_depend_on_seed_and_name_alone() -> None:
    torch.manual_seed(1)
    one = dict(made("llama").model.named_parameters())
    torch.manual_seed(2)
    torch.randn(7)
    same, other = dict(made("llama").model.named_parameters()), dict(made("llama", seed=2).model.named_parameters())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one if one[name].ndim > 1)
    deeper = dict(made("llama", num_hidden_layers=4).model.named_parameters())
    assert all(torch.equal(one[name], deeper[name]) for name in one), "more layers leave the first ones as they are"
    layers = [one[f"model.layers.{number}.mlp.up_proj.weight"] for number in range(2)]
    assert not torch.equal(*layers)


def test_building_leaves_the_random_stream_alone() -> None:
    torch.manual_seed(9)
    expected = torch.randn(3)
    torch.manual_seed(9)
    made("gpt2")
    assert torch.equal(torch.randn(3), expected)


def test_ties_and_ids_come_from_configuration_and_tokenizer() -> None:
    tied, free = made("qwen3"), made("llama", tie_word_embeddings=False)
    assert tied.aliases == {"lm_head.weight": "model.embed_tokens.weight"} and free.aliases == {}
    assert free.config.vocab_size == 96 and free.config.eos_token_id == 3 and free.vocabulary == 96
    assert made("llama", eos_token_id=5).config.eos_token_id == 5
    assert free.label == "llama from scratch"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    fresh = AutoModelForCausalLM.from_config(made("llama").config)
    fresh.save_pretrained(folder)
    return folder


def from_files(folder: Path, tokens: TokenIds = TOKENS, **more: Any) -> Built:
    return build(ModelSection(name=str(folder), **more), tokens, seed=1, offline=True)


def test_weights_from_files(saved: Path) -> None:
    theirs = dict(AutoModelForCausalLM.from_pretrained(saved).named_parameters())
    found = dict(from_files(saved).model.named_parameters())
    assert all(torch.equal(theirs[name], found[name]) for name in theirs) and theirs.keys() == found.keys()
    random = dict(from_files(saved, init="random").model.named_parameters())
    assert not torch.equal(random["lm_head.weight"], theirs["lm_head.weight"])


def test_more_tokens_than_rows(saved: Path) -> None:
    larger = TokenIds(size=100, eos=3, pad=3)
    with pytest.raises(Failure) as failure:
        from_files(saved, larger)
    [problem] = failure.value.problems
    assert problem.id == "E-MODEL-005" and "100" in problem.message and "96" in problem.message
    assert problem.key == "model.resize_embeddings"
    built = from_files(saved, larger, resize_embeddings=True)
    theirs = AutoModelForCausalLM.from_pretrained(saved)
    assert built.vocabulary == built.config.vocab_size == 100
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        mine = dict(built.model.named_parameters())[name]
        assert mine.shape == (100, 32) and torch.equal(mine[:96], dict(theirs.named_parameters())[name])
        assert mine.isfinite().all()
    again = from_files(saved, larger, resize_embeddings=True)
    assert torch.equal(again.model.lm_head.weight, built.model.lm_head.weight), "new rows are the same on every rank"
    assert from_files(saved, TokenIds(size=50, eos=3, pad=3)).vocabulary == 96


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"model_type": "llama", "max_position_embeddings": 64}, 64),
        ({"model_type": "gpt2", "n_positions": 32}, 32),
        (FAMILIES["llama with long rope"], None),
    ],
)
def test_the_longest_row_a_model_takes(config: dict[str, Any], limit: int | None) -> None:
    found = door.config_from(config)
    assert position_limit(found) == limit
    check_length(found, limit or 10**6)
    if limit is not None:
        with pytest.raises(Failure, match=f"data.seq_len {limit + 1} is above the model's {limit} positions"):
            check_length(found, limit + 1)
    check_length(None, 10**9)


def not_a_module(config: dict[str, Any]) -> str:
    return "model"


def linear(config: dict[str, Any]) -> nn.Module:
    return nn.Linear(config["vocab_size"], config.get("width", 2))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("nowhere.at_all:build", "cannot import nowhere.at_all"),
        ("tests.unit.model.test_build:missing", "is not a function"),
        ("tests.unit.model.test_build:not_a_module", "returned no torch.nn.Module"),
    ],
)
def test_factories_that_give_no_model(factory: str, message: str) -> None:
    with pytest.raises(Failure, match=message) as failure:
        build(ModelSection(factory=factory), TOKENS, seed=1, offline=True)
    assert failure.value.problems[0].key == "model.factory"


def test_a_factory_is_seeded_and_gets_its_configuration() -> None:
    section = ModelSection(factory="tests.unit.model.test_build:linear", config={"width": 5})
    one, two = (build(section, TOKENS, seed=1, offline=True) for _ in range(2))
    assert one.config is None and one.model.weight.shape == (5, 96)
    assert torch.equal(one.model.weight, two.model.weight)
