"""Updates: every optimizer goes on after a reload as if it had never stopped; masters keep what bf16 would lose."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llmtrain.optim.groups import group_parameters
from llmtrain.optim.lion import Lion
from llmtrain.optim.optimizers import (
    AdafactorConfig,
    AdamWConfig,
    CustomConfig,
    LionConfig,
    MuonConfig,
    SgdConfig,
)  # fmt: skip
from llmtrain.optim.update import Update
from llmtrain.recipe.slots import OptimizerConfig

CONFIGS: dict[str, OptimizerConfig] = {
    "adamw": AdamWConfig(lr=1e-2),
    "sgd": SgdConfig(lr=1e-2),
    "sgd with momentum": SgdConfig(lr=1e-2, momentum=0.9, nesterov=True),
    "adafactor": AdafactorConfig(lr=1e-2),
    "lion": LionConfig(lr=1e-3),
    "muon": MuonConfig(lr=1e-2),
    "custom": CustomConfig(class_="torch.optim:RMSprop", args={"momentum": 0.9}, lr=1e-3),
}


def model_of(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 7, bias=False)).to(dtype)


def update_of(model: nn.Module, config: Any, *, master: bool = False) -> Update:
    groups = group_parameters(model.named_parameters(), model, config, vocabulary=7)
    return Update(groups, config.build, master=master)


def step(model: nn.Module, update: Update, number: int, *, limit: float = 1.0) -> None:
    ids = torch.tensor([number % 7, (number * 3) % 7, 5])
    model(ids).float().pow(2).sum().backward()
    update.clip(limit)
    update.step(1.0 / (number + 1))


@pytest.mark.parametrize("name", CONFIGS)
def test_making_the_state_changes_no_parameter(name: str) -> None:
    model = model_of()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    update = update_of(model, CONFIGS[name])
    assert all(torch.equal(before[n], p) and p.grad is None for n, p in model.named_parameters())
    assert all(float(value.float().abs().sum()) == 0 for _, value in update.tensors())


@pytest.mark.parametrize("name", CONFIGS)
def test_the_first_step_is_that_of_the_optimizer_itself(name: str) -> None:
    """State made ahead may not leave a trace in the first update."""
    ours, theirs = model_of(), model_of()
    config: Any = CONFIGS[name]
    update = update_of(ours, config)
    groups = group_parameters(theirs.named_parameters(), theirs, config, vocabulary=7)
    optimizers = config.build(groups)
    for number in range(3):
        ids = torch.tensor([number, 2 * number, 5])
        for model in (ours, theirs):
            model(ids).pow(2).sum().backward()
        update.step(1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_optimizer_goes_on_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    low = dtype != torch.float32
    whole = model_of(dtype)
    update = update_of(whole, CONFIGS[name], master=low)
    for number in range(3):
        step(whole, update, number)
    saved = {n: value.clone() for n, value in update.tensors()}
    weights = {n: p.detach().clone() for n, p in whole.named_parameters()}
    for number in range(3, 6):
        step(whole, update, number)

    again = model_of(dtype)
    resumed = update_of(again, CONFIGS[name], master=low)
    assert set(dict(resumed.tensors())) == set(saved)
    with torch.no_grad():
        for n, p in again.named_parameters():
            p.copy_(weights[n])
        for n, value in resumed.tensors():
            value.copy_(saved[n])
    for number in range(3, 6):
        step(again, resumed, number)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    pairs = zip(update.tensors(), resumed.tensors(), strict=True)
    assert all(one == other and torch.equal(a, b) for (one, a), (other, b) in pairs)


def test_masters_keep_what_bf16_would_lose() -> None:
    """A hundred updates of a thousandth of a bf16 step: lost without masters, a tenth of a step with them."""
    found = {}
    for master in (True, False):
        model = nn.Linear(4, 4, bias=False).to(torch.bfloat16)
        with torch.no_grad():
            model.weight.fill_(1.0)
        update = update_of(model, SgdConfig(lr=1.0), master=master)
        for _ in range(100):
            model.weight.grad = torch.full_like(model.weight, 2.0**-13)
            update.step(1.0)
        found[master] = float(model.weight.detach().float()[0, 0].item())
        names = [name for name, _ in update.tensors()]
        assert names == (["weight/master"] if master else [])
        assert all(value.dtype == torch.float32 for _, value in update.tensors())
    assert found[False] == 1.0 and found[True] == pytest.approx(1 - 100 * 2.0**-13, abs=2.0**-8)
    assert found[True] < 1.0


def test_masters_follow_weights_that_come_from_elsewhere() -> None:
    model = nn.Linear(2, 2, bias=False).to(torch.bfloat16)
    update = update_of(model, SgdConfig(lr=1.0), master=True)
    with torch.no_grad():
        model.weight.fill_(3.0)
    update.refresh_masters()
    model.weight.grad = torch.ones_like(model.weight)
    update.step(1.0)
    assert torch.equal(model.weight, torch.full_like(model.weight, 2.0))


def test_fp32_parameters_need_no_masters() -> None:
    update = update_of(model_of(), AdamWConfig(), master=True)
    assert not [name for name, _ in update.tensors() if name.endswith("/master")]


@pytest.mark.parametrize(("limit", "share"), [(0.0, 1.0), (0.1, 0.1), (1e9, 1.0)])
def test_clipping(limit: float, share: float) -> None:
    model = nn.Linear(3, 3, bias=False)
    update = update_of(model, SgdConfig(lr=1.0))
    model.weight.grad = torch.full((3, 3), 2.0 / 3.0)  # norm 2
    norm = update.clip(limit)
    assert float(norm) == pytest.approx(2.0)
    expected = 2.0 if share == 1.0 else limit
    assert float(model.weight.grad.norm()) == pytest.approx(expected, rel=1e-5)


def test_the_loss_scale_is_undone_before_the_norm() -> None:
    model = nn.Linear(3, 3, bias=False)
    update = update_of(model, SgdConfig(lr=1.0))
    model.weight.grad = torch.full((3, 3), 1024 * 2.0 / 3.0)
    assert float(update.clip(1.0, scale=1024.0)) == pytest.approx(2.0)
    assert float(model.weight.grad.norm()) == pytest.approx(1.0, rel=1e-5)


def test_the_rate_is_the_peak_of_the_group_times_the_factor() -> None:
    model = model_of()
    config = SgdConfig(lr=0.5, groups=[{"match": "^1", "lr": 0.25}])
    update = update_of(model, config)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    update.step(0.1)
    for name, parameter in model.named_parameters():
        rate = 0.25 if name.startswith("1") else 0.5
        assert torch.allclose(before[name] - parameter, torch.full_like(parameter, 0.1 * rate), atol=1e-6)
        assert parameter.grad is None


def lion_by_the_paper(weights: Tensor, gradients: list[Tensor], rate: float, decay: float) -> Tensor:
    """Algorithm 2 of Chen et al. 2023 in float64."""
    theta, momentum = weights.double(), torch.zeros_like(weights, dtype=torch.float64)
    for gradient in gradients:
        g = gradient.double()
        direction = torch.sign(0.9 * momentum + 0.1 * g)
        theta = theta - rate * (direction + decay * theta)
        momentum = 0.99 * momentum + 0.01 * g
    return theta


def test_lion_is_the_papers_algorithm() -> None:
    torch.manual_seed(2)
    weight = nn.Parameter(torch.randn(5, 4))
    gradients = [torch.randn(5, 4) for _ in range(20)]
    expected = lion_by_the_paper(weight.detach(), gradients, 1e-2, 0.1)
    optimizer = Lion([{"params": [weight], "lr": 1e-2, "weight_decay": 0.1}], betas=(0.9, 0.99))
    for gradient in gradients:
        weight.grad = gradient
        optimizer.step()
    assert float((weight.detach().double() - expected).abs().max()) < 1e-6


def test_muon_takes_the_hidden_matrices_and_adamw_the_rest() -> None:
    muon, adamw = update_of(model_of(), MuonConfig(lr=1e-2)).optimizers
    assert isinstance(muon, torch.optim.Muon) and isinstance(adamw, torch.optim.AdamW)
    names: Callable[[Any], set[str]] = lambda o: {name for group in o.param_groups for name in group["names"]}  # noqa: E731
    assert names(muon) == {"1.weight"} and names(adamw) == {"0.weight", "1.bias", "2.weight", "2.bias", "3.weight"}
