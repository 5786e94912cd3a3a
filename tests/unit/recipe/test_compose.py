"""Layers, origins, permission to run code, secrets; the corpus in tests/recipes covers what is refused."""

import sys
from pathlib import Path
from typing import Any

import pytest

from llmtrain.errors import Failure, render
from llmtrain.recipe import slots
from llmtrain.recipe.compose import Composed, compose
from llmtrain.recipe.resolved import write_resolved
from llmtrain.recipe.types import key_paths

BASE = "model: {name: m}\ndata: {train: a.txt}\nbudget: {steps: 10}\n"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "recipe.yaml"


def origin(composed: Composed, *path: str | int) -> str:
    return str(composed.origins[path])


def first(recipe: str | None, **more: Any) -> str:
    with pytest.raises(Failure) as caught:
        compose(recipe, **more)
    return caught.value.problems[0].id


def test_layers_win_in_order(recipe: Path) -> None:
    Path("one.yaml").write_text("run: {name: one, root: one, seed: 1}\nbatch: {global_size: 1}\nlog: {every: 1}\n")
    Path("two.yaml").write_text("run: {name: two, root: two}\nbatch: {global_size: 2}\n")
    Path("late.yaml").write_text("run: {name: late}\ndata: {seq_len: 128}\n")
    recipe.write_text("extends: [one, two.yaml]\nrun: {name: own}\n" + BASE)
    composed = compose("recipe.yaml", configs=["late.yaml"], overrides=["data.seq_len=64", "budget.steps=5"],
                       shortcuts={"--steps=budget.steps": "7"}, run_mode="train")  # fmt: skip
    got = composed.recipe
    assert (got.run.name, got.run.root, got.run.seed, got.batch.global_size) == ("late", "two", 1, 2)
    assert (got.data.seq_len, got.budget.steps, got.log.every) == (64, 7, 1)
    assert origin(composed, "run", "name") == "late.yaml:1"
    assert origin(composed, "run", "root") == "two.yaml:1"
    assert origin(composed, "log", "every") == "one.yaml:3"
    assert origin(composed, "model", "name") == "recipe.yaml:3"
    assert origin(composed, "data", "seq_len") == "command line"
    assert origin(composed, "budget", "steps") == "--steps"
    assert origin(composed, "run", "device") == "default"
    assert origin(composed, "run_mode") == "command line"


def test_extends_is_relative_to_its_file_and_may_be_nested(recipe: Path) -> None:
    Path("bases/deep").mkdir(parents=True)
    Path("bases/deep/inner.yaml").write_text("run: {seed: 5}\n")
    Path("bases/outer.yaml").write_text("extends: deep/inner\nbatch: {global_size: 3}\n")
    recipe.write_text("extends: bases/outer\n" + BASE)
    composed = compose("recipe.yaml")
    assert (composed.recipe.run.seed, composed.recipe.batch.global_size) == (5, 3)
    assert origin(composed, "run", "seed") == "bases/deep/inner.yaml:1"
    assert list(composed.texts) == ["recipe.yaml", "bases/outer.yaml", "bases/deep/inner.yaml"]


def test_a_problem_in_a_base_names_the_base(recipe: Path) -> None:
    Path("base.yaml").write_text("run:\n  sed: 1\n")
    recipe.write_text("extends: base\n" + BASE)
    with pytest.raises(Failure) as caught:
        compose("recipe.yaml")
    assert (caught.value.problems[0].place.file, caught.value.problems[0].place.line) == ("base.yaml", 2)


def test_a_slot_that_changes_its_name_keeps_common_keys(recipe: Path) -> None:
    recipe.write_text(BASE + "optimizer: {lr: 1e-3, weight_decay: 0.2, betas: [0.8, 0.9], eps: 1e-6}\n")
    changed = compose("recipe.yaml", overrides=["optimizer.name=muon"]).recipe.optimizer
    assert (changed.name, changed.lr, changed.weight_decay) == ("muon", 1e-3, 0.2)
    assert changed.__dict__["betas"] == [0.9, 0.95]
    same = compose("recipe.yaml", overrides=["optimizer.name=adamw"]).recipe.optimizer
    assert same.__dict__["betas"] == [0.8, 0.9]
    bare = compose("recipe.yaml", overrides=["optimizer=lion", "optimizer.lr=2e-5"]).recipe.optimizer
    assert (bare.name, bare.lr, bare.__dict__["betas"]) == ("lion", 2e-5, [0.9, 0.99])


