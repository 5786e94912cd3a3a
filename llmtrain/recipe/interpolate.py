"""Resolves `${...}` with OmegaConf, one value at a time, so that every failure has its place.

Separate because OmegaConf is imported only for recipes that interpolate, and because what it returns may be a secret
from the environment: results carry the style `resolved` and are never shown.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmtrain.errors import Failure, Problem
from llmtrain.lazy import Lazy
from llmtrain.recipe.nodes import (
    List,
    Map,
    Node,
    Path,
    Plain,
    Scalar,
    dotted,
    from_plain,
)
from llmtrain.recipe.scalars import parse
from llmtrain.recipe.schema import Recipe
from llmtrain.recipe.slots import slot_table
from llmtrain.recipe.types import default_slot, keys_of

omegaconf = Lazy("omegaconf")
errors = Lazy("omegaconf.errors")

_ENVIRONMENT = re.compile(r"Environment variable '([^']*)' not found")
_KEY = re.compile(r"Interpolation key '([^']*)' not found")
_RESOLVERS = ("oc.env", "oc.decode", "oc.create", "oc.select", "oc.dict.keys", "oc.dict.values", "oc.deprecated")


def is_interpolated(node: Node) -> bool:
    """Whether a value is written with `${...}`."""
    return isinstance(node, Scalar) and node.style != "resolved" and "${" in node.text


def plain(node: Node) -> Plain:
    """The tree as untyped containers, interpolations as written."""
    if isinstance(node, Map):
        return {name: plain(value) for name, value in node.entries.items()}
    if isinstance(node, List):
        return [plain(value) for value in node.items]
    return parse(node.text) if node.style == "plain" and "${" not in node.text else node.text


@dataclass
class Resolver:
    """The merged recipe with its defaults beneath, as OmegaConf sees it; built at the first use."""

    tree: Map
    config: Any = field(default=None, init=False)

    def resolve(self, node: Scalar, path: Path) -> Node:
        """What the value at `path` stands for.

        Raises:
            Failure: it cannot be resolved; the message never shows a resolved value.
        """
        try:
            _parse(node.text)
            value = self._value(path)
        except (errors.OmegaConfBaseException, RecursionError) as error:
            message, hint = _explain(error)
            raise Failure(
                Problem(id="E-RECIPE-015", message=message, key=dotted(path), place=node.spot.place(), hint=hint)
            ) from error
        return from_plain(value, node.spot, "resolved")

    def _value(self, path: Path) -> Any:  # noqa: ANN401
        if self.config is None:
            values = {name: plain(inner) for name, inner in self.tree.entries.items()}
            self.config = omegaconf.OmegaConf.create(_sound(_merged(_defaults(Recipe, values), values)))
        node: Any = self.config
        for part in path:
            node = node[part]
        return omegaconf.OmegaConf.to_container(node, resolve=True) if omegaconf.OmegaConf.is_config(node) else node


def _parse(text: str) -> None:
    omegaconf.OmegaConf.create({"value": text})


def _sound(value: Plain) -> Plain:
    """Blank values whose grammar is broken: they would keep every other one from being resolved."""
    if isinstance(value, str):
        return "" if "${" in value and _broken(value) else value
    if isinstance(value, Mapping):
        return {name: _sound(inner) for name, inner in value.items()}
    if isinstance(value, Sequence):
        return [_sound(inner) for inner in value]
    return value


def _broken(text: str) -> bool:
    try:
        _parse(text)
    except errors.GrammarParseError:
        return True
    return False


def _merged(lower: Mapping[str, Plain], upper: Mapping[str, Plain]) -> dict[str, Plain]:
    out = dict(lower)
    for name, value in upper.items():
        below = out.get(name)
        out[name] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return out


def _defaults(section: type, values: Mapping[str, Plain]) -> dict[str, Plain]:
    """Default values of a section; a slot's are those of the config that `values` names."""
    out: dict[str, Plain] = {}
    for key in keys_of(section).values():
        if key.slot is not None:
            given = values.get(key.name)
            name = given.get("name") if isinstance(given, Mapping) else None
            config = slot_table(key.slot).get(str(name)) or default_slot(key.slot, key.rules)
            out[key.name] = {**_defaults(config, {}), "name": name or key.rules["default_name"]}
        elif key.section_default is not None:
            out[key.name] = _defaults(key.section_default, {})
        elif not key.required:
            out[key.name] = key.default
    return out


def _explain(error: BaseException) -> tuple[str, str | None]:
    text = str(error)
    if found := _ENVIRONMENT.search(text):
        name = found[1]
        return f"environment variable {name} is not set", f"export it, or give a default: ${{oc.env:{name},value}}"
    if found := _KEY.search(text):
        return f"there is no key `{found[1]}` to take the value from", "name it from the top: ${section.key}"
    kind = type(error).__name__
    if kind == "UnsupportedInterpolationType":
        return f"unknown resolver; available: {', '.join(_RESOLVERS[:4])}", None
    if kind == "GrammarParseError":
        return "an interpolation that cannot be read", r"write ${section.key} or ${oc.env:NAME}; \${ for the text ${"
    if isinstance(error, RecursionError) or "Recursive" in text:
        return "the interpolation leads back to itself", None
    return "the interpolation cannot be resolved", None
