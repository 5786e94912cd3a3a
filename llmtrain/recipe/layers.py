"""Merging layers: maps merge, lists are replaced, a slot that changes its name keeps only common keys (surface.md 2).

Separate from reading files, which knows one layer at a time, and from checking, which sees only the result.
"""

import re
from dataclasses import replace

from llmtrain.errors import Failure, Place, Problem, quoted
from llmtrain.recipe import places, scalars, suggest
from llmtrain.recipe.nodes import (
    List,
    Map,
    Node,
    Path,
    Plain,
    Scalar,
    Spot,
    dotted,
    from_plain,
)
from llmtrain.recipe.schema import Recipe
from llmtrain.recipe.slots import COMMON_KEYS, slot_table
from llmtrain.recipe.types import BARE, keys_of, take_apart

_KEY = re.compile(r"[A-Za-z_][\w-]*(\[\d{1,6}\])*(\.[A-Za-z_][\w-]*(\[\d{1,6}\])*)*")
_PART = re.compile(r"\[(\d+)\]|([\w-]+)")


def normalise(tree: Map) -> Map:
    """Write out the short forms that merging must see: a slot's bare name, a source's bare path."""
    return _section(tree, Recipe)


def _section(node: Map, section: type) -> Map:
    keys, entries = keys_of(section), dict(node.entries)
    for name, value in node.entries.items():
        if name not in keys:
            continue
        want = take_apart(keys[name].want)
        item = take_apart(want.item).section if want.item is not None else None
        if keys[name].slot is not None:
            entries[name] = _bare(value, "name")
        elif item is not None and item in BARE:
            entries[name] = _bare_list(value, BARE[item])
        elif isinstance(value, Map) and want.section is not None:
            entries[name] = _section(value, want.section)
    return replace(node, entries=entries)


def _bare(value: Node, key: str) -> Node:
    if isinstance(value, Scalar) and _is_word(value):
        return Map(entries={key: value}, keys={key: value.spot}, spot=value.spot)
    return value


def _bare_list(value: Node, key: str) -> Node:
    if isinstance(value, Scalar) and _is_word(value):
        return List(items=(_bare(value, key),), spot=value.spot)
    if isinstance(value, List):
        return replace(value, items=tuple(_bare(item, key) for item in value.items))
    return value


def _is_word(value: Scalar) -> bool:
    """Whether a scalar is a name or a path, and neither null, a number, a switch, nor an interpolation."""
    if value.style == "plain" and (value.text in scalars.NULL or scalars.trap(value.text) is not None):
        return False
    if value.style == "word" and value.text in scalars.NULL:
        return False
    return "${" not in value.text and (value.style == "quoted" or isinstance(scalars.parse(value.text), str))


def merge(lower: Map, upper: Map, path: Path = ()) -> Map:
    """`upper` over `lower`; every part keeps the spot of the layer it came from."""
    entries, keys = dict(lower.entries), dict(lower.keys)
    for name, value in upper.entries.items():
        below, here = entries.get(name), (*path, name)
        if isinstance(below, Map) and isinstance(value, Map):
            entries[name] = merge(_keep_common(below, value, here), value, here)
        elif isinstance(below, Map) and isinstance(value, Scalar) and value.style == "plain" and not value.text:
            continue
        else:
            entries[name] = value
        keys[name] = upper.keys[name]
    return Map(entries=entries, keys=keys, spot=upper.spot)


def _keep_common(below: Map, value: Map, path: Path) -> Map:
    key = keys_of(Recipe).get(dotted(path)) if len(path) == 1 else None
    if key is None or key.slot is None or "name" not in value.entries:
        return below
    default = key.rules["default_name"]
    before, after = (_word(node.entries.get("name"), default) for node in (below, value))
    if before == after:
        return below
    common = COMMON_KEYS[key.slot]
    entries = {name: node for name, node in below.entries.items() if name in common}
    return replace(below, entries=entries, keys={name: below.keys[name] for name in entries})


def _word(node: Node | None, default: str) -> str:
    return node.text if isinstance(node, Scalar) else default


def parse_key(text: str) -> Path | None:
    """`data.train[1].weight` -> ("data", "train", 1, "weight"); None when it is not a dotted path."""
    if not _KEY.fullmatch(text):
        return None
    return tuple(int(index) if index else name for index, name in _PART.findall(text))


def typed_value(text: str, spot: Spot) -> Node:
    """A value typed at the command line: a flow map or list where it is one, else the very text."""
    if text[:1] + text[-1:] in ("{}", "[]"):
        node = places.read_value(text, spot.layer)
        if node is not None:
            node = _respot(node, spot)
            return node if isinstance(node, Scalar) else replace(node, word=text)
    return Scalar(text=text, style="word", spot=spot)


def _respot(node: Node, spot: Spot) -> Node:
    if isinstance(node, Scalar):
        return replace(node, spot=spot)
    if isinstance(node, List):
        return replace(node, items=tuple(_respot(item, spot) for item in node.items), spot=spot)
    entries = {name: _respot(value, spot) for name, value in node.entries.items()}
    return Map(entries=entries, keys=dict.fromkeys(entries, spot), spot=spot)


