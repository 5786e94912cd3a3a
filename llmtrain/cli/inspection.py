"""Verbs that look and start nothing: check, plan, recipes, init, schema, doctor."""

import glob
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtrain.cli import streams
from llmtrain.cli.arguments import Request, is_setting
from llmtrain.errors import Failure, Problem, fail

if TYPE_CHECKING:
    from llmtrain.recipe.compose import Composed
    from llmtrain.recipe.schema import Recipe

SCHEMA_FILE = ".llmtrain.schema.json"
DATA_SUFFIXES = (
    ".txt", ".md", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".zst",
)  # fmt: skip


def check(request: Request) -> None:
    """Validate each recipe with the same settings; every problem of every recipe at once."""
    recipes = [word for word in request.words if not is_setting(word)]
    if not recipes:
        raise fail("E-CLI-001", "check: RECIPE is missing", hint="`llmtrain recipes` lists shipped ones")
    problems: list[Problem] = []
    valid: list[Composed] = []
    for recipe in recipes:
        try:
            composed = _compose(request, recipe)
            missing = missing_files(composed.recipe)
            problems += missing
            if not missing:
                _planned(composed, world=None)
                valid.append(composed)
        except Failure as failure:
            problems += failure.problems
    if problems:
        raise Failure(*problems)
    if request.json:
        streams.result_json({"valid": True, "recipes": [str(item.file or item.name) for item in valid]})
        return
    for composed in valid:
        if request.origin:
            from llmtrain.recipe.compose import write_resolved

            streams.result(write_resolved(composed))
        else:
            streams.result(f"{composed.file or composed.name}: valid\n")


def missing_files(recipe: "Recipe") -> list[Problem]:
    """A problem for each local file the recipe names that is not there; nothing is opened."""
    sources = [*recipe.data.train, *(recipe.data.eval if isinstance(recipe.data.eval, list) else [])]
    problems = [
        Problem(id="E-DATA-007", message=f'"{source.path}" does not exist', key="data.train")
        for source in sources
        if _is_local(source.path, DATA_SUFFIXES) and not (glob.glob(source.path, recursive=True))
    ]
    named = {"model.name": recipe.model.name, "tokenizer.name": recipe.tokenizer.name}
    for key, name in named.items():
        if name is not None and _is_local(name, (".gguf", ".json")) and not Path(name).exists():
            problems.append(Problem(id="E-MODEL-001", message=f'"{name}" does not exist', key=key))
    return problems


def _is_local(name: str, suffixes: Sequence[str]) -> bool:
    """Whether a name can only be a path of this machine, not a hub name."""
    if "://" in name or name.startswith("builtin:"):
        return False
    return name.startswith(("/", "./", "../", "~")) or name.endswith(("/", *suffixes)) or "*" in name


def plan(request: Request) -> None:
    """Print the arithmetic of a run."""
    recipe, settings = request.recipe_and_settings(required=True)
    assert recipe is not None
    composed = _compose(request, recipe, settings)
    planned = _planned(composed, world=request.world)
    if request.json:
        streams.result_json(_plain(planned))
    else:
        streams.result(_lines(_plain(planned)))


def show_dry_run(request: Request, composed: "Composed") -> int:
    """`--dry-run`: the resolved recipe and the plan."""
    from llmtrain.recipe.compose import write_resolved

    planned = _planned(composed, world=None)
    if request.json:
        streams.result_json({"recipe": write_resolved(composed), "plan": _plain(planned)})
    else:
        streams.result(write_resolved(composed).rstrip("\n") + "\n\n")
        streams.result("".join(f"# {line}\n" for line in _lines(_plain(planned)).splitlines()))
    return 0


def recipes(request: Request) -> None:
    """List shipped recipes, or print one."""
    if len(request.words) > 1:
        raise fail("E-CLI-001", "recipes: at most one NAME")
    from llmtrain.recipe import catalog

    if request.words:
        text = catalog.find(request.words[0]).read_text(encoding="utf-8")
        streams.result_json({"name": request.words[0], "text": text}) if request.json else streams.result(text)
        return
    listed = catalog.listing()
    if request.json:
        streams.result_json({"recipes": [{"name": item.name, "description": item.description} for item in listed]})
        return
    width = max((len(item.name) for item in listed), default=0)
    streams.result("".join(f"{item.name:<{width}}  {item.description}\n" for item in listed))


