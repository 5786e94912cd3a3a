"""Text in, one frozen recipe out: layers are read, merged, resolved, checked; every problem is raised at once.

Separate from its parts because it is their order that surface.md 2 fixes.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from llmtrain.errors import Failure, Place, Problem, quoted
from llmtrain.recipe import catalog, layers, rules
from llmtrain.recipe.check import Checker, NamedCode
from llmtrain.recipe.interpolate import Resolver
from llmtrain.recipe.loading import Loader, without
from llmtrain.recipe.masking import mask_problem
from llmtrain.recipe.nodes import Map, Plain, Scalar, Spot
from llmtrain.recipe.nodes import Path as KeyPath
from llmtrain.recipe.schema import Recipe

_NEEDS_FILES = ("E-CLI-003",)
"""Problems that may only follow from a file which could not be read."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a value came from: `recipe.yaml:8`, `default`, `command line`, `--lr`."""

    text: str
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        return self.text


DEFAULT = Origin(text="default")


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A recipe with everything that is known about how it came to be."""

    recipe: Recipe
    origins: Mapping[KeyPath, Origin]
    """By path, with a key for every value of `tree`, lists and maps included."""
    tree: dict[str, Any]
    """All values, defaults included, in plain containers; interpolations as written."""
    file: Path | None
    shown: str | None
    """The recipe's file as messages name it."""
    name: str
    """`run.name`, else the file's name without its suffix, else the run mode."""
    texts: Mapping[str, str]
    """Source text of each file that took part, the recipe's own first."""
    code: tuple[NamedCode, ...]
    """Keys that name code to run, all of them permitted."""
    spots: Mapping[KeyPath, Spot]

    def place(self, path: KeyPath) -> Place:
        """Where a value was written, for problems found later; the nearest key above it, else no place."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.spots:
                return self.spots[path[:length]].place()
        return Place(file=self.shown)


def compose(
    recipe: str | None,
    *,
    overrides: Sequence[str] = (),
    configs: Sequence[str] = (),
    shortcuts: Mapping[str, str] | None = None,
    run_mode: str | None = None,
    allow_code: bool = False,
    import_plugins: bool = False,
) -> Composed:
    """Compose a recipe from its layers (surface.md 2).

    Args:
        recipe: a path or a shipped name; None starts from the defaults.
        overrides: `KEY=VALUE` and `~KEY`, as typed.
        configs: files of `--config`.
        shortcuts: value by `--option=key.path`, or by key path alone.
        run_mode: written by the verb; None keeps the recipe's own.
        allow_code: `--allow-code`.
        import_plugins: import the modules of `plugins`, whose slots then count; code runs.

    Raises:
        Failure: every problem that could be found.
    """
    loader = Loader()
    tree, file, shown, own = _read(loader, recipe, configs)
    problems = list(loader.problems)
    tree = _command_line(tree, overrides, shortcuts or {}, run_mode, problems)
    permitted = allow_code or _says_true(own) or _says_true(tree.entries.get("allow_code"), command=True)
    if import_plugins and not problems:
        _import_plugins(tree, permitted)
    checker = Checker(resolver=Resolver(tree), file=shown)
    built = checker.recipe(tree)
    problems += checker.problems + _unpermitted(checker.code, permitted)
    if built is not None and not loader.problems:
        problems += rules.contradictions(built, checker)
    if problems or built is None:
        raise Failure(*[mask_problem(problem) for problem in _in_order(problems, loader)])
    spelled = _Spelled(checker)
    values = spelled.section(built, ())
    return Composed(
        recipe=built, origins=spelled.origins, tree=values, file=file, shown=shown, code=tuple(checker.code),
        name=built.run.name or (file.stem if file else None) or built.run_mode, texts=loader.texts,
        spots=checker.spots,
    )  # fmt: skip


def _in_order(problems: list[Problem], loader: Loader) -> list[Problem]:
    """As they stand in the files, the recipe's own first, the command line last."""
    files = {shown: rank for rank, shown in enumerate(loader.texts)}

    def rank(problem: Problem) -> tuple[int, int, int]:
        place = problem.place
        return files.get(place.file or "", len(files)), place.line or 0, place.column or 0

    return sorted(problems, key=rank)


