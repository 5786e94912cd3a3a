"""Help texts against their golden files; LLMTRAIN_REGENERATE=1 writes them anew."""

import os
from pathlib import Path

import pytest

from llmtrain.cli.app import main

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "help"
COMMANDS = (
    "",
    "train",
    "evaluate",
    "predict",
    "run",
    "check",
    "plan",
    "recipes",
    "init",
    "schema",
    "doctor",
    "runs",
    "runs list",
    "runs show",
    "runs logs",
    "checkpoint",
    "checkpoint list",
    "checkpoint verify",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main([*command.split(), "--help"]) == 0
    out, err = capsys.readouterr()
    file = GOLDEN / f"{command.replace(' ', '-') or 'llmtrain'}.txt"
    if os.environ.get("LLMTRAIN_REGENERATE") == "1":
        file.write_text(out, encoding="utf-8")
    assert err == ""
    assert out == file.read_text(encoding="utf-8")


def test_no_golden_file_is_left_over() -> None:
    expected = {f"{command.replace(' ', '-') or 'llmtrain'}.txt" for command in COMMANDS}
    assert {file.name for file in GOLDEN.iterdir()} == expected


def test_no_words_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("Usage: llmtrain ")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "llmtrain 0.1.0\n"
