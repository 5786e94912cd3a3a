"""The final folder is whole or absent, has plain modes, and is checked against the trained tensors."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llmtrain.doors import transformers as door
from llmtrain.errors import Exit, Failure
from llmtrain.export import folder as export

TINY = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 40, "max_position_embeddings": 32,
}  # fmt: skip


@pytest.fixture
def trained() -> tuple[Any, dict[str, Tensor]]:
    config = door.config_from(TINY)
    model = door.empty_model(config, attention="auto")
    model.to_empty(device="cpu")
    door.initialise(model, lambda name: sum(name.encode()))
    return config, {name: tensor.detach() for name, tensor in model.named_parameters()}


def write(target: Path, config: object, weights: dict[str, Tensor]) -> None:
    export.write_model(target, config, weights, eos=1, pad=0, save_tokenizer=lambda at: None)


def test_a_model_is_written_and_opens_equal(trained: tuple[Any, dict[str, Tensor]], tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "model", *trained)
    finally:
        os.umask(before)
    opened = door.open_model(tmp_path / "model").state_dict()
    assert all(torch.equal(opened[name], tensor) for name, tensor in trained[1].items())
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()} == {0o640}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_holds_other_weights_is_never_put_in_place(
    trained: tuple[Any, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = door.save_model

    def spoiled(config: object, weights: dict[str, Tensor], folder: Path, **words: Any) -> None:
        name = "model.norm.weight"
        real(config, {**weights, name: weights[name] + 2**-20}, folder, **words)

    monkeypatch.setattr(door, "save_model", spoiled)
    with pytest.raises(Failure) as caught:
        write(tmp_path / "model", *trained)
    assert (caught.value.problems[0].id, caught.value.exit_code) == ("E-RUN-008", Exit.UNHEALTHY)
    assert "model.norm.weight" in caught.value.problems[0].message
    assert not (tmp_path / "model").exists()


def test_an_earlier_try_is_replaced_and_a_foreign_module_is_plain_safetensors(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "stale").touch()
    write(tmp_path / "model", None, {"layer.weight": torch.ones(2, 3)})
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["model.safetensors"]