def apply(tree: Map, argument: str) -> Map:
    """`KEY=VALUE` or `~KEY` over the merged layers.

    Raises:
        Failure: not of that form, an unknown key, an index past the end of its list.
    """
    removing = argument.startswith("~")
    name, equals, text = (argument[1:], "", "") if removing else argument.partition("=")
    column = 2 if removing else 1
    spot = Spot(layer="command line", text=argument, column=column, width=max(1, len(name)), command=True)
    path = parse_key(name)
    if path is None or (not removing and not equals):
        hint = "write KEY=VALUE, such as optimizer.lr=1e-3, data.train[0].weight=2 or ~budget.epochs"
        message = f"{quoted(argument)} is not KEY=VALUE" if not equals else f"{quoted(name)} is not a dotted key"
        raise Failure(Problem(id="E-CLI-003", message=message, place=Place(file="command line"), hint=hint))
    if problem := suggest.unknown_path(path, spot):
        raise Failure(problem)
    if removing:
        removed = _remove(tree, path, path, spot)
        assert isinstance(removed, Map)
        return removed
    value = replace(spot, column=len(name) + 2, width=max(1, len(text)))
    return write(tree, path, typed_value(text, value), spot)


def write(tree: Map, path: Path, value: Node, spot: Spot) -> Map:
    """Set one path; lists are entered by index, everything else is merged as a layer of its own."""
    index = next((i for i, part in enumerate(path) if isinstance(part, int)), None)
    if index is None:
        return merge(tree, normalise(_nested(path, value, spot)))
    head = path[:index]
    below = _find(tree, head) or _default_list(tree, head)
    if not isinstance(below, List):
        raise _bad_index(f"{dotted(head)} is not a list in this recipe, so it has no item {path[index]}", spot)
    replaced = _set_item(below, path[index:], value, spot)
    return merge(tree, normalise(_nested(head, replaced, spot)))


def _set_item(below: List, path: Path, value: Node, spot: Spot) -> List:
    position = path[0]
    assert isinstance(position, int)
    count = len(below.items)
    if position >= count:
        raise _bad_index(
            f"there is no item {position}: the list has {count} {'entry' if count == 1 else 'entries'}", spot
        )
    items, rest = list(below.items), path[1:]
    if not rest:
        items[position] = value
    elif isinstance(rest[0], int):
        inner = items[position]
        if not isinstance(inner, List):
            raise _bad_index(f"item {position} is not a list", spot)
        items[position] = _set_item(inner, rest, value, spot)
    else:
        inner = items[position]
        if not isinstance(inner, Map):
            raise _bad_index(f"item {position} is not a map of keys", spot)
        items[position] = write_into(inner, rest, value, spot)
    return replace(below, items=tuple(items))


def write_into(inner: Map, path: Path, value: Node, spot: Spot) -> Map:
    """Set a path inside an item of a list; no list may stand on the way."""
    if any(isinstance(part, int) for part in path):
        raise _bad_index("a list inside a list's item cannot be entered; write the whole item", spot)
    return merge(inner, _nested(path, value, spot), ("[]",))


def _nested(path: Path, value: Node, spot: Spot) -> Map:
    name = path[0]
    assert isinstance(name, str)
    inner = _nested(path[1:], value, spot) if len(path) > 1 else value
    return Map(entries={name: inner}, keys={name: spot}, spot=spot)


def _find(tree: Node, path: Path) -> Node | None:
    node: Node | None = tree
    for part in path:
        node = node.entries.get(str(part)) if isinstance(node, Map) else None
    return node


def _default_list(tree: Map, path: Path) -> Node | None:
    """A key's default where that is a list with items, so that `optimizer.betas[1]=0.99` needs no list written."""
    section: type | None = Recipe
    for depth, part in enumerate(path):
        key = keys_of(section).get(str(part)) if section is not None else None
        if key is None:
            return None
        if depth == len(path) - 1:
            default: Plain = key.default
            return from_plain(default, Spot(layer="default")) if isinstance(default, list) else None
        section = take_apart(key.want).section
        if key.slot is not None:
            name = _word(_find(tree, (*path[: depth + 1], "name")), key.rules["default_name"])
            section = slot_table(key.slot).get(name)
    return None


def _remove(node: Node | None, path: Path, whole: Path, spot: Spot) -> Node:
    part, rest = path[0], path[1:]
    if isinstance(node, Map) and isinstance(part, str) and part in node.entries:
        entries, keys = dict(node.entries), dict(node.keys)
        if rest:
            entries[part] = _remove(entries[part], rest, whole, spot)
        else:
            del entries[part], keys[part]
        return replace(node, entries=entries, keys=keys)
    if isinstance(node, List) and isinstance(part, int) and part < len(node.items):
        items = list(node.items)
        items[part : part + 1] = [_remove(items[part], rest, whole, spot)] if rest else []
        return replace(node, items=tuple(items))
    raise Failure(
        Problem(
            id="E-CLI-003",
            message="nothing to remove: the recipe does not set it",
            key=dotted(whole),
            place=spot.place(),
            hint="its default stands; KEY=null unsets a default",
        )
    )


def _bad_index(message: str, spot: Spot) -> Failure:
    hint = "write the whole list: KEY=[a, b]"
    return Failure(
        Problem(id="E-CLI-003", message=message, key=spot.text.partition("=")[0], place=spot.place(), hint=hint)
    )