def test_lists_are_replaced_and_items_changed(recipe: Path) -> None:
    recipe.write_text("model: {name: m}\ndata: {train: [a.txt, {path: b.txt, weight: 2}]}\nbudget: {steps: 1}\n")
    composed = compose("recipe.yaml", overrides=["data.train[0].weight=5", "data.train[1].name=second"])
    assert [(s.path, s.weight, s.name) for s in composed.recipe.data.train] == [
        ("a.txt", 5, None), ("b.txt", 2, "second"),
    ]  # fmt: skip
    assert origin(composed, "data", "train", 0, "path") == "recipe.yaml:2"
    assert origin(composed, "data", "train", 0, "weight") == "command line"
    replaced = compose("recipe.yaml", overrides=["data.train=c.txt"]).recipe.data.train
    assert [s.path for s in replaced] == ["c.txt"]


def test_removing(recipe: Path) -> None:
    recipe.write_text(BASE + "run: {seed: 5}\n")
    assert compose("recipe.yaml", overrides=["~run.seed"]).recipe.run.seed == 42
    assert first("recipe.yaml", overrides=["~budget"]) == "E-PLAN-005"


def test_without_a_file() -> None:
    composed = compose(None, overrides=["model.name=m", "data.train=a", "budget.epochs=1"], run_mode="train")
    assert (composed.name, composed.file, composed.recipe.budget.epochs) == ("train", None, 1.0)


def test_names(recipe: Path) -> None:
    recipe.write_text(BASE)
    assert compose("recipe.yaml").name == "recipe"
    assert compose("recipe.yaml", overrides=["run.name=mine"]).name == "mine"
    assert compose("demo").shown == "train/demo.yaml"


@pytest.mark.parametrize(
    ("text", "more", "refused"),
    [
        ("", {}, True),
        ("allow_code: true\n", {}, False),
        ("allow_code: false\n", {}, True),
        ("", {"allow_code": True}, False),
        ("", {"overrides": ["allow_code=true"]}, False),
        ("extends: permits\n", {}, True),
        ("", {"configs": ["permits.yaml"]}, True),
        ("allow_code: true\n", {"configs": ["names.yaml"]}, False),
    ],
)
def test_code_needs_permission(recipe: Path, text: str, more: dict[str, Any], refused: bool) -> None:
    Path("permits.yaml").write_text("allow_code: true\n")
    Path("names.yaml").write_text("plugins: [json]\n")
    recipe.write_text(text + BASE.replace("{name: m}", '{factory: "a.b:c"}') + "tokenizer: {name: t}\n")
    if refused:
        assert first("recipe.yaml", **more) == "E-SEC-002"
    else:
        assert compose("recipe.yaml", **more).code[0].value == "a.b:c"


def test_permission_from_another_file_is_not_even_recorded(recipe: Path) -> None:
    Path("permits.yaml").write_text("allow_code: true\n")
    recipe.write_text("extends: permits\n" + BASE)
    assert not compose("recipe.yaml", configs=["permits.yaml"]).recipe.allow_code
    recipe.write_text("allow_code: true\n" + BASE)
    Path("forbids.yaml").write_text("allow_code: false\n")
    composed = compose("recipe.yaml", configs=["forbids.yaml"])
    assert (composed.recipe.allow_code, str(composed.origins[("allow_code",)])) == (True, "recipe.yaml:1")


def test_code_on_the_command_line_is_the_users_word(recipe: Path) -> None:
    recipe.write_text(BASE)
    composed = compose("recipe.yaml", overrides=["optimizer={name: custom, class: a.b:C}", "plugins=[json]"])
    assert {named.path: named.value for named in composed.code} == {
        ("plugins",): "json", ("optimizer", "class"): "a.b:C",
    }  # fmt: skip


