"""The tree a recipe is read into: every key and value knows where it stands.

Separate from reading and checking because both, and merging between them, work on it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from llmtrain.errors import Place

Plain = Mapping[str, "Plain"] | Sequence["Plain"] | str | int | float | bool | None
"""Untyped containers, as JSON has them."""
Path = tuple[str | int, ...]
"""Keys and list indices from the top of a recipe."""


@dataclass(frozen=True, kw_only=True)
class Spot:
    """Where one key or value stands in a layer; `line` is None on the command line."""

    layer: str
    line: int | None = None
    column: int = 1
    text: str = ""
    width: int = 1
    command: bool = False
    """Whether the user typed it at the command line."""

    def label(self) -> str:
        """Origin text: `recipe.yaml:8`, `command line`, `--lr`."""
        return self.layer if self.line is None else f"{self.layer}:{self.line}"

    def place(self) -> Place:
        """The same for a Problem."""
        return Place(file=self.layer, line=self.line, column=self.column, text=self.text, width=self.width)


@dataclass(frozen=True, kw_only=True)
class Scalar:
    """A single value as written.

    Styles: `plain` and `quoted` as in YAML; `word` was typed at the command line, where quotes are part of the text;
    `resolved` is what an interpolation gave, whose text must never be shown.
    """

    text: str
    style: Literal["plain", "quoted", "word", "resolved"]
    spot: Spot


@dataclass(frozen=True, kw_only=True)
class Map:
    """Keys in order with their spots; `word` is the source text of a map typed at the command line."""

    entries: "dict[str, Node]"
    keys: dict[str, Spot]
    spot: Spot
    word: str | None = None


@dataclass(frozen=True, kw_only=True)
class List:
    """Items in order; `word` as in Map."""

    items: "tuple[Node, ...]"
    spot: Spot
    word: str | None = None


Node = Scalar | Map | List


def dotted(path: Iterable[str | int]) -> str:
    """`("data", "train", 0, "path")` -> `data.train[0].path`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def from_plain(value: Plain, spot: Spot, style: Literal["plain", "resolved"] = "plain") -> Node:
    """A plain container as a tree whose every part stands at `spot`."""
    if isinstance(value, str):
        return Scalar(text=value, style="resolved" if style == "resolved" else "quoted", spot=spot)
    if isinstance(value, Mapping):
        entries = {str(k): from_plain(v, spot, style) for k, v in value.items()}
        return Map(entries=entries, keys=dict.fromkeys(entries, spot), spot=spot)
    if isinstance(value, Sequence):
        return List(items=tuple(from_plain(v, spot, style) for v in value), spot=spot)
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return Scalar(text=text, style="plain", spot=spot)
