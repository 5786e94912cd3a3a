"""Contracts of what is borrowed from transformers: private names, masks from positions, folders it opens."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from llmtrain.doors import transformers as door
from llmtrain.errors import Failure
from llmtrain.model.build import TokenIds, build
from llmtrain.parallel.stage import Stage
from llmtrain.recipe.schema import ModelSection

SMALL: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
APART: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "qwen2": SMALL,
    "qwen3": {**SMALL, "head_dim": 8},
    "mistral": {**SMALL, "sliding_window": 16},
    "gemma2": {**SMALL, "head_dim": 8, "sliding_window": 16},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gpt_neox": {key: value for key, value in SMALL.items() if key != "num_key_value_heads"},
}


def stage_of(family: str, **more: Any) -> Stage:
    section = ModelSection(config={"model_type": family, **APART[family], **more})
    return Stage(build(section, TokenIds(size=96, eos=3, pad=3), seed=1, offline=True).model, foreign=False)


def test_the_version_is_one_that_these_tests_cover() -> None:
    found = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    assert door.TESTED[0] <= found < door.TESTED[1]


def test_the_rules_for_random_weights_are_where_they_are_taken_from() -> None:
    assert callable(PreTrainedModel._init_weights)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("family", APART)
def test_packed_documents_do_not_see_each_other(family: str, training: bool) -> None:
    """Flipping a token of one document changes no logit of the others, and all later ones of its own."""
    stage = stage_of(family)
    if family == "gpt2":
        stage = stage_of(family, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    stage.train(training)
    lengths = (7, 1, 19, 12)
    positions = torch.cat([torch.arange(length) for length in lengths])[None].repeat(2, 1)
    ids = (torch.arange(2 * 39).reshape(2, 39) * 7919 + 5) % 96
    with torch.no_grad():
        before = stage(ids, positions)
        flipped = ids.clone()
        flipped[0, 10] = (flipped[0, 10] + 1) % 96
        after = stage(flipped, positions)
    changed = (before - after).abs().amax(-1)
    inside = torch.zeros_like(changed, dtype=torch.bool)
    inside[0, 10:27] = True
    assert float(changed[~inside].max()) == 0.0
    assert float(changed[0, 10:14].min()) > 0


@pytest.mark.parametrize("family", APART)
def test_a_document_in_a_pack_is_the_document_alone(family: str) -> None:
    stage = stage_of(family).eval()
    ids = (torch.arange(30)[None] * 7919 + 5) % 96
    positions = torch.cat([torch.arange(11), torch.arange(19)])[None]
    with torch.no_grad():
        packed = stage(ids, positions)[:, 11:]
        alone = stage(ids[:, 11:], torch.arange(19)[None])
    assert float((packed - alone).abs().max()) < 2e-6


def test_hidden_states_and_head_are_the_logits() -> None:
    """What the chunked loss relies on; a model that scales or caps after the head is told by its own probe."""
    stage = stage_of("llama").eval()
    ids, positions = torch.arange(20)[None], torch.arange(20)[None]
    with torch.no_grad():
        logits = stage(ids, positions)
        stage.hidden = True
        hidden = stage(ids, positions)
        assert torch.allclose(stage.model.get_output_embeddings()(hidden), logits, atol=1e-6)


def test_blocks_are_the_layers() -> None:
    stage = stage_of("llama", num_hidden_layers=3)
    assert [type(block).__name__ for block in stage.blocks()] == ["LlamaDecoderLayer"] * 3


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_saved_folder_holds_the_weights_bit_for_bit(family: str, tmp_path: Path) -> None:
    section = ModelSection(config={"model_type": family, **APART[family]})
    built = build(section, TokenIds(size=96, eos=3, pad=2), seed=1, offline=True)
    weights = {name: parameter.detach() for name, parameter in built.model.named_parameters()}
    door.save_model(built.config, weights, tmp_path / "model", eos=[3], pad=2)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    found = dict(opened.named_parameters())
    assert found.keys() == weights.keys() and all(torch.equal(found[name], weights[name]) for name in weights)
    assert opened.generation_config.eos_token_id == 3 and opened.generation_config.pad_token_id == 2


@pytest.mark.parametrize(
    ("settings", "id_", "hint"),
    [
        ({"model_type": "lama"}, "E-MODEL-002", "llama"),
        ({}, "E-MODEL-002", "model_type"),
        ({"model_type": "llama", "hiden_size": 3}, "E-MODEL-002", "hidden_size"),
    ],
)
def test_configurations_that_cannot_be_meant(settings: dict[str, Any], id_: str, hint: str) -> None:
    with pytest.raises(Failure) as failure:
        door.config_from(settings)
    [problem] = failure.value.problems
    assert problem.id == id_ and hint in (problem.hint or "")


def test_files_that_can_run_code_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(Failure) as failure:
        door.locate(str(tmp_path / "pytorch_model.bin"), revision=None, trust_remote_code=False, offline=True)
    assert failure.value.problems[0].id == "E-SEC-001"
    origin = door.locate(str(tmp_path), revision=None, trust_remote_code=False, offline=True)
    with pytest.raises(Failure) as failure:
        door.refuse_pickle(origin)
    assert failure.value.problems[0].id == "E-SEC-001"


def test_names_that_are_no_model(tmp_path: Path) -> None:
    for name in (str(tmp_path / "absent"), "org/name"):
        with pytest.raises(Failure) as failure:
            door.locate(name, revision=None, trust_remote_code=False, offline=True)
        assert failure.value.problems[0].id == "E-MODEL-001"


@pytest.mark.parametrize("damage", ["cut", "missing", "misshaped"])
def test_damaged_weights_are_named(tmp_path: Path, damage: str) -> None:
    config = door.config_from({"model_type": "llama", **SMALL, "vocab_size": 96})
    model = AutoModelForCausalLM.from_config(config)
    state = model.state_dict()
    if damage == "missing":
        state.pop("model.norm.weight")
    if damage == "misshaped":
        state["model.norm.weight"] = torch.ones(7)
    model.save_pretrained(tmp_path, state_dict=state)
    if damage == "cut":
        path = tmp_path / "model.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
    origin = door.locate(str(tmp_path), revision=None, trust_remote_code=False, offline=True)
    with pytest.raises(Failure) as failure:
        door.read_weights(origin, config)
    [problem] = failure.value.problems
    assert problem.id == "E-MODEL-003" and (damage == "cut" or "model.norm.weight" in problem.message)


def test_a_gguf_file_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").touch()
    monkeypatch.setattr(door.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Failure) as caught:
        door.locate(str(tmp_path / "m.gguf"), revision=None, trust_remote_code=False, offline=False)
    problem = caught.value.problems[0]
    assert problem.id == "E-ENV-001"
    assert problem.hint is not None and "llmtrain[gguf]" in problem.hint
