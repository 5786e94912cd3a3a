"""Every malformed recipe is refused with its true place; every valid look-alike composes."""

import subprocess
import sys
from pathlib import Path

import pytest

from llmtrain.errors import Exit, Failure, headline, render
from llmtrain.recipe.compose import Composed, compose
from tests.recipes.corpus import MALFORMED, VALID, Case, Valid


def write(folder: Path, text: str | bytes) -> str:
    file = folder / "recipe.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)


def refused(folder: Path, case: Case) -> Failure:
    with pytest.raises(Failure) as caught:
        compose(
            write(folder, case.text),
            overrides=case.arguments,
            run_mode=None if "run_mode" in str(case.text) else "train",
        )
    return caught.value


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: f"{case.id}-{case.key or case.line}")
def test_malformed(tmp_path: Path, case: Case) -> None:
    failure = refused(tmp_path, case)
    problem = failure.problems[0]
    shown = render(problem)
    assert (problem.id, failure.exit_code) == (case.id, Exit.INPUT), shown
    if case.arguments:
        assert problem.place.line is None or case.id.startswith(("E-PLAN", "E-RECIPE-006")), shown
    if case.line is not None:
        assert problem.place.line == case.line, shown
    if case.column is not None:
        assert problem.place.column == case.column, shown
    if case.key is not None:
        assert problem.key == case.key, shown
    assert case.says in problem.message, shown
    assert case.hint in (problem.hint or ""), shown
    for found in failure.problems:
        message = headline(found).replace(str(tmp_path), "")
        assert len(message) <= 240, message
        assert "\n" not in message
        assert "Error" not in message
        assert "class" not in found.message
    assert [file.name for file in tmp_path.iterdir()] == ["recipe.yaml"]


def value_at(composed: Composed, path: tuple[str | int, ...]) -> object:
    node: object = composed.recipe
    for part in path:
        listed = isinstance(node, dict | list)
        node = node[part] if listed else node.__dict__["async_" if part == "async" else part]  # type: ignore[index]
    return node


@pytest.mark.parametrize("valid", VALID, ids=lambda valid: ".".join(map(str, valid.path)))
def test_valid(tmp_path: Path, valid: Valid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTRAIN_TEST_SEED", "7")
    composed = compose(write(tmp_path, valid.text), overrides=valid.arguments, run_mode="train")
    found = value_at(composed, valid.path)
    assert (type(found), found) == (type(valid.value), valid.value)


def test_the_corpus_is_large_enough() -> None:
    assert len(MALFORMED) >= 200
    assert len(VALID) >= 50


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    text = "run: {sed: 1}\nbatch: {global_size: 0}\nlr: 1\nmodel: {name: off}\n"
    with pytest.raises(Failure) as caught:
        compose(write(tmp_path, text), overrides=["run.seed=x", "nope=1"])
    found = [(problem.place.line, problem.key) for problem in caught.value.problems]
    assert found == [(1, "run.sed"), (2, "batch.global_size"), (3, "lr"), (4, "model.name"), (None, "nope"),
                     (None, "run.seed")]  # fmt: skip


def test_nothing_composed_imports_torch(tmp_path: Path) -> None:
    write(tmp_path, BASE_WITH_ENV)
    code = f"""
import sys
from llmtrain.recipe.catalog import shipped
from llmtrain.recipe.compose import compose
from llmtrain.recipe.jsonschema import json_schema
from llmtrain.recipe.reference import key_reference
from llmtrain.recipe.resolved import write_resolved
for recipe in shipped():
    write_resolved(compose(recipe.name))
compose({str(tmp_path / "recipe.yaml")!r})
json_schema()
key_reference("optimizer.lr")
heavy = {{"torch", "transformers", "safetensors", "numpy", "pydantic", "typer", "rich"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


BASE_WITH_ENV = "model: {name: a}\ndata: {train: a}\nbudget: {steps: 1}\nrun: {name: '${oc.env:HOME}'}\n"
