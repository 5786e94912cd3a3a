"""The recipe as JSON Schema, draft 2020-12, for editors; every single value also allows an interpolation.

Separate because editors want the types of files as they are written, before layers and short forms are worked out.
"""

from collections.abc import Mapping
from typing import Any

from llmtrain.recipe.reference import field_text, first_line
from llmtrain.recipe.schema import Recipe
from llmtrain.recipe.slots import slot_table
from llmtrain.recipe.types import BARE, Key, Want, keys_of, take_apart

INTERPOLATION = {"type": "string", "pattern": r"^\$\{.*\}$"}
_AMOUNT = r"([0-9]+(\.[0-9]*)?|\.[0-9]+)\s*"
_TIME = r"([Ss](ec(onds?)?)?|[Mm]in(utes?)?|[Hh](ours?)?)"
_LIMITS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
Schema = dict[str, Any]


def json_schema() -> Schema:
    """The schema of a recipe file, `extends` included."""
    definitions: Schema = {}
    top = _section(Recipe, definitions)
    names: Schema = {"type": "string", "minLength": 1}
    extends = {
        "description": "Recipes beneath this one, left to right: shipped names or files relative to this one.",
        "anyOf": [names, {"type": "array", "items": names}, {"type": "null"}],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "llmtrain recipe",
        **top,
        "properties": {"extends": extends, **top["properties"]},
        "$defs": dict(sorted(definitions.items())),
    }


def _section(section: type, definitions: Schema, name: str | None = None) -> Schema:
    """An object schema; `name` fixes the slot's name. Required keys may come from another layer: none is required."""
    properties: Schema = {}
    for key in keys_of(section).values():
        if key.name == "name" and name is not None:
            properties["name"] = {"const": name}
        else:
            properties[key.name] = _key(key, section, definitions)
    return {
        "type": "object", "description": first_line(section), "properties": properties, "additionalProperties": False,
    }  # fmt: skip


def _key(key: Key, section: type, definitions: Schema) -> Schema:
    out: Schema = {}
    if text := field_text(section, key.attribute):
        out["description"] = text
    if key.slot is not None:
        return {**out, **_slot(key, definitions)}
    out["anyOf"] = _alternatives(take_apart(key.want), key.rules, definitions)
    default = key.default
    if not key.required and key.section_default is None:
        out["default"] = default
    return out


def _slot(key: Key, definitions: Schema) -> Schema:
    assert key.slot is not None
    table = slot_table(key.slot)
    default = key.rules["default_name"]
    choices: list[Schema] = []
    for name, config in table.items():
        definition = f"{key.slot}.{name}"
        definitions[definition] = _section(config, definitions, name)
        definitions[definition]["required"] = ["name"]
        choices.append({"$ref": f"#/$defs/{definition}"})
    unnamed = f"{key.slot}.unnamed"
    keys: Schema = {}
    for config in table.values():
        for inner in keys_of(config).values():
            if inner.name != "name":
                keys.setdefault(inner.name, {})
    own = _section(table[default], definitions)["properties"]
    definitions[unnamed] = {
        "type": "object", "description": f"Keys of the {key.slot} that a lower layer names, else of {default}.",
        "properties": {name: own.get(name, {}) for name in keys}, "additionalProperties": False,
    }  # fmt: skip
    bare: Schema = {"enum": list(table)}
    return {"oneOf": [bare, *choices, {"$ref": f"#/$defs/{unnamed}"}, INTERPOLATION, {"type": "null"}]}


def _alternatives(want: Want, rules: Mapping[str, Any], definitions: Schema) -> list[Schema]:
    if want.anything:
        return [{}]
    if want.grammar in ("cadence", "duration"):
        return [*_timed(want, rules), INTERPOLATION]
    out: list[Schema] = [{"enum": list(want.words)}] if want.words else []
    out += [_value(kind, rules) for kind in want.values]
    if want.item is not None:
        item = take_apart(want.item)
        items: Schema = {"anyOf": _alternatives(item, rules, definitions)}
        out.append({"type": "array", "items": items, **_length(rules)})
        if item.section in BARE:
            items["anyOf"].append({"type": "string"})
            out.append({"type": "string"})
    if want.section is not None:
        definitions.setdefault(want.section.__name__, _section(want.section, definitions))
        out += [{"$ref": f"#/$defs/{want.section.__name__}"}, {"type": "null"}]
    if want.mapping is not None:
        inner = _alternatives(take_apart(want.mapping), {}, definitions)
        out.append({"type": "object", "additionalProperties": {"anyOf": inner}})
    if want.null:
        out.append({"type": "null"})
    return [*out, INTERPOLATION]


def _value(kind: type, rules: Mapping[str, Any]) -> Schema:
    if kind is str:
        return {"type": ["string", "number"]}
    if kind is bool:
        return {"type": "boolean"}
    limits = {_LIMITS[name]: rules[name] for name in _LIMITS if name in rules}
    return {"type": "integer" if kind is int else "number", **limits}


def _length(rules: Mapping[str, Any]) -> Schema:
    return {"minItems": rules["length"], "maxItems": rules["length"]} if "length" in rules else {}


def _timed(want: Want, rules: Mapping[str, Any]) -> list[Schema]:
    null: list[Schema] = [{"type": "null"}] if want.null else []
    if want.grammar == "duration":
        return [{"type": "string", "pattern": f"^{_AMOUNT}{_TIME}$"}, *null]
    words: list[Schema] = [{"const": "best"}] if rules.get("best") else []
    units = rf"({_TIME}|[Ee]pochs?|[Ss]teps?)"
    whole = {"type": "integer", "minimum": 1}
    share = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    return [whole, share, {"type": "string", "pattern": f"^{_AMOUNT}{units}$"}, *words, *null]