def init(request: Request) -> None:
    """Copy a shipped recipe and the schema beside it; nothing is overwritten."""
    if not 1 <= len(request.words) <= 2:
        raise fail("E-CLI-001", "init: NAME [PATH] expected", hint="`llmtrain recipes` lists names")
    from llmtrain.recipe import catalog
    from llmtrain.recipe.jsonschema import schema as build_schema

    source = catalog.find(request.words[0])
    target = Path(request.words[1]) if len(request.words) == 2 else Path(source.name)
    if target.is_dir():
        target = target / source.name
    text = source.read_text(encoding="utf-8")
    beside = target.parent / SCHEMA_FILE
    try:
        with target.open("x", encoding="utf-8") as handle:
            handle.write(text)
        beside.write_text(json.dumps(build_schema(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except FileExistsError as error:
        raise fail("E-FILE-005", "exists already; not overwritten", file=str(target)) from error
    except OSError as error:
        raise fail("E-FILE-005", f"cannot be written: {error.strerror}", file=str(target)) from error
    if request.json:
        streams.result_json({"recipe": str(target), "schema": str(beside)})
    else:
        streams.result(f"{target}\n")
        streams.say(f"next: llmtrain check {target}; llmtrain train {target}")


def schema(request: Request) -> None:
    """The JSON Schema, or what one key means."""
    if len(request.words) > 1:
        raise fail("E-CLI-001", "schema: at most one KEY")
    from llmtrain.recipe import jsonschema

    if request.words:
        text = jsonschema.key_reference(request.words[0])
        key = request.words[0]
        streams.result_json({"key": key, "text": text}) if request.json else streams.result(text.rstrip("\n") + "\n")
    elif request.json:
        streams.result_json(jsonschema.schema())
    else:
        streams.result(json.dumps(jsonschema.schema(), indent=1, ensure_ascii=False) + "\n")


def doctor(request: Request) -> int:
    """Findings about this machine; 2 when something essential fails."""
    from llmtrain import doctor as examination

    findings = examination.examine()
    failed = any(item.state == "fail" for item in findings)
    if request.json:
        streams.result_json({"ok": not failed, "findings": [asdict(item) for item in findings]})
    else:
        streams.result(examination.table(findings))
    return 2 if failed else 0


def _compose(request: Request, recipe: str, settings: Sequence[str] | None = None) -> "Composed":
    from llmtrain.recipe.compose import compose

    return compose(
        recipe, overrides=list(request.settings if settings is None else settings), configs=list(request.config),
        shortcuts=request.written, run_mode=None, allow_code=request.allow_code, import_plugins=False,
    )  # fmt: skip


def _planned(composed: "Composed", *, world: int | None) -> Any:  # noqa: ANN401 - recipe.plan's own dataclass
    from llmtrain.recipe.plan import plan as plan_recipe

    wanted = composed.recipe.launch.nproc
    return plan_recipe(composed.recipe, world or (1 if wanted == "auto" else int(wanted)))


def _plain(planned: Any) -> dict[str, Any]:  # noqa: ANN401 - any dataclass
    assert is_dataclass(planned) and not isinstance(planned, type)
    return asdict(planned)


def _lines(values: Mapping[str, Any], prefix: str = "") -> str:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += [(f"{prefix}{name}.{key}", str(item)) for key, item in value.items()]
        else:
            rows.append((prefix + name, "unknown" if value is None else str(value)))
    width = max((len(name) for name, _ in rows), default=0)
    return "".join(f"{name:<{width}}  {text}\n" for name, text in rows)


VERBS: dict[str, Callable[[Request], int | None]] = {
    "check": check, "plan": plan, "recipes": recipes, "init": init, "schema": schema, "doctor": doctor,
}  # fmt: skip