def test_plugins_are_imported_only_on_request(recipe: Path) -> None:
    Path("my_plugin_of_a_test.py").write_text(
        "from dataclasses import dataclass\n"
        "from llmtrain.recipe.slots import ScheduleConfig, register\n"
        "@register(ScheduleConfig, 'zigzag')\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class ZigzagConfig(ScheduleConfig):\n"
        "    height: float = 1.0\n"
    )
    sys.path.insert(0, str(recipe.parent))
    try:
        recipe.write_text("plugins: [my_plugin_of_a_test]\nschedule: {name: zigzag, height: 2}\n" + BASE)
        assert first("recipe.yaml", import_plugins=True) == "E-SEC-002"
        assert "my_plugin_of_a_test" not in sys.modules
        assert first("recipe.yaml", allow_code=True) == "E-RECIPE-010"
        composed = compose("recipe.yaml", allow_code=True, import_plugins=True)
        assert composed.recipe.schedule.__dict__["height"] == 2.0
        recipe.write_text("plugins: [no_such_module_anywhere]\n" + BASE)
        assert first("recipe.yaml", allow_code=True, import_plugins=True) == "E-ENV-001"
    finally:
        sys.path.remove(str(recipe.parent))
        slots.slot_table("schedule").pop("zigzag", None)


def test_a_value_from_the_environment_is_never_shown(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_A_TEST", "canary-4711")
    recipe.write_text(
        BASE + 'run: {seed: "${oc.env:SECRET_OF_A_TEST}", device: "${oc.env:SECRET_OF_A_TEST}"}\n'
        'precision: {compute: "${oc.env:SECRET_OF_A_TEST}"}\noptimizer: {name: "${oc.env:SECRET_OF_A_TEST}"}\n'
        'checkpoint: {every: "${oc.env:SECRET_OF_A_TEST}"}\nlog: {to: "${oc.env:SECRET_OF_A_TEST}"}\n'
    )
    with pytest.raises(Failure) as caught:
        compose("recipe.yaml")
    shown = "\n".join(render(problem) for problem in caught.value.problems)
    assert len(caught.value.problems) == 5
    assert "canary-4711" not in shown
    assert "${oc.env:SECRET_OF_A_TEST}" in shown


def test_paths_from_the_environment(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDER_OF_A_TEST", "/there")
    recipe.write_text(
        'model: {name: m}\nbudget: {steps: 1}\ndata:\n  train: "${oc.env:FOLDER_OF_A_TEST}/a.txt"\n'
        '  eval: ["${oc.env:FOLDER_OF_A_TEST}/b.txt", {path: "${oc.env:FOLDER_OF_A_TEST}/c.txt"}]\n'
    )
    composed = compose("recipe.yaml")
    assert [source.path for source in composed.recipe.data.train] == ["/there/a.txt"]
    assert [source.path for source in composed.recipe.data.eval] == ["/there/b.txt", "/there/c.txt"]
    again = recipe.parent / "again.yaml"
    again.write_text(write_resolved(composed))
    assert "/there" not in again.read_text()
    assert compose(str(again)).recipe == composed.recipe
    typed = compose("recipe.yaml", overrides=["data.train=${oc.env:FOLDER_OF_A_TEST}/d.txt"])
    assert typed.recipe.data.train[0].path == "/there/d.txt"


def test_literal_secrets_are_masked_in_excerpts(recipe: Path) -> None:
    recipe.write_text(BASE + "model2: {api_key: canary-4711, path: 'https://me:canary-4711@host/x'}\n")
    with pytest.raises(Failure) as caught:
        compose("recipe.yaml")
    assert "canary-4711" not in "\n".join(render(problem) for problem in caught.value.problems)


def test_every_key_has_an_origin_and_a_value() -> None:
    composed = compose("demo")
    for path in key_paths():
        parts = tuple(path.split("."))
        if parts[0] in ("objective", "optimizer", "schedule") or parts[:2] in (("data", "train"), ("data", "eval")):
            continue
        if parts[0] == "tests":
            continue
        assert parts in composed.origins, path
    assert set(composed.tree) == {path for path in key_paths() if "." not in path}
