"""The one grammar of `every` and of durations (surface.md 2); separate because the engine reads it as well."""

import math
import re
from dataclasses import dataclass
from typing import Literal

UNITS = {
    "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0,
    "min": 60.0, "minute": 60.0, "minutes": 60.0,
    "h": 3600.0, "hour": 3600.0, "hours": 3600.0,
}  # fmt: skip
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]+)")
CADENCE_FORM = "steps (100), a share of all steps (0.1), `1 epoch`, `10 min`, or null for never"
DURATION_FORM = "a time such as `90 s`, `10 min` or `2 h`"


@dataclass(frozen=True, kw_only=True)
class Every:
    """How often something happens; `value` counts steps, epochs or seconds, or is a share of all steps."""

    kind: Literal["steps", "share", "epochs", "seconds", "best", "never"]
    value: float = 0.0


def _amount(text: str) -> tuple[float, str]:
    match = _AMOUNT.fullmatch(text.strip())
    value = float(match[1]) if match else 0.0
    if match is None or not 0 < value < math.inf:
        raise ValueError(f"{text!r} is no amount of time")
    return value, match[2].lower()


def parse_cadence(value: float | str | None, *, best: bool = False) -> Every:
    """Read an `every`; `best` says whether the word `best` is allowed.

    Raises:
        ValueError: not of the grammar `CADENCE_FORM`.
    """
    if value is None:
        return Every(kind="never")
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is no cadence")
    if isinstance(value, int | float):
        if 0 < value < 1:
            return Every(kind="share", value=float(value))
        if value >= 1 and math.isfinite(value) and value == int(value):
            return Every(kind="steps", value=float(value))
        raise ValueError(f"{value!r} is no cadence")
    if best and value == "best":
        return Every(kind="best")
    amount, unit = _amount(value)
    if unit in ("epoch", "epochs"):
        return Every(kind="epochs", value=amount)
    if unit in ("step", "steps") and amount == int(amount):
        return Every(kind="steps", value=amount)
    if unit not in UNITS:
        raise ValueError(f"{value!r} is no cadence")
    return Every(kind="seconds", value=amount * UNITS[unit])


def parse_duration(value: str) -> float:
    """Seconds of `90 s`, `10 min`, `2 h`.

    Raises:
        ValueError: not of the grammar `DURATION_FORM`.
    """
    amount, unit = _amount(value)
    if unit not in UNITS:
        raise ValueError(f"{value!r} is no cadence")
    return amount * UNITS[unit]
