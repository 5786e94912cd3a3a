"""Signals end a run so that nothing is lost: the step is finished and saved, and the next start goes on from it."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from llmtrain.record import metrics
from llmtrain.record.folder import RunFolder
from tests.tiny import Tool, digest, tensors, training, until, write_recipe
from tests.torture.zygote import Run

WORDS = ("train", "t.yaml", "run.dir=run", "log.every=1", "checkpoint.every=8", "evaluate.every=1")
SLOW = "model.config.num_hidden_layers=16"
"""Makes a step long enough for a signal to hit a chosen one."""


@pytest.fixture(scope="module")
def unbroken(tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("unbroken")
    write_recipe(folder)
    tool(*WORDS, SLOW, cwd=folder)
    return digest(RunFolder.open(folder / "run"))


def at_step(run: Run, step: int) -> None:
    assert until(lambda: f"step {step}/20 " in run.stderr.read_text(), run), run.stderr.read_text()


def signalled(tool: Tool, place: Path, number: int, *words: str) -> Run:
    """A run that got the signal after its third step."""
    write_recipe(place)
    run = tool.start([*WORDS, SLOW, *words], place)
    at_step(run, 3)
    run.signal(number)
    return run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_stop_saves_and_says_how_to_go_on(tool: Tool, tmp_path: Path, unbroken: Any, number: int) -> None:
    run = signalled(tool, tmp_path, number)
    assert run.wait() == 75
    said = run.stderr.read_text()
    folder = RunFolder.open(tmp_path / "run")
    status = folder.status()
    step = status["step"]
    assert 3 <= step < 12 and status["state"] == "stopped" and status["exit_code"] == 75
    [told] = [line for line in said.splitlines() if line.startswith("  stopped")]
    assert f"by {signal.Signals(number).name}: step {step} saved" in told and "Traceback" not in said
    assert not folder.model.exists(), "a model that is not final must not look final"
    command = told.partition("continue with: llmtrain ")[2].split()
    assert command == [*WORDS, SLOW, "--resume", "run"]
    tool(*command, cwd=tmp_path)
    assert digest(folder) == unbroken


def test_the_second_interrupt_stops_at_once(tool: Tool, tmp_path: Path) -> None:
    """A step of 25 long forwards, so that the second one comes within it."""
    write_recipe(tmp_path)
    run = tool.start([*WORDS, SLOW, "batch.global_size=4000", "batch.micro_size=1"], tmp_path)
    at_step(run, 1)
    run.signal(signal.SIGINT)
    assert until(lambda: "press again" in run.stderr.read_text(), run)
    run.signal(signal.SIGINT)
    assert run.wait() == 130
    folder = RunFolder.open(tmp_path / "run")
    assert folder.status()["exit_code"] == 130 and "Traceback" not in run.stderr.read_text()
    assert [p.name for p in folder.checkpoints.iterdir() if not p.name.endswith(".tmp")] == []


def test_a_termination_before_the_first_step_is_143(tool: Tool, tmp_path: Path) -> None:
    write_recipe(tmp_path)
    words = ("evaluate.every=7", "evaluate.at_start=true", "evaluate.batch_size=1", "model.config.num_hidden_layers=99")
    run = tool.start([*WORDS, *words], tmp_path)
    assert until(training(run), run)
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert run.stderr.read_text().splitlines()[-1] == "terminated before there was anything to save"


def test_usr2_saves_and_goes_on_and_hup_is_ignored(tool: Tool, tmp_path: Path, unbroken: Any) -> None:
    run = signalled(tool, tmp_path, signal.SIGHUP, "evaluate.every=null")
    run.signal(signal.SIGUSR2)
    assert run.wait() == 0
    folder = RunFolder.open(tmp_path / "run")
    saved = [line for line in run.stderr.read_text().splitlines() if " saved " in line]
    steps = [int(line.split()[1]) for line in saved if line.startswith("step ")]
    assert len(set(steps) - {8, 16, 20}) == 1 and {8, 16, 20} <= set(steps)
    assert tensors(folder) == unbroken[0]


def test_the_deadline_of_the_job_saves_and_stops(tool: Tool, tmp_path: Path, unbroken: Any) -> None:
    write_recipe(tmp_path)
    run = tool(*WORDS, SLOW, "launch.deadline=0.1 s", cwd=tmp_path, code=75)
    assert "by launch.deadline: step " in run.stderr.read_text()
    folder = RunFolder.open(tmp_path / "run")
    stopped_at = folder.status()["step"]
    assert 1 <= stopped_at < 20
    tool(*WORDS, SLOW, "--resume", "auto", cwd=tmp_path)
    assert digest(folder) == unbroken


def test_the_time_budget_is_a_normal_end(tool: Tool, tmp_path: Path) -> None:
    write_recipe(tmp_path)
    run = tool(*WORDS, SLOW, "run.max_time=0.1 s", cwd=tmp_path)
    folder = RunFolder.open(tmp_path / "run")
    assert folder.status()["state"] == "done" and (folder.model / "model.safetensors").is_file()
    steps = [line["step"] for line in metrics.read(folder.metrics, "step")]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) < 20
    assert " stopped " not in run.stderr.read_text()


@pytest.mark.timeout(180)
def test_two_ranks_stop_as_one(tool: Tool, tmp_path: Path) -> None:
    """The launcher passes the signal on; every rank leaves after the same step, and rank 0 has saved."""
    write_recipe(tmp_path)
    words = (*WORDS, SLOW, "--nproc", "2")
    run = tool.start(words, tmp_path)
    at_step(run, 2)
    run.signal(signal.SIGTERM)
    assert run.wait() == 75, run.stderr.read_text()
    said = run.stderr.read_text()
    folder = RunFolder.open(tmp_path / "run")
    assert (
        "continue with: llmtrain train t.yaml run.dir=run" in said
        and "--resume run" in said
        and "Traceback" not in said
    )
    assert folder.status()["state"] == "stopped" and not folder.model.exists()


@pytest.mark.timeout(180)
def test_ranks_that_hear_of_the_stop_at_different_times_stop_as_one(tool: Tool, tmp_path: Path) -> None:
    """Only one rank is told; the other learns of it from the control word alone."""
    write_recipe(tmp_path)
    from tests.torture.test_resume import free_port, on_two_ranks

    first, second = on_two_ranks(tool, tmp_path, "run", free_port(), "log.every=1", SLOW)
    at_step(first, 2)
    second.signal(signal.SIGTERM)
    begun = time.monotonic()
    assert (first.wait(), second.wait()) == (75, 75), first.stderr.read_text() + second.stderr.read_text()
    assert time.monotonic() - begun < 30
    assert RunFolder.open(tmp_path / "run").status()["state"] == "stopped"
