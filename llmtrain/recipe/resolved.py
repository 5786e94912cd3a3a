"""Writes a composed recipe back as YAML: every value with its origin beside it, secrets masked.

Separate from composing because only the run folder and `check --origin` need it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import TypeGuard

from llmtrain.recipe import scalars
from llmtrain.recipe.compose import Composed
from llmtrain.recipe.masking import MASK, is_secret_key, mask
from llmtrain.recipe.nodes import Path, Plain

_WORD = re.compile(r"[A-Za-z_./][\w./@+-]*( [\w./@+-]+)*")
_COLUMN = 48


def write_resolved(composed: Composed) -> str:
    """All values in the recipe's order, each line ending in its origin; composes to the same recipe again.

    Interpolations stay as written. A masked literal is the only thing that does not survive.
    """
    lines: list[str] = []
    _map(composed.tree, (), 0, composed, lines)
    return "\n".join(lines) + "\n"


def dump_original(composed: Composed) -> str:
    """The recipe file's own text with secrets masked; empty when there was no file."""
    return "" if composed.shown is None else mask(composed.texts[composed.shown])


def _map(values: Mapping[str, Plain], path: Path, depth: int, composed: Composed, lines: list[str]) -> None:
    for name, value in values.items():
        _entry(f"{'  ' * depth}{_text(name)}:", value, (*path, name), depth, composed, lines)


def _entry(head: str, value: Plain, path: Path, depth: int, composed: Composed, lines: list[str]) -> None:
    if isinstance(value, Mapping) and value:
        lines.append(head)
        _map(value, path, depth + 1, composed, lines)
    elif _holds_maps(value):
        lines.append(head)
        for index, item in enumerate(value):
            _item(item, (*path, index), depth + 1, composed, lines)
    else:
        secret = isinstance(path[-1], str) and is_secret_key(path[-1]) and value is not None
        shown = MASK if secret and not _interpolated(value) else _flow(value)
        lines.append(f"{f'{head} {shown}':<{_COLUMN}}  # {composed.origins[path]}")


def _holds_maps(value: Plain) -> TypeGuard[Sequence[Plain]]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return False
    return any(isinstance(item, Mapping) and item for item in value)


def _item(item: Plain, path: Path, depth: int, composed: Composed, lines: list[str]) -> None:
    if not isinstance(item, Mapping) or not item:
        _entry(f"{'  ' * depth}-", item, path, depth, composed, lines)
        return
    inner: list[str] = []
    _map(item, path, depth + 1, composed, inner)
    lines.append(f"{'  ' * depth}- {inner[0].lstrip()}")
    lines.extend(inner[1:])


def _interpolated(value: object) -> bool:
    return isinstance(value, str) and "${" in value


def _flow(value: Plain) -> str:
    """A leaf in one line."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(name)}: {_flow(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_flow(inner) for inner in value) + "]"
    return json.dumps(value)


def _text(value: str) -> str:
    """Text bare where it can only be read as itself, else as a JSON string, which YAML reads alike."""
    masked = mask(value) if not _interpolated(value) else value
    plain = _WORD.fullmatch(masked) and isinstance(scalars.parse(masked), str) and scalars.trap(masked) is None
    return masked if plain else _json(masked)


def _json(value: str) -> str:
    escaped = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped)
