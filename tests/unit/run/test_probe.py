"""The built model itself answers: packs of a Llama stay apart, those of an OPT do not; a changed head is noticed."""

from typing import Any

import pytest
import torch
from torch import nn

from llmtrain.model.build import TokenIds, build
from llmtrain.model.scoring import head_of
from llmtrain.parallel.stage import Stage
from llmtrain.recipe.schema import ModelSection
from llmtrain.run.probe import LEAK, chunks_agree, packs_leak

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
OPT: dict[str, Any] = {
    "model_type": "opt", "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "word_embed_proj_dim": 32,
}  # fmt: skip


def stage_of(config: dict[str, Any]) -> tuple[Stage, nn.Linear]:
    built = build(ModelSection(config=config), TokenIds(size=64, eos=0, pad=0), seed=1, offline=True)
    head = head_of(built)
    assert head is not None
    return Stage(built.model, foreign=False), head


@pytest.mark.parametrize(("config", "leaks"), [(LLAMA, False), (OPT, True)])
def test_packs_are_asked_of_the_model(config: dict[str, Any], leaks: bool) -> None:
    stage, _ = stage_of(config)
    assert (packs_leak(stage, 64) > LEAK) is leaks


def test_a_probe_draws_nothing_and_leaves_the_mode() -> None:
    stage, _ = stage_of(LLAMA)
    stage.train()
    before = torch.get_rng_state()
    packs_leak(stage, 64)
    assert stage.training
    assert torch.equal(before, torch.get_rng_state())


def test_the_chunked_loss_is_compared_with_the_model_s_own() -> None:
    stage, head = stage_of(LLAMA)
    assert chunks_agree(stage, head, 64)
    other = nn.Linear(32, 64, bias=False)
    assert not chunks_agree(stage, other, 64)


def test_a_model_that_caps_its_logits_is_noticed() -> None:
    gemma: dict[str, Any] = {**LLAMA, "model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": 0.5}
    stage, head = stage_of(gemma)
    assert not chunks_agree(stage, head, 64)
