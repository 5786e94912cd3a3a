"""Each parameter is in one group, and the group says whether it decays."""

from typing import Any

import pytest
import torch
from torch import nn

from llmtrain.errors import Failure
from llmtrain.optim.groups import Group, build_custom, group_parameters, split_hidden
from llmtrain.optim.optimizers import AdamWConfig
from llmtrain.optim.update import Update


class Mixed(nn.Module):
    """One of each kind: embedding, tied or own head, matrix, bias, LayerNorm, RMSNorm, a 3-D weight, a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.inner = nn.Linear(4, 6)
        self.norm = nn.LayerNorm(4)
        self.scale = nn.RMSNorm(4)
        self.convolution = nn.Conv1d(4, 4, 3)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 11, bias=False)


def grouped(model: nn.Module, **words: Any) -> dict[str, Group]:
    found = group_parameters(model.named_parameters(), model, AdamWConfig(weight_decay=0.1, **words), vocabulary=11)
    return {group.label: group for group in found}


def test_who_decays() -> None:
    model = Mixed()
    groups = grouped(model)
    assert set(groups["norms and biases"].names) == {
        "inner.bias", "norm.weight", "norm.bias", "scale.weight", "convolution.bias",
    }  # fmt: skip
    assert set(groups["matrices"].names) == {"inner.weight", "convolution.weight", "head.weight"}
    assert groups["embeddings"].names == ("embed.weight",)
    assert [groups[name].weight_decay for name in ("norms and biases", "matrices", "embeddings")] == [0.0, 0.1, 0.1]
    assert grouped(model, decay_embeddings=False)["embeddings"].weight_decay == 0.0
    names = [name for group in groups.values() for name in group.names]
    assert sorted(names) == sorted(n for n, p in model.named_parameters() if p.requires_grad)
    assert groups["embeddings"].size == 44


def test_a_tied_head_is_the_embedding() -> None:
    model = Mixed()
    model.head.weight = model.embed.weight
    groups = grouped(model)
    assert groups["embeddings"].names == ("embed.weight",) and "head.weight" not in groups["matrices"].names


def test_with_zero_gradients_matrices_shrink_and_nothing_else_moves() -> None:
    model = Mixed()
    config = AdamWConfig(lr=0.01, weight_decay=0.1)
    groups = group_parameters(model.named_parameters(), model, config, vocabulary=11)
    update = Update(groups, config.build, master=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    update.step(0.5)
    for name, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and parameter.requires_grad
        expected = before[name] * (1 - 0.01 * 0.5 * 0.1) if decays else before[name]
        assert torch.allclose(parameter, expected, rtol=1e-7, atol=0) and (decays or torch.equal(parameter, expected))


def test_entries_of_the_recipe_come_first_and_the_first_match_wins() -> None:
    entries = [{"match": r"^inner\.", "lr": 0.5}, {"match": "weight$", "weight_decay": 0.3}]
    groups = grouped(Mixed(), groups=entries)
    assert groups["groups[0]"].names == ("inner.weight", "inner.bias") and groups["groups[0]"].lr == 0.5
    assert "embed.weight" in groups["groups[1]"].names and groups["groups[1]"].weight_decay == 0.3
    assert set(groups["norms and biases"].names) == {"norm.bias", "convolution.bias"}


@pytest.mark.parametrize(
    ("entry", "key"),
    [
        ({"match": "nothing"}, "optimizer.groups[0]"),
        ({"match": "("}, "optimizer.groups[0]"),
        ({"match": "w", "rate": 1}, "optimizer.groups[0]"),
        ({"lr": 1}, "optimizer.groups[0]"),
        ({"match": "w", "lr": "fast"}, "optimizer.groups[0]"),
    ],
)
def test_entries_that_cannot_be_meant(entry: dict[str, Any], key: str) -> None:
    with pytest.raises(Failure) as failure:
        grouped(Mixed(), groups=[entry])
    assert failure.value.problems[0].key == key and failure.value.exit_code == 2


def test_hidden_matrices_are_told_from_the_rest() -> None:
    hidden, rest = split_hidden(list(grouped(Mixed()).values()))
    assert [name for group in hidden for name in group.names] == ["inner.weight"]
    assert {"embed.weight", "head.weight", "convolution.weight"} <= {name for group in rest for name in group.names}


@pytest.mark.parametrize(
    ("path", "arguments", "id_"),
    [
        (None, {}, "E-RECIPE-006"),
        ("torch.optim", {}, "E-RECIPE-006"),
        ("nowhere.to_be:Found", {}, "E-ENV-001"),
        ("torch.nn:Linear", {}, "E-RECIPE-004"),
        ("torch.optim:Missing", {}, "E-RECIPE-004"),
        ("torch.optim:RMSprop", {"speed": 3}, "E-RECIPE-004"),
    ],
)
def test_custom_classes_that_cannot_be_used(path: str | None, arguments: dict[str, Any], id_: str) -> None:
    with pytest.raises(Failure) as failure:
        build_custom(path, arguments, list(grouped(Mixed()).values()))
    assert failure.value.problems[0].id == id_


def test_a_custom_class() -> None:
    found = build_custom("torch.optim:RMSprop", {"momentum": 0.5}, list(grouped(Mixed()).values()))
    assert isinstance(found, torch.optim.RMSprop) and found.param_groups[0]["momentum"] == 0.5
