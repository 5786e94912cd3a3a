"""Verbs that run: what they hand over, what they print, how they end; the run itself is a stand-in."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmtrain import run as runs
from llmtrain.cli import ending
from llmtrain.cli.app import main
from llmtrain.engine.events import EventBus, RunEnd, RunStart, StepEnd
from llmtrain.errors import fail

Body = Callable[[Any, Any, EventBus], Mapping[str, Any]]


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, Body], list[Any]]:
    """Replace a run mode; returns the list of what it was called with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(ending, "crash_folder", [])

    def replace(mode: str, body: Body) -> list[Any]:
        seen: list[Any] = []

        def call(composed: Any, options: Any, bus: EventBus) -> Mapping[str, Any]:
            seen.append((composed, options))
            return body(composed, options, bus)

        monkeypatch.setattr(runs, mode, call)
        return seen

    return replace


def trains(composed: Any, options: Any, bus: EventBus) -> Mapping[str, Any]:
    bus.emit(RunStart(header={"model": "tiny"}, start_step=0, total_steps=2))
    bus.emit(StepEnd(step=2, values={"loss": 1.5}, log=True))
    result = {"state": "done", "loss": 1.5, "bad": float("inf")}
    bus.emit(RunEnd(result=result, summary={"loss": "1.5"}))
    return result


