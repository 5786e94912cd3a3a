"""The meaning of every key, taken from the text beneath each field; what `llmtrain schema KEY` prints.

Separate from the JSON Schema because people read this one.
"""

import ast
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llmtrain.errors import fail, quoted
from llmtrain.recipe import layers, suggest
from llmtrain.recipe.schema import Recipe
from llmtrain.recipe.slots import SLOT_BASES, slot_table
from llmtrain.recipe.types import Key, keys_of, take_apart
from llmtrain.recipe.wording import expected


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known about one key."""

    key: str
    meaning: str
    type: str
    default: Any
    required: bool
    choices: tuple[str, ...] = ()
    """Names a slot takes."""
    keys: tuple[str, ...] = ()
    """Keys below it."""
    only_for: tuple[str, ...] = ()
    """Names of the slot that have this key; empty when all have it, or outside slots."""


@cache
def _module_texts(file: str) -> Mapping[tuple[str, str], str]:
    """(class, field) -> the string literal beneath the field, for every class of a source file."""
    texts: dict[tuple[str, str], str] = {}
    for node in ast.parse(Path(file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            for field, below in zip(node.body, node.body[1:], strict=False):
                if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                    continue
                if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                    texts[(node.name, field.target.id)] = " ".join(str(below.value.value).split())
    return texts


@cache
def field_text(section: type, attribute: str) -> str:
    """The reference text of a field, looked up through the classes it may be inherited from."""
    for owner in section.__mro__:
        source = sys.modules[owner.__module__].__file__ if owner.__module__ != "builtins" else None
        text = _module_texts(source).get((owner.__name__, attribute)) if source is not None else None
        if text is not None:
            return text
    want = keys_of(section)
    named = next((key for key in want.values() if key.attribute == attribute), None)
    below = _below(named)[0][1] if named is not None and _below(named) else None
    return first_line(below) if below is not None else ""


def first_line(section: type) -> str:
    """The first line of a class's own docstring."""
    return (inspect.getdoc(section) or "").split("\n")[0]


def _below(key: Key) -> list[tuple[str, type]]:
    """Sections a key opens, each with the slot name it belongs to."""
    if key.slot is not None:
        return [("", SLOT_BASES[key.slot]), *slot_table(key.slot).items()]
    want = take_apart(key.want)
    item = take_apart(want.item).section if want.item is not None else None
    return [("", section) for section in (want.section, item) if section is not None]


def key_reference(key: str) -> Entry:
    """The entry of a dotted key; indices are ignored, `optimizer.betas` finds the slot's names that have it.

    Raises:
        Failure: no such key; the hint names the nearest.
    """
    path = layers.parse_key(key)
    owners: list[tuple[str, type]] = [("", Recipe)]
    parts = [part for part in path or () if isinstance(part, str)]
    entry: Entry | None = None
    for depth, part in enumerate(parts):
        having = [(name, section) for name, section in owners if part in keys_of(section)]
        if not having:
            entry = None
            break
        found = [keys_of(section)[part] for _, section in having]
        named, everyone = {name for name, _ in having if name}, {name for name, _ in owners if name}
        only = () if named == everyone else tuple(name for name, _ in having if name)
        entry = _entry(".".join(parts[: depth + 1]), found[0], having[0][1], only)
        owners = [pair for one in found for pair in _below(one)]
    if entry is None:
        near = suggest.closest_path(key)
        hint = f"did you mean `{near}`?" if near else "print all: llmtrain schema"
        raise fail("E-CLI-002", f"no key is named {quoted(key)}", hint=hint)
    return entry


def _entry(path: str, key: Key, section: type, only: tuple[str, ...]) -> Entry:
    want = take_apart(key.want)
    default: Any = key.default
    below = list(dict.fromkeys(name for _, inner in _below(key) for name in keys_of(inner)))
    kind, choices = expected(want, key.rules), ()
    if key.slot is not None:
        choices = tuple(slot_table(key.slot))
        kind, default = "a name, or a map with `name`", key.rules["default_name"]
    elif path.removesuffix(".name") in SLOT_BASES:
        slot = path.removesuffix(".name")
        choices, default = tuple(slot_table(slot)), keys_of(Recipe)[slot].rules["default_name"]
    elif key.section_default is not None:
        default = None
    return Entry(key=path, meaning=field_text(section, key.attribute), type=kind, default=default,
                 required=key.required, choices=choices, keys=tuple(below), only_for=only)  # fmt: skip
