"""Verbs that look: check, plan, recipes, init, schema."""

import json
from pathlib import Path

import pytest

from llmtrain.cli.app import main


def test_check_says_valid(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "demo"]) == 0
    assert capsys.readouterr() == ("train/demo.yaml: valid\n", "")


def test_check_takes_several_recipes_and_reports_all_problems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("extends: [train/demo]\noptimizer: {lrr: 3}\n")
    assert main(["check", "demo", str(bad), "budget.steps=zero"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("[E-RECIPE-001]") == 1
    assert err.count("[E-RECIPE-004]") == 2
    assert err.splitlines()[-1] == "3 problems; nothing was started"


def test_check_names_files_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("text")
    sources = ["a.txt", "'*.txt'", "gone.jsonl", "some/hub-name", "'*.md'"]
    lines = "".join(f"    - {source}\n" for source in sources)
    Path("r.yaml").write_text(f"extends: [train/demo]\ndata:\n  train:\n{lines}")
    assert main(["check", "r.yaml"]) == 2
    found = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert found == [
        'error: r.yaml:6:7: data.train[2].path: "gone.jsonl" does not exist [E-DATA-007]',
        'error: r.yaml:8:7: data.train[4].path: "*.md" does not exist [E-DATA-007]',
    ]


def test_check_shows_origins(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "demo", "--origin", "--lr", "3e-4"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("lr:"))
    assert line.split("#")[1].strip() == "--lr"


def test_check_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "demo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"valid": True, "recipes": ["train/demo.yaml"]}


def test_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "demo", "--world", "2", "--json", "--steps", "7"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["world"], plan["total_steps"]) == (2, 7)
    assert main(["plan", "demo", "--nproc", "3", "parallel.dp_shard=2"]) == 2
    assert "[E-PLAN-003]" in capsys.readouterr().err


def test_dry_run_prints_recipe_and_plan(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", "demo", "--dry-run", "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert f"dir: {tmp_path / 'run'}" in out
    assert "# world            1\n" in out
    assert not (tmp_path / "run").exists()


def test_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert "train/demo" in listed
    for name in listed:
        assert main(["recipes", name]) == 0
    assert main(["recipes", "dmo"]) == 2
    assert "did you mean `demo`?" in capsys.readouterr().err


def test_init_copies_a_recipe_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mine.yaml"
    assert main(["init", "demo", str(target)]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    assert json.loads((tmp_path / ".llmtrain.schema.json").read_text())["$schema"].endswith("2020-12/schema")
    assert main(["check", str(target)]) == 0
    target.write_text("changed")
    assert main(["init", "demo", str(target)]) == 2
    assert target.read_text() == "changed"


def test_init_into_a_folder_and_into_nowhere(tmp_path: Path) -> None:
    assert main(["init", "train/demo", str(tmp_path)]) == 0
    assert (tmp_path / "demo.yaml").exists()
    assert main(["init", "demo", str(tmp_path / "no" / "x.yaml")]) == 2
    assert not (tmp_path / "no").exists()


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert main(["schema", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == whole
    assert main(["schema", "batch.global_size"]) == 0
    assert "Rows of an optimizer step over all ranks." in capsys.readouterr().out
    assert main(["schema", "batch.globalsize"]) == 2