def test_train_prints_to_stderr_only(bodies: Any, capsys: pytest.CaptureFixture[str]) -> None:
    seen = bodies("train", trains)
    assert main(["train", "demo", "--lr", "3e-4", "--nproc", "1"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "llmtrain 0.1.0  train  train/demo.yaml  seed 42", "  model  tiny", "step 2/2 loss=1.5", "  loss  1.5",
    ]  # fmt: skip
    composed, options = seen[0]
    assert (composed.recipe.run_mode, composed.recipe.optimizer.lr) == ("train", 3e-4)
    assert options.command == ("train", "demo", "--lr", "3e-4", "--nproc", "1")
    assert (options.resume, options.verify, options.allow_change) == (None, "full", ())


def test_json_is_the_only_thing_on_stdout(bodies: Any, capsys: pytest.CaptureFixture[str]) -> None:
    bodies("train", trains)
    assert main(["train", "demo", "--json", "--quiet", "--nproc", "1"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"state": "done", "loss": 1.5, "bad": None}
    assert err == ""


def test_resume_options_arrive(bodies: Any) -> None:
    seen = bodies("train", trains)
    line = "train demo --nproc 1 --resume --verify sample --allow-change run.seed --allow-change data.seed"
    assert main(line.split()) == 0
    options = seen[0][1]
    assert (options.resume, options.verify, options.allow_change) == ("auto", "sample", ("run.seed", "data.seed"))


def test_a_stopped_run_ends_with_75(bodies: Any) -> None:
    bodies("train", lambda *_: {"state": "stopped"})
    assert main(["train", "demo", "--nproc", "1"]) == 75


def test_missed_tests_of_a_recipe_end_with_their_code(bodies: Any) -> None:
    bodies("train", lambda *_: {"state": "done", "exit_code": 3})
    assert main(["train", "demo", "--nproc", "1"]) == 3


def test_a_failing_run_says_why(bodies: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def breaks(*_: Any) -> Mapping[str, Any]:
        raise fail("E-RUN-001", "step 3: loss is not finite")

    bodies("train", breaks)
    assert main(["train", "demo", "--nproc", "1", "--json"]) == 3
    assert capsys.readouterr() == ("", "error: step 3: loss is not finite [E-RUN-001]\n")


def test_a_crash_file_goes_into_the_run_folder(bodies: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()

    def breaks(composed: Any, options: Any, bus: EventBus) -> Mapping[str, Any]:
        bus.emit(RunStart(header={}, start_step=0, total_steps=2, folder=str(folder)))
        raise ZeroDivisionError("oops")

    bodies("train", breaks)
    assert main(["train", "demo", "--nproc", "1", "--quiet"]) == 1
    [file] = folder.glob("crash-*.txt")
    assert str(file) in capsys.readouterr().err
    assert list(tmp_path.glob("crash-*")) == []


def test_ranks_that_crash_together_write_a_file_each(
    bodies: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def breaks(composed: Any, options: Any, bus: EventBus) -> Mapping[str, Any]:
        bus.emit(RunStart(header={}, start_step=0, total_steps=2, folder=str(tmp_path)))
        raise ZeroDivisionError("oops")

    monkeypatch.setenv("WORLD_SIZE", "2")
    bodies("train", breaks)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert main(["train", "demo"]) == 1
    assert [file.name.endswith("-rank1.txt") for file in sorted(tmp_path.glob("crash-*.txt"))] in (
        [True, False],
        [False, True],
    )


def test_evaluate_prints_a_table(bodies: Any, capsys: pytest.CaptureFixture[str]) -> None:
    seen = bodies("evaluate", lambda *_: {"state": "done", "eval_loss": 2.5, "model": "m"})
    assert main(["evaluate", "demo", "--nproc", "1", "--model", "m", "model.config=null"]) == 0
    assert capsys.readouterr().out == "eval_loss  2.5\n"
    assert seen[0][0].recipe.run_mode == "evaluate"


def test_evaluating_a_run_takes_its_recipe_and_its_model(bodies: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from llmtrain.recipe.compose import compose
    from llmtrain.recipe.resolved import write_resolved

    folder = Path("runs/260101-000000-x")
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"id": folder.name, "state": "done", "started": 1.0}))
    trained = compose("demo", overrides=["data.seq_len=77"], run_mode="train")
    (folder / "recipe.resolved.yaml").write_text(write_resolved(trained))
    seen = bodies("evaluate", lambda *_: {"eval_loss": 1.0})
    assert main(["evaluate", "--run", "latest", "--nproc", "1", "evaluate.batch_size=3"]) == 0
    recipe = seen[0][0].recipe
    assert (recipe.model.name, recipe.model.config, recipe.tokenizer.train) == (str(folder), None, None)
    assert (recipe.data.seq_len, recipe.evaluate.batch_size, recipe.run_mode) == (77, 3, "evaluate")


def test_run_does_what_the_recipe_says(bodies: Any) -> None:
    seen = bodies("evaluate", lambda *_: {"eval_loss": 1.0})
    Path("r.yaml").write_text("extends: [train/demo]\nrun_mode: evaluate\nmodel: {name: m, config: null}\n")
    assert main(["run", "r.yaml", "launch.nproc=1"]) == 0
    assert len(seen) == 1


@pytest.mark.parametrize(("nproc", "world", "launched"), [("2", None, True), ("2", "2", False), ("1", None, False)])
def test_ranks_are_started_unless_someone_did(
    bodies: Any, monkeypatch: pytest.MonkeyPatch, nproc: str, world: str | None, launched: bool
) -> None:
    from llmtrain.launch import local

    calls: list[Any] = []

    def launch(words: Any, *, nproc: int, timeout: int, grace: int) -> int:
        calls.append((tuple(words), nproc, timeout, grace))
        return 75

    monkeypatch.setattr(local, "launch", launch)
    if world:
        monkeypatch.setenv("WORLD_SIZE", world)
    seen = bodies("train", trains)
    line = ["train", "demo", "--nproc", nproc, "launch.grace=9", "run.name=a b"]
    assert main(line) == (75 if launched else 0)
    assert calls == ([(tuple(line), 2, 600, 9)] if launched else [])
    assert len(seen) == (0 if launched else 1)


def test_only_the_first_rank_prints(
    bodies: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    bodies("train", trains)
    assert main(["train", "demo", "--json"]) == 0
    assert capsys.readouterr() == ("", "")
