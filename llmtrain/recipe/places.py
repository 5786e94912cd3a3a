"""YAML text -> a tree that knows file, line and column of every key and value.

Separate from merging because only here is YAML itself seen; nothing is built from it but maps, lists and words.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import yaml

from llmtrain.errors import Failure, Place, Problem, quoted
from llmtrain.recipe.nodes import List, Map, Node, Scalar, Spot

MAX_DEPTH = 64
MAX_NODES = 20_000
_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass
class _Reader:
    """One layer being read; problems are collected, not raised."""

    layer: str
    lines: list[str]
    problems: list[Problem] = field(default_factory=list[Problem])
    nodes: int = 0

    def spot(self, mark: yaml.Mark, end: yaml.Mark | None = None) -> Spot:
        text = self.lines[mark.line] if mark.line < len(self.lines) else ""
        same = end is not None and end.line == mark.line
        width = end.column - mark.column if same and end else max(1, len(text) - mark.column)
        return Spot(layer=self.layer, line=mark.line + 1, column=mark.column + 1, text=text, width=max(1, width))

    def add(self, id: str, message: str, spot: Spot, hint: str | None = None) -> None:
        self.problems.append(Problem(id=id, message=message, place=spot.place(), hint=hint))

    def build(self, node: yaml.Node, depth: int = 0) -> Node:
        """Convert one YAML node; aliases are copied, so their number is bounded here."""
        self.nodes += 1
        spot = self.spot(node.start_mark, node.end_mark)
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            raise Failure(Problem(id="E-RECIPE-017", message="too large once its aliases are written out",
                                  place=spot.place()))  # fmt: skip
        if isinstance(node, yaml.ScalarNode):
            return Scalar(text=node.value, style="quoted" if node.style else "plain", spot=spot)
        if isinstance(node, yaml.SequenceNode):
            return List(items=tuple(self.build(item, depth + 1) for item in node.value), spot=spot)
        return self.mapping(node, spot, depth)

    def mapping(self, node: yaml.Node, spot: Spot, depth: int) -> Map:
        entries: dict[str, Node] = {}
        keys: dict[str, Spot] = {}
        merged: list[Map] = []
        for key, value in node.value:
            here = self.spot(key.start_mark, key.end_mark)
            if not isinstance(key, yaml.ScalarNode):
                self.add("E-RECIPE-008", "not valid YAML here: a key must be a single word", here)
            elif key.value == "<<" and not key.style:
                merged += self.merge_key(self.build(value, depth + 1), here)
            elif key.value in entries:
                first = keys[key.value].line
                self.add("E-RECIPE-007", f"{quoted(key.value)} is set twice (first at line {first})", here,
                         "keep one of the two")  # fmt: skip
            else:
                entries[key.value], keys[key.value] = self.build(value, depth + 1), here
        for other in merged:
            for name, value in other.entries.items():
                if name not in entries:
                    entries[name], keys[name] = value, other.keys[name]
        return Map(entries=entries, keys=keys, spot=spot)

    def merge_key(self, value: Node, here: Spot) -> list[Map]:
        maps = list(value.items) if isinstance(value, List) else [value]
        if not all(isinstance(item, Map) for item in maps):
            self.add("E-RECIPE-008", "not valid YAML here: `<<` takes a map, or a list of maps", here)
        return [item for item in maps if isinstance(item, Map)]


def split_lines(text: str) -> list[str]:
    """Lines as YAML counts them."""
    return _BREAK.split(text)


def read_tree(text: str, layer: str) -> Map:
    """The tree of one YAML document whose top is a map.

    Raises:
        Failure: everything that is wrong with it as YAML.
    """
    reader = _Reader(layer=layer, lines=split_lines(text))
    if control := _CONTROL.search(text):
        before = _BREAK.split(text[: control.start()])
        line = reader.lines[len(before) - 1]
        message = f"not valid YAML: control character U+{ord(control[0]):04X}"
        place = Place(file=layer, line=len(before), column=len(before[-1]) + 1, text=line)
        raise Failure(Problem(id="E-RECIPE-008", message=message, place=place))
    try:
        top = _compose(text, reader)
    except yaml.MarkedYAMLError as error:
        raise Failure(_syntax(error, reader)) from error
    tree = _top(top, reader)
    if reader.problems:
        raise Failure(*reader.problems)
    assert isinstance(tree, Map)
    return tree


def read_value(text: str, layer: str) -> Node | None:
    """A flow map or list typed at the command line, or None when the text is not one."""
    reader = _Reader(layer=layer, lines=split_lines(text))
    if _CONTROL.search(text):
        return None
    try:
        top = _compose(text, reader)
    except yaml.MarkedYAMLError:
        return None
    return None if top is None or isinstance(top, yaml.ScalarNode) or reader.problems else reader.build(top)


def _compose(text: str, reader: _Reader) -> yaml.Node | None:
    events = yaml.parse(text, Loader=_LOADER)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    _guard(cast("Iterator[yaml.Event]", events), reader)
    return yaml.compose(text, Loader=_LOADER)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _top(top: yaml.Node | None, reader: _Reader) -> Node | None:
    if top is None or (isinstance(top, yaml.ScalarNode) and not top.value):
        place = Place(file=reader.layer)
        reader.problems.append(Problem(id="E-RECIPE-016", message="holds no keys; a map of keys is expected",
                                       place=place, hint="start from a shipped one: llmtrain init demo"))  # fmt: skip
        return None
    if not isinstance(top, yaml.MappingNode):
        kind = "a list" if isinstance(top, yaml.SequenceNode) else "a single value"
        spot = reader.spot(top.start_mark, top.end_mark)
        reader.add("E-RECIPE-016", f"the recipe is {kind}; a map of keys is expected", spot, "write `key: value` lines")
        return None
    return reader.build(top)


def _guard(events: Iterator[yaml.Event], reader: _Reader) -> None:
    """Refuse depth, tags and second documents while nothing is built yet."""
    depth = documents = 0
    for count, event in enumerate(events):
        if count > 3 * MAX_NODES:
            message = f"holds more than {MAX_NODES:,} keys and values"
            raise Failure(Problem(id="E-RECIPE-017", message=message, place=reader.spot(event.start_mark).place()))
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                reader.add("E-RECIPE-008", "not valid YAML for a recipe: a second document starts here",
                           reader.spot(event.start_mark, event.end_mark), "keep one document a file")  # fmt: skip
                raise Failure(*reader.problems)
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                message = f"nested deeper than {MAX_DEPTH} levels"
                place = reader.spot(event.start_mark).place()
                raise Failure(Problem(id="E-RECIPE-017", message=message, place=place))
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if isinstance(event, yaml.CollectionStartEvent | yaml.ScalarEvent) and event.tag is not None:
            reader.add("E-RECIPE-019", f"YAML tags are not allowed: {quoted(event.tag)}",
                       reader.spot(event.start_mark, event.end_mark), "write the value without a tag")  # fmt: skip


_SYNTAX_HINTS = (
    ("cannot start any token", "quote values that start with @, %, ` or a tab; indent with spaces"),
    ("mapping values are not allowed", "quote values that hold `: `, and check the indentation"),
    ("did not find expected key", "check the indentation, and that every bracket and quote is closed"),
    ("while scanning a quoted scalar", "the quote is never closed"),
    ("undefined alias", "`*` starts an alias; quote the value"),
    ("could not find expected ':'", "a key needs `: ` and a value"),
    ("expected ',' or", "close the bracket"),
)


def _syntax(error: yaml.MarkedYAMLError, reader: _Reader) -> Problem:
    problem = error.problem or error.context or "unreadable"
    mark = error.problem_mark or error.context_mark
    if "could not find expected ':'" in problem and error.context_mark is not None:
        mark = error.context_mark
    whole = f"{error.context or ''} {problem}"
    hint = next((text for part, text in _SYNTAX_HINTS if part in whole), None)
    place = Place(file=reader.layer)
    if mark is not None:
        row = min(mark.line, len(reader.lines) - 1)
        column = mark.column if row == mark.line else len(reader.lines[row])
        place = Place(file=reader.layer, line=row + 1, column=column + 1, text=reader.lines[row])
    if place.text is not None and "\t" in place.text[: place.column]:
        hint = "indent with spaces, not with tabs"
    if place.text is not None and re.search(r"[{\[,].*\$\{", place.text):
        hint = 'quote an interpolation inside braces or brackets: "${...}"'
    return Problem(id="E-RECIPE-008", message=f"not valid YAML: {problem}", place=place, hint=hint)
