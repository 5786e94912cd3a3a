"""The recipes that come with the program: found by name, listed, printed.

Separate because composing, `recipes` and `init` look in the same place.
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from llmtrain.errors import Failure, Place, Problem, quoted
from llmtrain.recipe import files, suggest

KINDS = ("train", "finetune", "evaluate", "predict", "pipeline")


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """One shipped recipe; `name` is its path below the recipes' folder without `.yaml`."""

    name: str
    file: Path
    description: str


@cache
def root() -> Path:
    """The folder of shipped recipes: inside the installed package, else beside it in a checkout."""
    package = Path(str(resources.files("llmtrain")))
    installed = package / "_recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


@cache
def shipped(bases: bool = False) -> tuple[Shipped, ...]:
    """Shipped recipes in order of their names; with `bases` also the parts they extend."""
    found: list[Shipped] = []
    for file in sorted(root().rglob("*.yaml")):
        name = file.relative_to(root()).with_suffix("").as_posix()
        if bases or not name.startswith("_"):
            found.append(Shipped(name=name, file=file, description=_description(file)))
    return tuple(sorted(found, key=lambda recipe: (recipe.name.startswith("_"), recipe.name)))


def _description(file: Path) -> str:
    for line in files.read_text(file, file.name).splitlines():
        text = line.lstrip("# ").strip()
        if line.startswith("#") and text and not text.startswith("yaml-language-server"):
            return text
    return ""


def find(name: str) -> Shipped | None:
    """A shipped recipe by `demo`, `train/demo` or `train/demo.yaml`; bases by their full name only."""
    wanted = name.removesuffix(".yaml")
    by_name = {recipe.name: recipe for recipe in shipped(bases=True)}
    if wanted in by_name:
        return by_name[wanted]
    return next((by_name[f"{kind}/{wanted}"] for kind in KINDS if f"{kind}/{wanted}" in by_name), None)


def locate(recipe: str) -> tuple[Path, str]:
    """The file a RECIPE argument means, and its name in messages.

    Raises:
        Failure: neither a file nor a shipped recipe.
    """
    path = Path(recipe)
    known = find(recipe)
    try:
        there = path.is_file() or (known is None and (path.exists() or path.is_symlink()))
    except (OSError, ValueError):
        there = True
    if there and recipe:
        return path, recipe
    if known is not None:
        return known.file, f"{known.name}.yaml"
    if "/" in recipe or "\\" in recipe or path.suffix in (".yaml", ".yml", ".json"):
        files.read_text(path, recipe)
    names = [short for entry in shipped() for short in (entry.name, entry.name.split("/")[-1])]
    near = suggest.nearest(recipe, names)
    hint = f"did you mean `{near}`?" if near else "list them: llmtrain recipes"
    message = f"no file and no shipped recipe is named {quoted(recipe)}"
    raise Failure(Problem(id="E-RECIPE-018", message=message, place=Place(), hint=hint))
