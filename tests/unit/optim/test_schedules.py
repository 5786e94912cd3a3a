"""Schedules against their closed forms (formulas.md 7) and against transformers' own functions."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from llmtrain.errors import Failure
from llmtrain.optim import schedules
from llmtrain.recipe.slots import ScheduleConfig

T, W = 50, 7
LR = 3e-3


def warmed(after: Callable[[float], float], warm: int = W, total: int = T) -> list[float]:
    """Linear warm-up, then a function of p."""
    return [(t + 1) / warm if t < warm else after((t - warm) / max(1, total - warm)) for t in range(total)]


def below(floor: float, fall: Callable[[float], float]) -> Callable[[float], float]:
    return lambda p: floor + (1 - floor) * fall(p)


def half_cosine(p: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * p))


FORMS: dict[str, tuple[ScheduleConfig, list[float]]] = {
    "constant": (schedules.ConstantConfig(warmup=0.0), [1.0] * T),
    "constant_with_warmup": (schedules.ConstantWithWarmupConfig(warmup=W), warmed(lambda p: 1.0)),
    "linear": (schedules.LinearConfig(warmup=W), warmed(lambda p: 1 - p)),
    "linear to a floor": (schedules.LinearConfig(warmup=W, min_ratio=0.2), warmed(below(0.2, lambda p: 1 - p))),
    "cosine": (schedules.CosineConfig(warmup=W), warmed(below(0.1, half_cosine))),
    "cosine to a rate": (schedules.CosineConfig(warmup=W, min_lr=LR / 4), warmed(below(0.25, half_cosine))),
    "cosine, three half waves": (
        schedules.CosineConfig(warmup=W, min_ratio=0.0, cycles=1.5),
        warmed(lambda p: 0.5 * (1 + math.cos(3 * math.pi * p))),
    ),
    "cosine_with_restarts": (
        schedules.RestartsConfig(warmup=W, cycles=3),
        warmed(lambda p: half_cosine((3 * p) % 1.0)),
    ),
    "polynomial": (
        schedules.PolynomialConfig(warmup=W, power=2.0, min_ratio=0.1),
        warmed(below(0.1, lambda p: (1 - p) ** 2)),
    ),
    "inverse_sqrt": (
        schedules.InverseSqrtConfig(warmup=W),
        [(t + 1) / W if t < W else math.sqrt(W / t) for t in range(T)],
    ),
    "inverse_sqrt of a time scale": (
        schedules.InverseSqrtConfig(warmup=W, timescale=20),
        [(t + 1) / W if t < W else math.sqrt(20 / (t + 13)) for t in range(T)],
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_closed_forms(name: str) -> None:
    config: Any = FORMS[name][0]
    factor = config.build(T, LR)
    assert [factor(t) for t in range(T)] == pytest.approx(FORMS[name][1], abs=1e-12, rel=0)


@pytest.mark.parametrize("shape", ["linear", "sqrt", "cosine"])
@pytest.mark.parametrize(("decay", "length"), [(0.2, 10), (0.21, 11), (15, 15)])
def test_wsd(shape: Any, decay: float, length: int) -> None:
    falls = {"linear": lambda q: 1 - q, "sqrt": lambda q: 1 - math.sqrt(q), "cosine": half_cosine}
    factor = schedules.WsdConfig(warmup=W, decay=decay, shape=shape, min_ratio=0.05).build(T, LR)
    plateau = T - length
    expected = [
        (t + 1) / W if t < W else 1.0 if t < plateau else 0.05 + 0.95 * falls[shape]((t - plateau) / length)
        for t in range(T)
    ]
    assert [factor(t) for t in range(T)] == pytest.approx(expected, abs=1e-12, rel=0)


def test_the_example_of_the_formulas_page() -> None:
    factor = schedules.LinearConfig(warmup=2).build(10, 1.0)
    expected = [0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert [factor(t) for t in range(10)] == pytest.approx(expected, abs=1e-12)


def theirs(make: Callable[[Any], Any]) -> list[float]:
    """Learning rates of a transformers schedule, as shares of the peak."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = make(optimizer)
    rates = []
    for _ in range(T):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


PAIRS: dict[str, tuple[ScheduleConfig, Callable[[Any], Any]]] = {
    "linear": (
        schedules.LinearConfig(warmup=W, hf_compatible=True),
        lambda o: transformers.get_linear_schedule_with_warmup(o, W, T),
    ),
    "cosine": (
        schedules.CosineConfig(warmup=W, min_ratio=0.0, hf_compatible=True),
        lambda o: transformers.get_cosine_schedule_with_warmup(o, W, T),
    ),
    "constant_with_warmup": (
        schedules.ConstantWithWarmupConfig(warmup=W, hf_compatible=True),
        lambda o: transformers.get_constant_schedule_with_warmup(o, W),
    ),
    "restarts": (
        schedules.RestartsConfig(warmup=W, cycles=3, hf_compatible=True),
        lambda o: transformers.get_cosine_with_hard_restarts_schedule_with_warmup(o, W, T, num_cycles=3),
    ),
    "inverse_sqrt": (
        schedules.InverseSqrtConfig(warmup=W, hf_compatible=True),
        lambda o: transformers.get_inverse_sqrt_schedule(o, W),
    ),
    "polynomial": (
        schedules.PolynomialConfig(warmup=W, power=2.0, min_ratio=1e-3, hf_compatible=True),
        lambda o: transformers.get_polynomial_decay_schedule_with_warmup(o, W, T, lr_end=1e-3, power=2.0),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_compatible_schedules_are_transformers_own(name: str) -> None:
    config: Any = PAIRS[name][0]
    factor = config.build(T, LR)
    assert [factor(t) for t in range(T)] == pytest.approx(theirs(PAIRS[name][1]), abs=1e-12, rel=0)


@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 0), (0.1, 5), (0.11, 6), (1.0, 1), (3.0, 3), (0.999, 50)])
def test_a_share_of_warm_up_is_rounded_up(warmup: float, steps: int) -> None:
    assert schedules.warmup_steps(schedules.CosineConfig(warmup=warmup), T) == steps


def test_rates_past_the_plan_stay_at_the_floor() -> None:
    for config in (schedules.CosineConfig(), schedules.LinearConfig(min_ratio=0.1), schedules.WsdConfig(min_ratio=0.1)):
        assert config.build(T, LR)(T + 100) == pytest.approx(0.1, abs=1e-12)


@pytest.mark.parametrize(
    "config",
    [
        schedules.CosineConfig(warmup=T + 1),
        schedules.CosineConfig(min_lr=2 * LR),
        schedules.WsdConfig(warmup=W, decay=T - W + 1),
    ],
)
def test_schedules_that_do_not_fit_the_run(config: Any) -> None:
    with pytest.raises(Failure) as failure:
        config.build(T, LR)
    assert failure.value.problems[0].id == "E-PLAN-004" and failure.value.exit_code == 2
