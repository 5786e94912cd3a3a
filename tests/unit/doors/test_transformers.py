"""The door to transformers: what it would swallow is refused, what it understands is not."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from llmtrain.doors import transformers as door
from llmtrain.errors import Failure

TINY = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 40, "max_position_embeddings": 32,
}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"hidden_sise": 16}, "hidden_size"), ({"model_type": "lama"}, "llama"), ({"model_type": None}, "model_type")],
)
def test_a_setting_nobody_reads_is_refused(settings: dict[str, object], named: str) -> None:
    given = {key: value for key, value in (TINY | settings).items() if value is not None}
    with pytest.raises(Failure) as caught:
        door.config_from(given)
    problem = caught.value.problems[0]
    assert problem.id == "E-MODEL-002"
    assert named in f"{problem.message} {problem.hint}"


def test_older_spellings_that_transformers_understands_pass() -> None:
    assert door.config_from(TINY | {"rope_theta": 5e5}).rope_parameters["rope_theta"] == 5e5
    assert door.config_from({"model_type": "gpt2", "hidden_size": 64}).n_embd == 64


def test_initialisation_depends_on_names_not_on_order() -> None:
    def made(seed: int) -> dict[str, torch.Tensor]:
        model = door.empty_model(door.config_from(TINY), attention="auto")
        model.to_empty(device="cpu")
        door.initialise(model, lambda name: seed + sum(name.encode()))
        return model.state_dict()

    first, again, other = made(1), made(1), made(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_the_borrowed_symbol_is_there() -> None:
    assert callable(PreTrainedModel._init_weights)


def test_a_saved_model_opens_as_it_was(tmp_path: Path) -> None:
    config = door.config_from(TINY | {"tie_word_embeddings": True})
    model = door.empty_model(config, attention="auto")
    model.to_empty(device="cpu")
    door.initialise(model, len)
    door.tie(model)
    assert door.tied_names(model) == {"lm_head.weight": "model.embed_tokens.weight"}
    door.save_model(config, model.state_dict(), tmp_path, eos=[1], pad=2)
    opened = door.open_model(tmp_path)
    assert opened.generation_config is not None
    assert (opened.generation_config.eos_token_id, opened.generation_config.pad_token_id) == (1, 2)
    for name, tensor in model.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor), name


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(Failure) as caught:
        door.refuse_pickle(door.Origin(name=str(tmp_path)))
    assert caught.value.problems[0].id == "E-SEC-001"
