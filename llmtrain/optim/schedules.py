"""Learning-rate schedules as pure functions f(t, T) of applied and planned updates (formulas.md 7).

Separate from the optimizers because a schedule has no state: the rate of any step can be asked at any time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llmtrain.errors import fail
from llmtrain.recipe.slots import ScheduleConfig, option, register

Factor = Callable[[int], float]
"""Applied updates t -> share of the peak learning rate."""


def warmup_steps(config: ScheduleConfig, total: int) -> int:
    """Updates of warm-up: a share below 1 is rounded up to whole updates."""
    return math.ceil(total * config.warmup) if config.warmup < 1 else int(config.warmup)


@dataclass(frozen=True, kw_only=True)
class WarmedConfig(ScheduleConfig):
    """A schedule with linear warm-up f = (t+1)/W for t < W."""

    hf_compatible: bool = False
    """Transformers' warm-up t/W, whose first update has rate 0."""

    def build(self, total: int, lr: float) -> Factor:
        """The factor for `total` planned updates and peak `lr`.

        Raises:
            Failure: the warm-up is longer than the run.
        """
        warm = warmup_steps(self, total)
        if warm > total:
            raise fail(
                "E-PLAN-004", f"{warm} warm-up steps in a run of {total} steps", key="schedule.warmup",
                hint=f"at most {total}, or a share below 1",
            )  # fmt: skip
        shift = 0 if self.hf_compatible else 1
        after = self.after(warm, total, lr)
        return lambda t: (t + shift) / warm if t < warm else after(t)

    def after(self, warm: int, total: int, lr: float) -> Factor:
        """The factor for t >= W."""
        raise NotImplementedError


def progress(t: int, warm: int, total: int) -> float:
    """P = (t - W) / max(1, T - W), never above 1."""
    return min(1.0, (t - warm) / max(1, total - warm))


@dataclass(frozen=True, kw_only=True)
class FloorConfig(WarmedConfig):
    """A warmed schedule that ends at a floor r."""

    min_ratio: float = option(0.0, ge=0, le=1)
    """Floor as a share of the peak."""
    min_lr: float | None = option(None, ge=0)
    """Floor as a learning rate; replaces `min_ratio`."""

    def floor(self, lr: float) -> float:
        """The floor r as a share of the peak.

        Raises:
            Failure: the floor lies above the peak.
        """
        if self.min_lr is None:
            return self.min_ratio
        if self.min_lr > lr:
            raise fail("E-PLAN-004", f"min_lr {self.min_lr:g} is above the peak {lr:g}", key="schedule.min_lr")
        return self.min_lr / lr


@register(ScheduleConfig, "constant")
@dataclass(frozen=True, kw_only=True)
class ConstantConfig(ScheduleConfig):
    """The peak at every step, without warm-up."""

    name: str = "constant"
    warmup: float = option(0.0, ge=0, le=0)
    """Not available here: use `constant_with_warmup`."""

    def build(self, total: int, lr: float) -> Factor:
        """The factor 1."""
        return lambda t: 1.0


@register(ScheduleConfig, "constant_with_warmup")
@dataclass(frozen=True, kw_only=True)
class ConstantWithWarmupConfig(WarmedConfig):
    """The peak after the warm-up."""

    name: str = "constant_with_warmup"

    def after(self, warm: int, total: int, lr: float) -> Factor:
        return lambda t: 1.0


@register(ScheduleConfig, "linear")
@dataclass(frozen=True, kw_only=True)
class LinearConfig(FloorConfig):
    """A straight line from the peak to the floor."""

    name: str = "linear"

    def after(self, warm: int, total: int, lr: float) -> Factor:
        floor = self.floor(lr)
        return lambda t: floor + (1 - floor) * (1 - progress(t, warm, total))


@register(ScheduleConfig, "cosine", "cosine_with_min_lr")
@dataclass(frozen=True, kw_only=True)
class CosineConfig(FloorConfig):
    """Half a cosine wave from the peak to the floor."""

    name: str = "cosine"
    min_ratio: float = option(0.1, ge=0, le=1)
    """Floor as a share of the peak."""
    cycles: float = option(0.5, gt=0)
    """Waves; 0.5 goes down once."""

    def after(self, warm: int, total: int, lr: float) -> Factor:
        floor, waves = self.floor(lr), 2 * math.pi * self.cycles
        return lambda t: floor + (1 - floor) * 0.5 * (1 + math.cos(waves * progress(t, warm, total)))


@register(ScheduleConfig, "cosine_with_restarts")
@dataclass(frozen=True, kw_only=True)
class RestartsConfig(FloorConfig):
    """Several half cosine waves, each starting at the peak."""

    name: str = "cosine_with_restarts"
    cycles: int = option(1, ge=1)
    """Number of waves."""

    def after(self, warm: int, total: int, lr: float) -> Factor:
        floor = self.floor(lr)
        return lambda t: (
            floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * ((self.cycles * progress(t, warm, total)) % 1.0)))
        )


@register(ScheduleConfig, "polynomial")
@dataclass(frozen=True, kw_only=True)
class PolynomialConfig(FloorConfig):
    """A power of the remaining share."""

    name: str = "polynomial"
    power: float = option(1.0, gt=0)
    """Exponent."""

    def after(self, warm: int, total: int, lr: float) -> Factor:
        floor = self.floor(lr)
        return lambda t: floor + (1 - floor) * (1 - progress(t, warm, total)) ** self.power


@register(ScheduleConfig, "inverse_sqrt")
@dataclass(frozen=True, kw_only=True)
class InverseSqrtConfig(WarmedConfig):
    """One over the root of the time since the warm-up."""

    name: str = "inverse_sqrt"
    timescale: int | None = option(None, ge=1)
    """Updates after which the rate has fallen by the root of 2; default: the warm-up, or 10,000 without one."""

    def after(self, warm: int, total: int, lr: float) -> Factor:
        scale = self.timescale or warm or 10_000
        return lambda t: 1 / math.sqrt((t + scale - warm) / scale)


@register(ScheduleConfig, "wsd")
@dataclass(frozen=True, kw_only=True)
class WsdConfig(FloorConfig):
    """Warm-up, a plateau at the peak, a decay at the end."""

    name: str = "wsd"
    decay: float = option(0.1, gt=0)
    """Decay: below 1 a share of all steps, else a number of steps."""
    shape: Literal["linear", "sqrt", "cosine"] = "linear"
    """Form of the decay."""

    def after(self, warm: int, total: int, lr: float) -> Factor:
        floor = self.floor(lr)
        length = math.ceil(total * self.decay) if self.decay < 1 else int(self.decay)
        if warm + length > total:
            raise fail(
                "E-PLAN-004", f"{warm} warm-up and {length} decay steps in a run of {total} steps", key="schedule.decay"
            )
        falls: dict[str, Callable[[float], float]] = {
            "linear": lambda q: 1 - q,
            "sqrt": lambda q: 1 - math.sqrt(q),
            "cosine": lambda q: 0.5 * (1 + math.cos(math.pi * q)),
        }
        fall, first = falls[self.shape], total - length
        return lambda t: 1.0 if t < first else floor + (1 - floor) * fall(min(1.0, (t - first) / length))
