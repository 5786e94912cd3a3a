"""Nothing accepted is ignored: every key of the schema is read somewhere outside the schema."""

import ast
import types
import typing
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

import llmtrain
from llmtrain.recipe import schema
from llmtrain.recipe.slots import SLOT_BASES, slot_table

PACKAGE = Path(llmtrain.__file__).parent
READ_BY_THE_RECIPE_PART = {"allow_code", "plugins", "run_mode"}


def _attributes() -> set[str]:
    """Names read as attributes anywhere but in the schema."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name != "schema.py":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return found


def _classes(kind: Any) -> list[type]:
    if isinstance(kind, type) and is_dataclass(kind):
        return [kind]
    parts = typing.get_args(kind) if typing.get_origin(kind) or isinstance(kind, types.UnionType) else ()
    return [found for part in parts for found in _classes(part)]


def _keys(cls: type) -> list[tuple[str, str]]:
    hints = typing.get_type_hints(cls)
    keys = []
    for item in fields(cls):
        keys.append((cls.__name__, item.name))
        for inner in _classes(hints[item.name]):
            if inner not in SLOT_BASES.values():
                keys += _keys(inner)
    return keys


KEYS = sorted(
    set(_keys(schema.Recipe))
    | {key for slot in SLOT_BASES for config in slot_table(slot).values() for key in _keys(config)}
)


def test_there_are_keys() -> None:
    assert len(KEYS) > 120


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_key_is_read(section: str, key: str) -> None:
    assert key in _attributes_once() | READ_BY_THE_RECIPE_PART, f"{section}.{key} changes nothing"


_cache: list[set[str]] = []


def _attributes_once() -> set[str]:
    if not _cache:
        _cache.append(_attributes())
    return _cache[0]
