"""A run that was killed anywhere, any number of times, ends as the run that never was (reliability.md I1 to I7)."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmtrain.record import checkpoints, metrics
from llmtrain.record.folder import RunFolder
from tests.tiny import Tool, digest, lines, tensors, training, until, write_recipe
from tests.torture.zygote import Run

KEEP = 2
MODES = {"sync": "checkpoint.async=false", "async": "checkpoint.async=true"}


@pytest.fixture(scope="module")
def unbroken(tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, float]:
    """What an uninterrupted run leaves, and how long its training part takes; with the A/A control."""
    folder = tmp_path_factory.mktemp("unbroken")
    write_recipe(folder)
    found, seconds = [], 0.0
    for number, words in enumerate([MODES["sync"], MODES["async"], MODES["async"]]):
        run = tool.start(["train", "t.yaml", f"run.dir=run{number}", words], folder)
        assert until(training(run), run)
        begun = time.monotonic()
        assert run.wait() == 0
        seconds = time.monotonic() - begun
        found.append(digest(RunFolder.open(folder / f"run{number}")))
    assert found[0] == found[1] == found[2], "two unbroken runs differ: no kill proves anything"
    return found[0], seconds


def good(folder: RunFolder) -> set[int]:
    return {verdict.candidate.seq for verdict in checkpoints.verify_run(folder) if verdict.good}


def check_after_kill(folder: RunFolder) -> int:
    """I1 and I4; the number of checkpoints announced so far."""
    committed = {seq for _, seq in checkpoints.lines_of(folder, "committed")}
    pruned = {seq for _, seq in checkpoints.lines_of(folder, "pruned")}
    verified = good(folder)
    assert committed - pruned <= verified, "a committed checkpoint is lost"
    assert len(verified) >= min(KEEP, len(committed))
    return len(committed)


def check_finished(folder: RunFolder, expected: Any) -> None:
    """I3, I5 and I6."""
    assert digest(folder) == expected
    assert [line["step"] for line in metrics.read(folder.metrics, "step")] == list(range(1, 21))
    left = [path.name for path in folder.path.rglob("*") if path.name.endswith(".tmp") or ".trash" in path.name]
    assert left == []
    assert folder.status()["state"] == "done"


def start(tool: Tool, place: Path, name: str, mode: str) -> Run:
    return tool.start(["train", "t.yaml", f"run.dir={name}", "--resume", "auto", MODES[mode]], place)


def kill_until_done(
    tool: Tool,
    place: Path,
    kills: int,
    mode: str,
    unbroken: tuple[Any, float],
    seed: int,
) -> None:
    """Runs, each killed and resumed until it is done, until that many kills have hit a run that trained."""
    expected, seconds = unbroken
    chosen = random.Random(seed)
    hits = number = 0
    while hits < kills:
        number += 1
        name = f"run{number}"
        finished = False
        while not finished and hits < kills:
            run = start(tool, place, name, mode)
            finished = not until(training(run), run)
            time.sleep(chosen.uniform(0.0, seconds))
            run.kill(signal.SIGKILL)
            code = run.wait()
            hits += code == -signal.SIGKILL
            finished = finished or code == 0
            assert code in (0, -signal.SIGKILL), run.stderr.read_text()
            if (place / name / "run.json").is_file():
                check_after_kill(RunFolder.open(place / name))
        if not finished:
            run = start(tool, place, name, mode)
            assert run.wait() == 0, run.stderr.read_text()
        check_finished(RunFolder.open(place / name), expected)


@pytest.mark.parametrize("mode", MODES)
def test_ten_kills(tool: Tool, tmp_path: Path, unbroken: tuple[Any, float], mode: str) -> None:
    write_recipe(tmp_path)
    kill_until_done(tool, tmp_path, 10, mode, unbroken, seed=len(mode))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mode", MODES)
def test_forty_five_kills(tool: Tool, tmp_path: Path, unbroken: tuple[Any, float], mode: str) -> None:
    """With the ten through the real command line below, a hundred."""
    write_recipe(tmp_path)
    kill_until_done(tool, tmp_path, 45, mode, unbroken, seed=100 + len(mode))


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "llmtrain", *words]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_kills_of_the_real_command_line(tool: Tool, tmp_path: Path, unbroken: tuple[Any, float]) -> None:
    write_recipe(tmp_path)
    chosen = random.Random(7)
    environment = {
        **os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "LLMTRAIN_CACHE": str(tool.cache),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    words = command("train", "t.yaml", "run.dir=run", "--resume", "auto")
    hits = 0
    while hits < 10:
        with subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("  out  "):
                    break
            time.sleep(chosen.uniform(0.0, unbroken[1] * 0.6))
            process.kill()
        hits += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            check_finished(RunFolder.open(tmp_path / "run"), unbroken[0])
            (tmp_path / "run").rename(tmp_path / f"done-{hits}")
        elif (tmp_path / "run" / "run.json").is_file():
            check_after_kill(RunFolder.open(tmp_path / "run"))
    assert subprocess.run(words, check=False, cwd=tmp_path, env=environment, timeout=120).returncode == 0
    check_finished(RunFolder.open(tmp_path / "run"), unbroken[0])


def on_two_ranks(tool: Tool, place: Path, name: str, number: int, *more: str) -> list[Run]:
    """Two ranks as a launcher would start them."""
    shared = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(number),
    }
    words = [
        "train",
        "t.yaml",
        f"run.dir={name}",
        "--resume",
        "auto",
        "model.config.attention_dropout=0.0",
        *more,
    ]
    return [tool.start(words, place, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_of_sharded_ranks(tool: Tool, tmp_path: Path) -> None:
    write_recipe(tmp_path)
    for run in on_two_ranks(tool, tmp_path, "whole", free_port()):
        assert run.wait() == 0
    expected = digest(RunFolder.open(tmp_path / "whole"))
    chosen = random.Random(5)
    for _ in range(4):
        first, second = on_two_ranks(tool, tmp_path, "run", free_port())
        until(training(first), first)
        time.sleep(chosen.uniform(0.0, 0.8))
        for run in chosen.sample([first, second], 2):
            run.kill(signal.SIGKILL)
            run.wait()
        if (tmp_path / "run" / "run.json").is_file():
            check_after_kill(RunFolder.open(tmp_path / "run"))
    for run in on_two_ranks(tool, tmp_path, "run", free_port()):
        assert run.wait() == 0, run.stderr.read_text()
    check_finished(RunFolder.open(tmp_path / "run"), expected)


@pytest.fixture(scope="module")
def stopped(tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed at step 10 with checkpoints of steps 7 and 9, and its recipe."""
    place = tmp_path_factory.mktemp("stopped")
    write_recipe(place)
    run = tool.start(["train", "t.yaml", "run.dir=run", MODES["sync"]], place)
    assert until(lambda: "step 9 saved" in run.stderr.read_text(), run)
    run.kill()
    run.wait()
    return place


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


