"""Follows a recipe's files: reads each with what it extends beneath it.

Separate from composing because only here do layers depend on each other.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from llmtrain.errors import Failure, Problem, quoted
from llmtrain.recipe import catalog, files, layers, places
from llmtrain.recipe.nodes import List, Map, Node, Scalar, Spot

MAX_EXTENDS = 16


@dataclass
class Loader:
    """Reads files once and remembers their text and every problem met on the way."""

    texts: dict[str, str] = field(default_factory=dict[str, str])
    problems: list[Problem] = field(default_factory=list[Problem])

    def load(self, file: Path, shown: str, above: tuple[Path, ...] = ()) -> Map:
        """The tree of a file over everything it extends; `allow_code` is not inherited (surface.md 8).

        Raises:
            Failure: the file cannot be read, or is not YAML.
        """
        self.texts[shown] = files.read_text(file, shown)
        tree = places.read_tree(self.texts[shown], shown)
        merged: Map | None = None
        for name, spot in self._extends(tree):
            base = self._base(name, spot, file, shown, (*above, file.resolve()))
            if base is not None:
                merged = base if merged is None else layers.merge(merged, base)
        own = layers.normalise(_without(tree, "extends"))
        return own if merged is None else layers.merge(_without(merged, "allow_code"), own)

    def _extends(self, tree: Map) -> list[tuple[str, Spot]]:
        node = tree.entries.get("extends")
        if node is None or (isinstance(node, Scalar) and node.style == "plain" and node.text in ("", "null", "~")):
            return []
        items: tuple[Node, ...] = node.items if isinstance(node, List) else (node,)
        found: list[tuple[str, Spot]] = []
        for item in items:
            if isinstance(item, Scalar) and item.text and "${" not in item.text:
                found.append((item.text, item.spot))
            else:
                message = "`extends` takes names of shipped recipes or files"
                self.add("E-RECIPE-014", message, item.spot, "write `extends: [_base/model/llama-14m, ./mine.yaml]`")
        return found

    def add(self, id: str, message: str, spot: Spot, hint: str | None = None) -> None:
        """Note a problem at an entry of `extends`."""
        self.problems.append(Problem(id=id, message=message, key="extends", place=spot.place(), hint=hint))

    def _base(self, name: str, spot: Spot, file: Path, shown: str, above: tuple[Path, ...]) -> Map | None:
        found = _beside(name, file, shown) or _known(name)
        if found is None:
            near = catalog.suggest.nearest(name, [entry.name for entry in catalog.shipped(bases=True)])
            hint = f"did you mean `{near}`?" if near else "a path is taken relative to this file"
            self.add("E-RECIPE-014", f"{quoted(name)} is neither a file beside it nor a shipped recipe", spot, hint)
            return None
        if found[0].resolve() in above:
            self.add("E-RECIPE-014", f"{quoted(name)} leads back to itself", spot, "remove it from the list")
            return None
        if len(above) > MAX_EXTENDS:
            self.add("E-RECIPE-014", f"more than {MAX_EXTENDS} files extend each other", spot)
            return None
        try:
            return self.load(*found, above)
        except Failure as failure:
            self.problems += failure.problems
            return None


def _beside(name: str, file: Path, shown: str) -> tuple[Path, str] | None:
    """A file named relative to the one that extends it, and its name in messages."""
    if "\0" in name:
        return None
    for candidate in (name, f"{name}.yaml"):
        path = file.parent / candidate
        if path.is_file():
            return path, os.path.normpath(Path(shown).parent / candidate)
    return None


def _known(name: str) -> tuple[Path, str] | None:
    found = catalog.find(name)
    return None if found is None else (found.file, f"{found.name}.yaml")


def _without(tree: Map, name: str) -> Map:
    entries = {key: value for key, value in tree.entries.items() if key != name}
    return replace(tree, entries=entries, keys={key: tree.keys[key] for key in entries})
