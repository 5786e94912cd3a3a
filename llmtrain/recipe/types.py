"""What the recipe's dataclasses allow, read once from their annotations.

Separate because the checker, the JSON Schema, the reference and the suggestions must see the same keys.
"""

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from functools import cache
from typing import (
    Annotated,
    Any,
    Literal,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from llmtrain.errors import fail
from llmtrain.recipe.schema import Recipe, Source
from llmtrain.recipe.slots import SLOT_BASES, slot_table

BARE: Mapping[type, str] = {Source: "path"}
"""Classes that a single word may stand for, and the key that word is."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key of a section: its YAML name, the field it fills and what it allows."""

    name: str
    attribute: str
    want: Any
    rules: Mapping[str, Any]
    default: Any
    required: bool

    @property
    def section_default(self) -> type | None:
        """The class of a default that is a section, not a value."""
        kind = cast("type[Any]", type(self.default))
        return kind if dataclasses.is_dataclass(kind) else None

    @property
    def slot(self) -> str | None:
        """The slot this key is, if it is one."""
        return self.rules.get("slot")


@cache
def keys_of(section: type) -> dict[str, Key]:
    """The keys of a section's dataclass by YAML name."""
    hints = get_type_hints(section, include_extras=True)
    found: dict[str, Key] = {}
    for item in dataclasses.fields(section):
        default = item.default_factory() if item.default_factory is not MISSING else item.default
        found[item.metadata.get("key", item.name)] = Key(
            name=item.metadata.get("key", item.name),
            attribute=item.name,
            want=hints[item.name],
            rules=item.metadata,
            default=None if default is MISSING else default,
            required=default is MISSING and "slot" not in item.metadata,
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Want:
    """A type taken apart: what a single value, a list or a map may become."""

    words: tuple[str, ...] = ()
    values: tuple[type, ...] = ()
    null: bool = False
    section: type | None = None
    mapping: Any = None
    """Type of a map's values."""
    item: Any = None
    """Type of a list's items."""
    anything: bool = False
    grammar: str | None = None
    """`cadence`, `duration` or `code`."""


@cache
def take_apart(want: Any) -> Want:  # noqa: ANN401 - a type form
    """Flatten unions and markers into one description."""
    origin, args = get_origin(want), get_args(want)
    if origin is Annotated:
        return dataclasses.replace(take_apart(args[0]), grammar=args[1])
    if origin in (Union, types.UnionType):
        return _joined([take_apart(member) for member in args])
    if origin is Literal:
        return Want(words=args)
    if origin is list:
        return Want(item=args[0])
    if origin is dict:
        return Want(mapping=args[1])
    if want is Any:
        return Want(anything=True)
    if want is type(None):
        return Want(null=True)
    if isinstance(want, type) and dataclasses.is_dataclass(want):
        return Want(section=want)
    assert want in (str, int, float, bool), want
    return Want(values=(want,))


def _joined(members: list[Want]) -> Want:
    def first(values: list[Any]) -> Any:  # noqa: ANN401
        return next((value for value in values if value is not None), None)

    return Want(
        words=tuple(word for member in members for word in member.words),
        values=tuple(value for member in members for value in member.values),
        null=any(member.null for member in members),
        section=first([member.section for member in members]),
        mapping=first([member.mapping for member in members]),
        item=first([member.item for member in members]),
        anything=any(member.anything for member in members),
        grammar=first([member.grammar for member in members]),
    )


def default_slot(slot: str, rules: Mapping[str, Any]) -> type:
    """The config a slot has when the recipe does not name one.

    Raises:
        Failure: it is not registered.
    """
    table = slot_table(slot)
    if rules["default_name"] not in table:
        raise fail("E-RECIPE-010", f"no {slot} named {rules['default_name']} is registered", key=slot)
    return table[rules["default_name"]]


@cache
def all_keys() -> dict[str, tuple[str, ...]]:
    """Every key of the schema: its last name -> the dotted paths where it stands, shallow ones first."""
    found: dict[str, list[str]] = {}
    for path in key_paths():
        found.setdefault(path.split(".")[-1], []).append(path)
    return {name: tuple(sorted(paths, key=lambda path: path.count("."))) for name, paths in found.items()}


@cache
def key_paths() -> tuple[str, ...]:
    """Dotted paths of every key; a list's items stand under its own name, a slot's keys under every config's."""
    found: dict[str, None] = {}

    def walk(section: type, prefix: str) -> None:
        for key in keys_of(section).values():
            path = f"{prefix}{key.name}"
            found.setdefault(path)
            for inner in _inner(key):
                walk(inner, f"{path}.")

    walk(Recipe, "")
    return tuple(found)


def _inner(key: Key) -> list[type]:
    if key.slot is not None:
        return [SLOT_BASES[key.slot], *slot_table(key.slot).values()]
    want = take_apart(key.want)
    item = take_apart(want.item).section if want.item is not None else None
    return [section for section in (want.section, item) if section is not None]
