"""What a key expects, in words; separate because error messages and the reference must say the same."""

from collections.abc import Mapping
from typing import Any

from llmtrain.recipe import durations
from llmtrain.recipe.types import Want, take_apart

_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def bound(value: float) -> str:
    """A limit as people write it: large powers of two as such."""
    power = int(value).bit_length() - 1
    return f"2^{power}" if power >= 32 and value == 2**power else f"{value}"


def limits(rules: Mapping[str, Any]) -> str:
    """` >= 1 and < 10`, or nothing."""
    parts = [f"{sign} {bound(rules[name])}" for name, sign in _SIGNS.items() if name in rules]
    return f" {' and '.join(parts)}" if parts else ""


def expected(want: Want, rules: Mapping[str, Any]) -> str:
    """`a number > 0`, `one of none, full`, `a list of text`, joined by "or"."""
    if want.grammar == "cadence":
        return durations.CADENCE_FORM + (", or `best`" if rules.get("best") else "")
    if want.grammar == "duration":
        return durations.DURATION_FORM + (", or null" if want.null else "")
    if want.anything:
        return "any value"
    parts = [f"`{want.words[0]}`" if len(want.words) == 1 else f"one of {', '.join(want.words)}"] if want.words else []
    parts += [_VALUES[kind] + (limits(rules) if kind in (int, float) else "") for kind in want.values]
    if want.item is not None:
        parts.append(f"a list of {_plural(take_apart(want.item), rules)}")
    if want.section is not None or want.mapping is not None:
        parts.append("a map of keys")
    if want.null:
        parts.append("null")
    return " or ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


_VALUES: Mapping[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _plural(want: Want, rules: Mapping[str, Any]) -> str:
    if want.section is not None or want.mapping is not None:
        return "maps"
    if want.item is not None:
        return "lists"
    if want.words:
        return f"{', '.join(want.words)}"
    kind = want.values[0] if want.values else str
    return {bool: "true or false", int: "whole numbers", float: "numbers", str: "texts"}[kind] + (
        limits(rules) if kind in (int, float) else ""
    )
