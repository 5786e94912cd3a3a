"""Runs and checkpoints as lists and as JSON."""

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from llmtrain.cli.app import main
from llmtrain.cli.management import age


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A finished run under ./runs."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/260101-120000-x")
    (folder / "logs").mkdir(parents=True)
    status = {
        "id": folder.name,
        "mode": "train",
        "state": "done",
        "step": 12,
        "started": 1.0,
        "updated": time.time() - 7200,
    }
    (folder / "run.json").write_text(json.dumps(status))
    (folder / "result.json").write_text(json.dumps({"train": {"loss": 2.123456}, "steps": 12, "best": None}))
    (folder / "logs" / "rank_0.log").write_text("line one\nline two\n")
    return folder


def test_list(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "id               mode   state  step  loss    age",
        "260101-120000-x  train  done   12    2.1235  2 h",
    ]


def test_list_as_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert [(row["id"], row["state"], row["step"], row["loss"]) for row in rows] == [(run.name, "done", 12, 2.123456)]


def test_list_of_nothing_is_empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["runs", "list"]) == 0
    assert main(["runs", "list", "elsewhere"]) == 2


def test_show(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "show"]) == 0
    shown = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert (shown["state"], shown["steps"], shown["train.loss"]) == ("done", "12", "2.123456")
    assert "go" not in shown


def test_show_tells_how_to_go_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**status, "state": "stopped"}))
    assert main(["runs", "show", run.name]) == 0
    assert capsys.readouterr().out.endswith(f"go on: llmtrain train {run}/recipe.yaml --resume {run}\n")


def test_a_run_whose_process_is_gone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    status = json.loads((run / "run.json").read_text()) | {"state": "running", "host": socket.gethostname()}
    for pid, text in ((ended.pid, "running (process gone)"), (os.getpid(), "running  ")):
        (run / "run.json").write_text(json.dumps({**status, "pid": pid}))
        assert main(["runs", "list"]) == 0
        assert f"train  {text}" in capsys.readouterr().out
    assert main(["runs", "show"]) == 0
    assert "checkpoint  none" in capsys.readouterr().out


def test_logs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "logs", str(run)]) == 0
    assert capsys.readouterr().out == "line one\nline two\n"
    assert main(["runs", "logs", "--follow"]) == 0
    (run / "logs" / "rank_0.log").unlink()
    assert main(["runs", "logs"]) == 2


@pytest.mark.parametrize("line", ["runs show nope", "runs logs nope", "checkpoint list nope", "checkpoint verify nope"])
def test_unknown_runs(run: Path, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert 'no run "nope"' in capsys.readouterr().err


def test_checkpoints_of_a_run_without_any(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "list"]) == 0
    assert main(["checkpoint", "verify"]) == 4
    assert "[E-CKPT-004]" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = run / "checkpoints" / "step-00000012"
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("{")
    assert main(["checkpoint", "verify"]) == 4
    assert capsys.readouterr().out.startswith("step-00000012  damaged: ")
    assert main(["checkpoint", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoints"][0]["step"] == 12


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (61, "1 min"), (7200, "2 h"), (200_000, "2 d")]
)
def test_age(seconds: float, text: str) -> None:
    assert age(time.time() - seconds - 0.5) == text