def _read(
    loader: Loader, recipe: str | None, configs: Sequence[str]
) -> tuple[Map, Path | None, str | None, Scalar | None]:
    """The merged files, and the recipe's own `allow_code`."""
    tree = Map(entries={}, keys={}, spot=Spot(layer="command line", command=True))
    file, shown, own = None, None, None
    if recipe is not None:
        file, shown = catalog.locate(recipe)
        tree = _load(loader, file, shown) or tree
        node = tree.entries.get("allow_code")
        own = node if isinstance(node, Scalar) else None
    for config in configs:
        layer = _load(loader, *catalog.locate(config))
        if layer is not None:
            tree = layers.merge(tree, without(layer, "allow_code"))
    return tree, file, shown, own


def _load(loader: Loader, file: Path, shown: str) -> Map | None:
    try:
        return loader.load(file, shown)
    except Failure as failure:
        loader.problems += failure.problems
        return None


def _command_line(
    tree: Map, overrides: Sequence[str], shortcuts: Mapping[str, str], run_mode: str | None, problems: list[Problem]
) -> Map:
    incomplete = bool(problems)
    for argument in overrides:
        try:
            tree = layers.apply(tree, argument)
        except Failure as failure:
            problems += [found for found in failure.problems if not (incomplete and found.id in _NEEDS_FILES)]
    for name, value in shortcuts.items():
        option, _, key = name.rpartition("=")
        spot = Spot(layer=option or "command line", text=f"{option or key} {value}", command=True,
                    column=len(option or key) + 2, width=max(1, len(value)))  # fmt: skip
        path = layers.parse_key(key)
        assert path is not None, name
        try:
            tree = layers.write(tree, path, layers.typed_value(value, spot), spot)
        except Failure as failure:
            problems += failure.problems
    if run_mode is not None:
        spot = Spot(layer="command line", text=run_mode, width=len(run_mode), command=True)
        tree = layers.write(tree, ("run_mode",), Scalar(text=run_mode, style="word", spot=spot), spot)
    return tree


def _says_true(node: object, command: bool = False) -> bool:
    return isinstance(node, Scalar) and node.text in ("true", "True", "TRUE") and (node.spot.command or not command)


def _unpermitted(code: Sequence[NamedCode], permitted: bool) -> list[Problem]:
    if permitted:
        return []
    return [
        Problem(
            id="E-SEC-002",
            message=f"names code to run, {quoted(named.value)}, without permission",
            key=layers.dotted(named.path),
            place=named.spot.place(),
            hint="set `allow_code: true` in this very recipe, or give --allow-code",
        )
        for named in code
        if not named.spot.command
    ]


def _import_plugins(tree: Map, permitted: bool) -> None:
    """Import plugins before slots are looked up.

    Raises:
        Failure: not permitted, or a module is missing.
    """
    only = {name: node for name, node in tree.entries.items() if name == "plugins"}
    checker = Checker(resolver=Resolver(tree))
    found = checker.recipe(Map(entries=only, keys=tree.keys, spot=tree.spot))
    problems = checker.problems + _unpermitted(checker.code, permitted)
    if problems or found is None:
        raise Failure(*problems)
    if checker.code:
        local_modules()
    for named in checker.code:
        try:
            importlib.import_module(named.value)
        except ImportError as error:
            message = f"module {quoted(named.value)} cannot be imported: {quoted(str(error))}"
            place = named.spot.place()
            raise Failure(Problem(id="E-ENV-001", message=message, key="plugins", place=place)) from error


def local_modules() -> None:
    """Make modules of the working folder importable, as `python -m` does; only once code was permitted."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


class _Spelled:
    """Writes a recipe out as plain containers and finds the origin of every part."""

    def __init__(self, checker: Checker) -> None:
        self.checker = checker
        self.origins: dict[KeyPath, Origin] = {}

    def section(self, section: Any, path: KeyPath) -> dict[str, Any]:  # noqa: ANN401 - any dataclass
        return {
            item.metadata.get("key", item.name): self.value(
                section.__dict__[item.name], (*path, item.metadata.get("key", item.name))
            )
            for item in fields(section)
        }

    def value(self, value: Any, path: KeyPath) -> Any:  # noqa: ANN401
        spot = self.checker.spots.get(path)
        self.origins[path] = DEFAULT if spot is None else Origin(text=spot.label(), file=spot.layer, line=spot.line)
        if path in self.checker.written:
            return self.checker.written[path]
        return self.section(value, path) if is_dataclass(value) else self.container(value, path)

    def container(self, value: Plain, path: KeyPath) -> Any:  # noqa: ANN401
        if isinstance(value, str):
            return value
        if isinstance(value, Mapping):
            return {name: self.value(inner, (*path, name)) for name, inner in value.items()}
        if isinstance(value, Sequence):
            return [self.value(inner, (*path, index)) for index, inner in enumerate(value)]
        return value
