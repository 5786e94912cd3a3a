"""Verbs that look and start nothing: check, plan, recipes, init, schema, doctor."""

import glob
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtrain.cli import streams
from llmtrain.cli.arguments import Request, is_setting
from llmtrain.errors import Failure, Problem, fail, quoted

if TYPE_CHECKING:
    from llmtrain.recipe.compose import Composed
    from llmtrain.recipe.reference import Entry

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
            missing = missing_files(composed)
            problems += missing
            if not missing:
                if composed.recipe.run_mode == "train":
                    _planned(composed, world=None)
                valid.append(composed)
        except Failure as failure:
            problems += failure.problems
    if problems:
        raise Failure(*problems)
    if request.json:
        streams.result_json({"valid": True, "recipes": [item.shown or item.name for item in valid]})
        return
    for composed in valid:
        if request.origin:
            from llmtrain.recipe.resolved import write_resolved

            streams.result(write_resolved(composed))
        else:
            streams.result(f"{composed.shown or composed.name}: valid\n")


def missing_files(composed: "Composed") -> list[Problem]:
    """A problem for each local file the recipe names that is not there; nothing is opened."""
    recipe = composed.recipe
    problems: list[Problem] = []
    for part, sources in (("train", recipe.data.train), ("eval", recipe.data.eval)):
        for number, source in enumerate(sources if isinstance(sources, list) else []):
            if _is_local(source.path, DATA_SUFFIXES) and not glob.glob(source.path, recursive=True):  # noqa: PTH207 - the pattern may be absolute
                problems.append(_missing(composed, "E-DATA-007", source.path, ("data", part, number, "path")))
    for section, name in (("model", recipe.model.name), ("tokenizer", recipe.tokenizer.name)):
        if name is not None and _is_local(name, (".gguf", ".json")) and not Path(name).exists():
            problems.append(_missing(composed, "E-MODEL-001", name, (section, "name")))
    return problems


def _missing(composed: "Composed", id: str, name: str, path: tuple[str | int, ...]) -> Problem:
    key = f"{path[0]}.{path[1]}" + (f"[{path[2]}].{path[3]}" if len(path) > 2 else "")
    return Problem(id=id, message=f"{quoted(name)} does not exist", key=key, place=composed.place(path))


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
    from llmtrain.recipe.resolved import write_resolved

    planned = _planned(composed, world=None) if composed.recipe.run_mode == "train" else None
    if request.json:
        streams.result_json({"recipe": write_resolved(composed), "plan": _plain(planned) if planned else None})
        return 0
    streams.result(write_resolved(composed).rstrip("\n") + "\n")
    if planned:
        streams.result("\n" + "".join(f"# {line}\n" for line in _lines(_plain(planned)).splitlines()))
    return 0


def recipes(request: Request) -> None:
    """List shipped recipes, or print one."""
    if len(request.words) > 1:
        raise fail("E-CLI-001", "recipes: at most one NAME")
    from llmtrain.recipe import catalog

    if request.words:
        text = _shipped(request.words[0]).read_text(encoding="utf-8")
        streams.result_json({"name": request.words[0], "text": text}) if request.json else streams.result(text)
        return
    listed = catalog.shipped()
    if request.json:
        streams.result_json({"recipes": [{"name": item.name, "description": item.description} for item in listed]})
        return
    width = max((len(item.name) for item in listed), default=0)
    streams.result("".join(f"{item.name:<{width}}  {item.description}\n" for item in listed))


def init(request: Request) -> None:
    """Copy a shipped recipe and the schema beside it; nothing is overwritten."""
    if not 1 <= len(request.words) <= 2:
        raise fail("E-CLI-001", "init: NAME [PATH] expected", hint="`llmtrain recipes` lists names")
    from llmtrain.recipe.jsonschema import json_schema

    source = _shipped(request.words[0])
    target = Path(request.words[1]) if len(request.words) == 2 else Path(source.name)
    if target.is_dir():
        target = target / source.name
    text = source.read_text(encoding="utf-8")
    beside = target.parent / SCHEMA_FILE
    try:
        with target.open("x", encoding="utf-8") as handle:
            handle.write(text)
        beside.write_text(json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except FileExistsError as error:
        raise fail("E-FILE-005", "exists already; not overwritten", file=str(target)) from error
    except OSError as error:
        raise fail("E-FILE-005", f"cannot be written: {error.strerror}", file=str(target)) from error
    if request.json:
        streams.result_json({"recipe": str(target), "schema": str(beside)})
    else:
        streams.result(f"{target}\n")
        streams.say(f"next: llmtrain check {target}; llmtrain train {target}")


def _shipped(name: str) -> Path:
    from llmtrain.recipe import catalog

    found = catalog.find(name)
    return found.file if found is not None else catalog.locate(name)[0]


def schema(request: Request) -> None:
    """The JSON Schema, or what one key means."""
    if len(request.words) > 1:
        raise fail("E-CLI-001", "schema: at most one KEY")
    if request.words:
        from llmtrain.recipe.reference import key_reference

        entry = key_reference(request.words[0])
        streams.result_json(asdict(entry)) if request.json else streams.result(_lines(_given(entry)))
        return
    from llmtrain.recipe.jsonschema import json_schema

    if request.json:
        streams.result_json(json_schema())
    else:
        streams.result(json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n")


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

    if composed.recipe.run_mode != "train":
        raise fail("E-CLI-004", f"plan is about training; this recipe's run_mode is {composed.recipe.run_mode}")
    wanted = composed.recipe.launch.nproc
    return plan_recipe(composed.recipe, world or (1 if wanted == "auto" else int(wanted)))


def _plain(planned: Any) -> dict[str, Any]:  # noqa: ANN401 - any dataclass
    assert is_dataclass(planned) and not isinstance(planned, type)
    return asdict(planned)


def _given(entry: "Entry") -> dict[str, Any]:
    """The reference of a key without what it does not have; a default of null is shown as such."""
    values = {name: value for name, value in asdict(entry).items() if value not in ((), False)}
    values = {name: " ".join(value) if isinstance(value, tuple) else value for name, value in values.items()}
    if entry.required:
        values |= {"required": "yes", "default": "none"}
    else:
        values["default"] = json.dumps(entry.default, ensure_ascii=False)
    return values


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