DAMAGES = {
    "cut short": (
        "optimizer-r0.safetensors",
        lambda path: os.truncate(path, path.stat().st_size - 9),
    ),
    "flipped": ("weights-r0.safetensors", _flip),
    "missing": ("state.json", lambda path: path.unlink()),
}


def copy(place: Path, target: Path) -> RunFolder:
    import shutil

    shutil.copytree(place, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("output"))
    return RunFolder.open(target / "run")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tool: Tool, tmp_path: Path, stopped: Path, unbroken: tuple[Any, float], damage: str
) -> None:
    folder = copy(stopped, tmp_path)
    newest = max(
        (v.candidate for v in checkpoints.verify_run(folder)),
        key=lambda candidate: candidate.seq,
    )
    name, spoil = DAMAGES[damage]
    spoil(newest.path / name)
    words = (
        "train",
        "t.yaml",
        "run.dir=run",
        "--resume",
        "auto",
        "checkpoint.keep=null",
    )
    said = tool(*words, cwd=tmp_path).stderr.read_text()
    [line] = [line for line in said.splitlines() if newest.path.name in line and name in line]
    assert len(line) <= 200 and said.index(line) < said.index("resumed from step")
    assert f"resumed from step {newest.step}\n" not in said
    assert lines(folder) == unbroken[0][1]
    assert tensors(folder) == unbroken[0][0]
    assert newest.path.is_dir(), "rejected folders stay as evidence"


def test_all_damaged_is_exit_4_and_nothing_is_trained(tool: Tool, tmp_path: Path, stopped: Path) -> None:
    folder = copy(stopped, tmp_path)
    for verdict in checkpoints.verify_run(folder):
        _flip(verdict.candidate.path / "weights-r0.safetensors")
    before = folder.metrics.read_bytes()
    run = tool("train", "t.yaml", "run.dir=run", "--resume", "auto", cwd=tmp_path, code=4)
    assert "error: run: 3 checkpoints, none verifies" in run.stderr.read_text()
    assert (folder.logs / "resume.log").read_text().count("weights-r0.safetensors") == 3
    assert folder.metrics.read_bytes() == before


def test_a_finished_run_is_left_alone(tool: Tool, tmp_path: Path) -> None:
    write_recipe(tmp_path)
    folder = tool.train(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.is_file()}
    said = tool("train", "t.yaml", "run.dir=run", "--resume", "auto", cwd=tmp_path).stderr.read_text()
    assert "already finished" in said
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.is_file()} == before
