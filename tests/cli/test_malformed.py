"""Command lines that are wrong: exit code 2, one line with its id, nothing on stdout, nothing written."""

import json
from pathlib import Path

import pytest

from llmtrain.cli.app import main

# words, id, text of the message, text of the hint
WRONG: list[tuple[list[str], str, str, str | None]] = [
    (["trian"], "E-CLI-001", "no such command 'trian'", "did you mean `train`?"),
    (["frobnicate"], "E-CLI-001", "no such command 'frobnicate'", None),
    (["--foo"], "E-CLI-001", "no such option: --foo", None),
    (["runs"], "E-CLI-001", "missing command", None),
    (["runs", "lst"], "E-CLI-001", "no such command 'lst'", "did you mean `list`?"),
    (["checkpoint", "verfy"], "E-CLI-001", "no such command 'verfy'", "did you mean `verify`?"),
    (["train"], "E-CLI-001", "train: RECIPE is missing", "llmtrain recipes"),
    (["train", "optimizer.lr=1"], "E-CLI-001", "train: RECIPE is missing", None),
    (["train", "demo", "demo"], "E-CLI-003", '"demo" is not KEY=VALUE', None),
    (["train", "demo", "lr", "=", "3"], "E-CLI-003", '"lr" is not KEY=VALUE', None),
    (["train", "demo", "--lr"], "E-CLI-001", "'--lr' requires an argument", None),
    (["train", "demo", "--stepss", "3"], "E-CLI-001", "no such option: --stepss", "did you mean `--steps`?"),
    (
        ["train", "demo", "--batch_size", "3"],
        "E-CLI-001",
        "no such option: --batch_size",
        "did you mean `--batch-size`?",
    ),
    (["train", "demo", "--optimizer.lr", "3"], "E-CLI-001", "no such option", "`optimizer.lr=VALUE`"),
    (["train", "demo", "--dry-run=yes"], "E-CLI-001", "--dry-run", None),
    (["train", "demo", "--verify", "all", "--resume"], "E-CLI-001", '--verify: "all" is not sample', None),
    (["train", "demo", "--verify", "sample"], "E-CLI-004", "need --resume", None),
    (["train", "demo", "--allow-change", "run.seed"], "E-CLI-004", "need --resume", None),
    (["train", "demo", "--error-format", "xml"], "E-CLI-001", '"xml" is not text or json', None),
    (["train", "demo", "--nproc", "many"], "E-RECIPE-004", "many", None),
    (["train", "demo", "--nproc", "0"], "E-RECIPE-005", "0", None),
    (["train", "demo", "--steps", "3.5"], "E-RECIPE-004", "3.5", None),
    (["train", "demo", "--lr", "fast"], "E-RECIPE-004", '"fast"', None),
    (
        ["train", "demo", "optimizer.lrr=1"],
        "E-CLI-002",
        "unknown key on the command line",
        "did you mean `optimizer.lr`?",
    ),
    (["train", "demo", "--config", "gone.yaml"], "E-FILE-001", "gone.yaml", None),
    (["train", "dmo"], "E-RECIPE-018", '"dmo"', "did you mean `demo`?"),
    (["train", "gone.yaml"], "E-FILE-001", "gone.yaml", None),
    (["train", "\x1b[31mx"], "E-RECIPE-018", "\\x1b[31mx", None),
    (["evaluate", "--run", "gone"], "E-CLI-005", '"gone"', None),
    (["evaluate", "--run", "a", "--model", "b"], "E-CLI-004", "give one", None),
    (["evaluate", "demo", "--resume"], "E-CLI-001", "no such option", None),
    (["run", "predict/text", "--resume"], "E-CLI-004", "predict", None),
    (["predict"], "E-CLI-005", "no finished run", "llmtrain train demo"),
    (["check"], "E-CLI-001", "check: RECIPE is missing", None),
    (["plan", "demo", "--world", "0"], "E-CLI-001", '"0" is not a whole number of at least 1', None),
    (["plan", "demo", "--world", "-1"], "E-CLI-001", '"-1" is not', None),
    (["plan", "demo", "--world", "²"], "E-CLI-001", '"²" is not', None),
    (["plan", "evaluate/loss"], "E-CLI-004", "run_mode is evaluate", None),
    (["recipes", "a", "b"], "E-CLI-001", "at most one NAME", None),
    (["init"], "E-CLI-001", "NAME [PATH] expected", None),
    (["schema", "optimizer.lrr"], "E-CLI-002", '"optimizer.lrr"', "did you mean `optimizer.lr`?"),
    (["schema", "a", "b"], "E-CLI-001", "at most one KEY", None),
    (["doctor", "please"], "E-CLI-001", 'unexpected word "please"', None),
    (["runs", "show", "gone"], "E-CLI-005", '"gone"', "llmtrain runs list"),
    (["runs", "show", "a", "b"], "E-CLI-001", "at most one RUN", None),
    (["checkpoint", "verify", "gone"], "E-CLI-005", '"gone"', None),
]


@pytest.mark.parametrize(("words", "id", "message", "hint"), WRONG, ids=[" ".join(case[0])[:40] for case in WRONG])
def test_wrong_command_lines(
    words: list[str], id: str, message: str, hint: str | None, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    first = err.splitlines()[0]
    assert out == ""
    assert first.startswith("error: ")
    assert first.endswith(f"[{id}]")
    assert message in first
    assert len(first) <= 200
    assert "Traceback" not in err
    assert "\x1b" not in err
    if hint is not None:
        assert hint in err.split("hint: ", 1)[1]
    assert list(tmp_path.iterdir()) == []

    if "--error-format" in words:
        return
    assert main([*words[:1], "--error-format", "json", *words[1:]] if len(words) > 1 else words) == 2
    if len(words) > 1 and words[0] not in ("runs", "checkpoint"):
        told = json.loads(capsys.readouterr().err.splitlines()[0])
        assert (told["id"], told["code"]) == (id, 2)
