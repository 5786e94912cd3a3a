"""Sizes, forbidden calls and mirror tests: rules of the code that no linter holds."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "llmtrain"
MODULES = sorted(PACKAGE.rglob("*.py"))
PROBES = ("getattr", "hasattr", "setattr")

TESTED_THROUGH = {
    "cli/app": "cli/test_process.py",
    "cli/ending": "unit/cli/test_training.py",
    "cli/streams": "cli/test_process.py",
    "data/assemble": "unit/data/test_prepare.py",
    "data/builtin": "unit/data/test_prepare.py",
    "data/cache": "unit/data/test_prepare.py",
    "data/documents": "unit/data/test_encodings.py",
    "data/encoding_pool": "unit/data/test_prepare.py",
    "data/hub": "unit/data/test_prepare.py",
    "data/jsonrows": "unit/data/test_malformed.py",
    "data/prompts": "unit/cli/test_prompts.py",
    "data/sources": "unit/data/test_encodings.py",
    "data/streams": "unit/data/test_malformed.py",
    "data/tables": "unit/data/test_malformed.py",
    "dist": "unit/engine/test_checkpoint_ranks.py",
    "engine/checkpoint_plan": "unit/engine/test_checkpoint_ranks.py",
    "engine/checkpoint_retention": "unit/engine/test_checkpoint.py",
    "engine/checkpoint_write": "unit/engine/test_checkpoint.py",
    "launch/rank": "unit/launch/test_judge.py",
    "recipe/check": "recipes/test_corpus.py",
    "recipe/foreign": "unit/recipe/test_suggest.py",
    "recipe/interpolate": "unit/recipe/test_compose.py",
    "recipe/layers": "unit/recipe/test_suggest.py",
    "recipe/loading": "recipes/test_corpus.py",
    "recipe/masking": "unit/recipe/test_resolved.py",
    "recipe/nodes": "unit/recipe/test_places.py",
    "recipe/reference": "recipes/test_corpus.py",
    "recipe/rules": "recipes/test_corpus.py",
    "recipe/schema": "unit/recipe/test_jsonschema.py",
    "recipe/types": "unit/recipe/test_compose.py",
    "recipe/wording": "recipes/test_corpus.py",
    "record/checkpoints": "torture/test_corruption.py",
    "record/index": "unit/record/test_folder.py",
    "record/lock": "unit/record/test_folder.py",
}
"""Modules without a test file of their own, and the file that reaches them through their caller."""

UNTESTED = (
    "engine/events",
    "engine/executor",
    "engine/state",
    "model/scoring",
    "objectives/base",
    "optim/lion",
    "optim/optimizers",
    "parallel/apply",
    "parallel/stage",
    "run/assembly",
    "run/baselines",
    "run/evaluating",
    "run/finish",
    "run/header",
    "run/machine",
    "run/speaking",
    "run/training",
    "run/vocabulary",
)
"""Modules that no test names yet; only ever shorter."""


def name_of(module: Path) -> str:
    return module.relative_to(PACKAGE).with_suffix("").as_posix()


def trees() -> list[tuple[str, ast.Module]]:
    return [(name_of(module), ast.parse(module.read_text(encoding="utf-8"))) for module in MODULES]


def test_modules_and_functions_are_short() -> None:
    long = [f"{name_of(m)}: {n} lines" for m in MODULES if (n := len(m.read_text("utf-8").splitlines())) > 500]
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or 0) - node.lineno + 1
                if size > 60:
                    long.append(f"{name}.{node.name}: {size} lines")
    assert not long


def test_attributes_are_not_probed() -> None:
    calls = [
        f"{name}:{node.lineno}"
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in PROBES
    ]
    lines = sum(len(module.read_text("utf-8").splitlines()) for module in MODULES)
    assert len(calls) < lines / 1000, calls


FORBIDDEN = re.compile(
    r"\b(import pickle|from pickle|torch\.load\(|(?<![\w.])eval\(|(?<![\w.])exec\(|os\.system\(|shell=True)"
)


def test_nothing_runs_code_it_was_not_given() -> None:
    found = [
        f"{name_of(module)}:{number}: {line.strip()}"
        for module in MODULES
        for number, line in enumerate(module.read_text("utf-8").splitlines(), 1)
        if FORBIDDEN.search(line)
    ]
    assert not found


def test_only_the_command_line_ends_the_process() -> None:
    ends = {
        name
        for name, tree in trees()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and node.id == "SystemExit")
        or (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and (node.value.id, node.attr) == ("sys", "exit")
        )
    }
    assert {name for name in ends if not name.startswith("cli/")} <= {"errors", "__main__"}


@pytest.mark.parametrize("folder", ["llmtrain", "recipes", "docs", "scripts", "tests"])
def test_no_file_knows_one_machine(folder: str) -> None:
    own = re.compile(r"/(?:home|root|Users|work)/[a-z]")
    found = [
        f"{file.relative_to(ROOT)}: {match[0]}"
        for file in (ROOT / folder).rglob("*")
        if file.is_file()
        and file.suffix in (".py", ".md", ".yaml", ".txt", ".sh", "")
        and "__pycache__" not in file.parts
        if (match := own.search(file.read_text("utf-8", errors="replace")))
        if file != Path(__file__).resolve()
    ]
    assert not found


def test_every_module_is_tested() -> None:
    missing = []
    for module in MODULES:
        if module.name in ("__init__.py", "__main__.py"):
            continue
        name = name_of(module)
        mirror = ROOT / "tests" / "unit" / module.relative_to(PACKAGE).with_name(f"test_{module.name}")
        through = ROOT / "tests" / TESTED_THROUGH.get(name, "absent")
        if not mirror.is_file() and not through.is_file() and name not in UNTESTED:
            missing.append(name)
    assert not missing, "a module needs tests/unit/<package>/test_<module>.py, or a line in TESTED_THROUGH"


def test_the_list_of_detours_has_no_idle_line() -> None:
    assert {name for name in TESTED_THROUGH if not (PACKAGE / f"{name}.py").is_file()} == set()
