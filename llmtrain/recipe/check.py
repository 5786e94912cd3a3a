"""Checks a merged tree against the schema, one value at a time, and builds the frozen recipe from it.

Separate from merging so that every problem of a recipe is found in one pass, each with its own place.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmtrain.errors import Failure, Place, Problem, quoted
from llmtrain.recipe import durations, scalars, suggest
from llmtrain.recipe.interpolate import Resolver, is_interpolated
from llmtrain.recipe.nodes import List, Map, Node, Path, Scalar, Spot, dotted
from llmtrain.recipe.schema import Recipe
from llmtrain.recipe.slots import SLOT_BASES, slot_table
from llmtrain.recipe.types import BARE, Key, Want, default_slot, keys_of, take_apart
from llmtrain.recipe.wording import bound, expected

LIMITS: Mapping[str, tuple[Callable[[Any, Any], bool], str]] = {
    "gt": (operator.gt, ">"),
    "ge": (operator.ge, ">="),
    "lt": (operator.lt, "<"),
    "le": (operator.le, "<="),
}
NO_RULES: Mapping[str, Any] = {}


class _Bad:
    """Stands for a value whose problem has been noted."""


BAD = _Bad()


@dataclass(frozen=True, kw_only=True)
class NamedCode:
    """A key that names code to run."""

    path: Path
    value: str
    spot: Spot


@dataclass
class Checker:
    """Collects what is wrong, where values came from, and which were written as interpolations."""

    resolver: Resolver
    file: str | None = None
    """The recipe's name in messages, for what stands nowhere."""
    problems: list[Problem] = field(default_factory=list[Problem])
    spots: dict[Path, Spot] = field(default_factory=dict[Path, Spot])
    written: dict[Path, str] = field(default_factory=dict[Path, str])
    """Source text of interpolated values."""
    code: list[NamedCode] = field(default_factory=list[NamedCode])

    def recipe(self, tree: Map) -> Recipe | None:
        """The recipe, or None when there are problems."""
        built = self.section(tree, Recipe, ())
        return built if isinstance(built, Recipe) and not self.problems else None

    def add(self, id: str, message: str, path: Path, spot: Spot, hint: str | None = None) -> _Bad:
        """Note a problem at a value."""
        self.problems.append(Problem(id=id, message=message, key=dotted(path), place=spot.place(), hint=hint))
        return BAD

    def section(self, node: Map, section: type, path: Path) -> Any:  # noqa: ANN401 - an instance of `section`
        """An instance of a section's dataclass."""
        keys, values = keys_of(section), {}
        self.spots[path] = node.spot
        for name, value in node.entries.items():
            if name not in keys:
                self.problems.append(suggest.unknown_key((*path, name), list(keys), node.keys[name]))
                continue
            values[keys[name].attribute] = self.key(value, keys[name], (*path, name))
        for key in keys.values():
            if key.required and key.name not in node.entries:
                self.missing(key, path, node.spot)
            if key.slot is not None and key.name not in node.entries:
                values[key.attribute] = self.slot(Map(entries={}, keys={}, spot=node.spot), key, (*path, key.name))
                self.spots.pop((*path, key.name), None)
        return BAD if self.problems else section(**values)

    def missing(self, key: Key, path: Path, spot: Spot) -> None:
        """Note a required key that is not there."""
        message = f"`{key.name}` is required: {expected(take_apart(key.want), key.rules)}"
        self.add("E-RECIPE-006", message, path, spot)

    def key(self, node: Node, key: Key, path: Path) -> Any:  # noqa: ANN401
        """The value of one key."""
        if is_interpolated(node):
            resolved = self.resolve(node, path)
            if resolved is None:
                return BAD
            node = resolved
        if key.slot is not None:
            return self.slot(node, key, path)
        before = len(self.problems)
        value = self.value(_spread(node, take_apart(key.want)), take_apart(key.want), path, key.rules)
        if len(self.problems) > before:
            return BAD
        if (key.rules.get("code") or take_apart(key.want).grammar == "code") and value:
            named: list[str] = [value] if isinstance(value, str) else value
            self.code += [NamedCode(path=path, value=item, spot=node.spot) for item in named]
        return value

    def resolve(self, node: Node, path: Path) -> Node | None:
        """The node an interpolation stands for; its source text is kept."""
        assert isinstance(node, Scalar)
        self.written[path] = node.text
        self.spots[path] = node.spot
        try:
            return self.resolver.resolve(node, path)
        except Failure as failure:
            self.problems += failure.problems
            return None

    def slot(self, node: Node, key: Key, path: Path) -> Any:  # noqa: ANN401 - a registered config
        """An instance of the config a slot names."""
        assert key.slot is not None
        table = slot_table(key.slot)
        if isinstance(node, Scalar) and node.style == "resolved":
            node = Map(entries={"name": node}, keys={"name": node.spot}, spot=node.spot)
        if isinstance(node, Scalar) and node.style == "plain" and not node.text:
            node = Map(entries={}, keys={}, spot=node.spot)
        if not isinstance(node, Map):
            hint = f"write `{key.name}: {{name: {key.rules['default_name']}}}`"
            return self.add("E-RECIPE-002", f"{_kind(node)} where a name or a map is expected", path, node.spot, hint)
        name = node.entries.get("name")
        if name is None:
            config, chosen = default_slot(key.slot, key.rules), key.rules["default_name"]
        else:
            chosen = self.value(name, Want(values=(str,)), (*path, "name"), NO_RULES)
            if not isinstance(chosen, str):
                return BAD
            if chosen not in table:
                return self.choice(chosen, name, tuple(table), (*path, "name"))
            config = table[chosen]
        rest = {other: value for other, value in node.entries.items() if other != "name"}
        built = self.section(replace(node, entries=rest), config, path)
        return built if isinstance(built, _Bad) else replace(built, name=chosen)

    def value(self, node: Node, want: Want, path: Path, rules: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """A value of the wanted type, or BAD."""
        if is_interpolated(node):
            resolved = self.resolve(node, path)
            return BAD if resolved is None else self.value(_spread(resolved, want), want, path, rules)
        if isinstance(node, Map | List) and node.word is not None and not self.fits(node, want):
            node = Scalar(text=node.word, style="word", spot=node.spot)
        self.spots.setdefault(path, node.spot)
        if isinstance(node, Map):
            return self.mapping(node, want, path, rules)
        if isinstance(node, List):
            return self.items(node, want, path, rules)
        return self.scalar(node, want, path, rules)

    @staticmethod
    def fits(node: Node, want: Want) -> bool:
        """Whether the wanted type takes this kind of node, or is no text that could take its source."""
        if str not in want.values:
            return True
        return want.item is not None if isinstance(node, List) else want.mapping is not None

    def mapping(self, node: Map, want: Want, path: Path, rules: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """A section or a free map."""
        if want.section is not None:
            return self.section(node, want.section, path)
        if want.mapping is None and not want.anything:
            return self.kind(node, want, path, rules)
        inner = Want(anything=True) if want.anything else take_apart(want.mapping)
        values = {name: self.value(value, inner, (*path, name), rules) for name, value in node.entries.items()}
        for name, spot in node.keys.items():
            self.spots[(*path, name)] = self.spots.get((*path, name), spot)
        return values

    def items(self, node: List, want: Want, path: Path, rules: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """A list; limits of the key hold for every number in it."""
        if want.item is None and not want.anything:
            return self.kind(node, want, path, rules)
        length = rules.get("length")
        if length is not None and len(node.items) != length:
            message = f"{len(node.items)} values where {length} are expected"
            return self.add("E-RECIPE-005", message, path, node.spot)
        inner = Want(anything=True) if want.anything else take_apart(want.item)
        return [self.value(item, inner, (*path, index), rules) for index, item in enumerate(node.items)]

    def kind(self, node: Node, want: Want, path: Path, rules: Mapping[str, Any]) -> _Bad:
        """Note a map, list or single value where another is expected."""
        message = f"{_kind(node)} where {expected(want, rules)} is expected"
        hint = None
        item = take_apart(want.item) if want.item is not None else None
        if item is not None and isinstance(node, Scalar):
            shown = node.text if len(node.text) < 40 and node.style != "resolved" else "value"
            hint = f"write `{path[-1]}: [{shown}]`"
            if node.style == "word" and node.text[:1] in ("[", "{"):
                hint = "the brackets or quotes inside do not close"
            elif item.section in BARE and want.section is not None:
                hint = f"for a share write `{path[-1]}: {{fraction: 0.05}}`"
        return self.add("E-RECIPE-002", message, path, node.spot, hint)

    def scalar(self, node: Scalar, want: Want, path: Path, rules: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """A single value: null, choice, switch, number or text, in this order."""
        text = node.text
        if node.style != "quoted":
            if node.style == "plain" and not text and want.section is not None:
                return self.section(Map(entries={}, keys={}, spot=node.spot), want.section, path)
            if text in scalars.NULL and not (node.style != "plain" and text in ("", "~")):
                return None if want.null or want.anything else self.null(node, want, path, rules)
            if node.style == "plain" and (reads := scalars.trap(text)) is not None and not self.takes(text, want):
                return self.trapped(node, reads, want, path)
        if text in want.words:
            return text
        if want.grammar in ("cadence", "duration"):
            return self.timed(node, want, path, rules)
        if want.anything:
            return scalars.parse(text) if node.style in ("plain", "word") else text
        return self.typed(node, want, path, rules)

    @staticmethod
    def takes(text: str, want: Want) -> bool:
        """Whether a surprising word is plain here: thousands marked by underscores, for a number."""
        return scalars.is_grouped(text) and (int in want.values or float in want.values) and str not in want.values

    def typed(self, node: Scalar, want: Want, path: Path, rules: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """A switch, a number or text."""
        text, value = node.text, None
        if node.style != "quoted":
            value = scalars.parse(text.replace("_", "") if scalars.is_grouped(text) else text)
        if isinstance(value, bool) and bool in want.values:
            return value
        if isinstance(value, int) and not isinstance(value, bool) and int in want.values:
            return self.limited(value, node, path, rules)
        if isinstance(value, int | float) and not isinstance(value, bool) and float in want.values:
            return self.limited(_float(value), node, path, rules)
        if str in want.values:
            if isinstance(value, bool) and node.style == "plain":
                return self.trapped(node, str(value).lower(), want, path)
            return text
        return self.mismatch(node, value, want, path, rules)

    def mismatch(self, node: Scalar, value: object, want: Want, path: Path, rules: Mapping[str, Any]) -> _Bad:
        """Note a single value that is none of what the key takes."""
        if not (want.words or want.values):
            return self.kind(node, want, path, rules)
        shown, numeric = self.shown(node, path), any(kind in want.values for kind in (int, float))
        choices = (*want.words, *(("true", "false") if bool in want.values else ()))
        if choices and not numeric and not isinstance(value, int | float):
            return self.choice(shown, node, choices, path)
        hint = None
        if node.style == "quoted" and isinstance(scalars.parse(node.text), int | float):
            hint = "remove the quotes"
        elif isinstance(value, float) and value.is_integer() and int in want.values:
            hint = f"write {int(value)}" if abs(value) < 1e18 else None
        elif choices and (near := suggest.nearest(node.text, choices)):
            hint = f"did you mean `{near}`?"
        message = f"{shown} is not {expected(want, rules)}"
        return self.add("E-RECIPE-004", message, path, node.spot, hint)

    def shown(self, node: Node, path: Path) -> str:
        """A value as messages show it: an interpolation by its source, never by its value."""
        source = next((self.written[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.written), None)
        if source is not None:
            return f"the value of {quoted(source)}"
        if not isinstance(node, Scalar):
            return _kind(node)
        number = node.style != "quoted" and node.text != "" and not isinstance(scalars.parse(node.text), str)
        return node.text if number and len(node.text) <= 40 else quoted(node.text)

    def choice(self, shown: str, node: Node, choices: Sequence[str], path: Path) -> _Bad:
        """Note a word that is not one of its choices."""
        text = node.text if isinstance(node, Scalar) and node.style != "resolved" else ""
        id, hint = suggest.unknown_choice(text, choices, path)
        if text in choices:
            hint = "remove the quotes"
        if id == "E-RECIPE-013":
            return self.add(id, f"{quoted(text)} is not available in this version", path, node.spot)
        message = f"{self.shown(node, path)} is not one of {', '.join(choices)}"
        return self.add(id, message[:190], path, node.spot, hint)

    def null(self, node: Scalar, want: Want, path: Path, rules: Mapping[str, Any]) -> _Bad:
        """Note a null where a value is needed."""
        hint = "leave the key out to keep its default"
        return self.add("E-RECIPE-004", f"null is not {expected(want, rules)}", path, node.spot, hint)

    def trapped(self, node: Scalar, reads: str, want: Want, path: Path) -> _Bad:
        """Note a word that YAML reads as something else than it says."""
        text = node.text
        options: list[str] = []
        if want.grammar is not None:
            want = replace(want, values=(), words=())
        if str in want.values or want.anything or want.words:
            options.append(f'"{text}" in quotes')
        if reads not in ("true", "false", "text") and not (str in want.values and len(want.values) == 1):
            options.append(reads)
        if reads in ("true", "false") and (bool in want.values or want.anything):
            options = [reads]
        if want.null and text.lower() in ("no", "off"):
            options.append("null")
        hint = f"write {', or '.join(options)}" if options else None
        if want.grammar is not None and reads not in ("true", "false"):
            options = [expected(want, {})]
        message = f"YAML reads `{text}` as {reads}"
        return self.add("E-RECIPE-011", message, path, node.spot, hint)

    def timed(self, node: Scalar, want: Want, path: Path, rules: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """A cadence or a duration, kept as written once its grammar is known to hold."""
        value = node.text if node.style == "quoted" else scalars.parse(node.text)
        try:
            if want.grammar == "cadence":
                durations.parse_cadence(value, best=bool(rules.get("best")))
            else:
                durations.parse_duration(node.text)
                value = node.text
        except ValueError:
            return self.add("E-RECIPE-004", f"{self.shown(node, path)} is not {expected(want, rules)}", path, node.spot)
        return value

    def limited(self, value: float, node: Scalar, path: Path, rules: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """A number inside its limits."""
        if isinstance(value, float) and not math.isfinite(value):
            return self.add("E-RECIPE-005", f"{self.shown(node, path)} is not a finite number", path, node.spot)
        broken = [name for name, (holds, _) in LIMITS.items() if name in rules and not holds(value, rules[name])]
        if not broken:
            return value
        shown, wanted = (
            self.shown(node, path),
            " and ".join(f"{LIMITS[name][1]} {bound(rules[name])}" for name in broken),
        )
        if "ge" in rules and rules["ge"] == rules.get("le"):
            message, hint = f"{shown} where only {bound(rules['ge'])} is possible", self.only(path, rules)
            return self.add("E-RECIPE-005", message, path, node.spot, hint)
        return self.add("E-RECIPE-005", f"{shown} is out of range; must be {wanted}", path, node.spot)

    @staticmethod
    def only(path: Path, rules: Mapping[str, Any]) -> str:
        """What to do about a key that has no choice here."""
        another = f", or take another `{path[0]}.name`" if path[0] in SLOT_BASES else ""
        return f"{dotted(path)}={bound(rules['ge'])}{another}"


def _spread(node: Node, want: Want) -> Node:
    """Write out the short form of a path that an interpolation gave; layers do it for those written plainly."""
    if not isinstance(node, Scalar) or node.style != "resolved" or not isinstance(scalars.parse(node.text), str):
        return node
    if want.section in BARE:
        key = BARE[want.section]
        return Map(entries={key: node}, keys={key: node.spot}, spot=node.spot)
    item = take_apart(want.item) if want.item is not None else None
    return List(items=(_spread(node, item),), spot=node.spot) if item is not None and item.section in BARE else node


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _kind(node: Node) -> str:
    if isinstance(node, Map):
        return "a map"
    return "a list" if isinstance(node, List) else "a single value"


def place_of(checker: Checker, path: Path) -> Place:
    """Where a key stands, or the nearest one above it that was written."""
    for length in range(len(path), 0, -1):
        if path[:length] in checker.spots:
            return checker.spots[path[:length]].place()
    return Place(file=checker.file)
