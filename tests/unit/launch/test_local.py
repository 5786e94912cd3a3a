"""Two ranks that only use gloo: exit codes, the first cause, signals, orphans."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmtrain.launch.local import process_ended

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several processes need Linux")
SCRIPT = Path(__file__).with_name("rank_script.py")
ROOT = Path(__file__).resolve().parents[3]
DRIVER = """
import sys
from llmtrain.errors import Failure, render
from llmtrain.launch.local import launch
try:
    code = launch(sys.argv[3:], nproc=2, timeout=60, grace=int(sys.argv[2]), program=[sys.argv[1]])
except Failure as failure:
    print(render(failure.problems[0]), file=sys.stderr)
    code = failure.exit_code
sys.exit(code)
"""


def start(folder: Path, what: str, *more: str, grace: int = 20) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("WORLD_SIZE", None)
    command = [sys.executable, "-c", DRIVER, str(SCRIPT), str(grace), what, str(folder), *more]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    )


def run(folder: Path, what: str, *more: str) -> tuple[int, str, str]:
    process = start(folder, what, *more)
    out, err = process.communicate(timeout=90)
    return process.returncode, out, err


def pids(folder: Path, seconds: float = 60) -> list[int]:
    """Process ids of both ranks once they are ready."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        files = [folder / "ready_0", folder / "ready_1"]
        if all(file.exists() and file.read_text().count(" ") >= 2 for file in files):
            return [int(file.read_text().split()[-1]) for file in files]
        time.sleep(0.02)
    raise AssertionError("ranks did not start")


def gone(ids: list[int], seconds: float = 10) -> bool:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if all(process_ended(pid) for pid in ids):
            return True
        time.sleep(0.05)
    return False


def test_all_ranks_end_well_and_words_arrive_unchanged(tmp_path: Path) -> None:
    code, out, err = run(tmp_path, "ok", "a b", "x='y=z'", "")
    assert (code, err) == (0, "")
    assert out == "rank 0 says hello\n"
    total, threads, rest = (tmp_path / "ready_1").read_text().split(" ", 2)
    assert float(total) == 3.0
    assert int(threads) >= 1
    assert rest.startswith(str(["a b", "x='y=z'", ""]))


@pytest.mark.parametrize(
    ("what", "code", "line"),
    [
        ("kill", 69, "error: rank 1 was killed by signal 9 (often the out-of-memory killer); all ranks stopped"),
        pytest.param("fail", 3, "error: rank 1: loss is NaN on rank 1 [E-RUN-001]", marks=pytest.mark.slow),
        pytest.param(
            "exit",
            69,
            "error: rank 1 ended with code 7 without a word; all ranks stopped [E-PEER-001]",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_first_cause_gives_the_code_and_one_line(tmp_path: Path, what: str, code: int, line: str) -> None:
    got, out, err = run(tmp_path, what)
    assert (got, out) == (code, "")
    assert err.splitlines()[0].startswith(line)


@pytest.mark.slow
def test_what_rank_0_has_printed_is_not_said_again(tmp_path: Path) -> None:
    assert run(tmp_path, "both") == (3, "", "")


@pytest.mark.slow
def test_a_rank_that_ignores_everything_is_ended_soon_after_the_first_failure(tmp_path: Path) -> None:
    process = start(tmp_path, "stuck")
    ids = pids(tmp_path)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 69
    assert "rank 1 was killed by signal 9" in err
    assert gone(ids)


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(item, marks=pytest.mark.slow) for item in (signal.SIGINT, signal.SIGUSR1))],
)
def test_a_signal_reaches_every_rank_and_a_saved_stop_is_75(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, "stop")
    pids(tmp_path)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (75, "", "")
    for rank in (0, 1):
        assert (tmp_path / f"stopped_{rank}").read_text().startswith(f"[{int(number)}")


@pytest.mark.slow
def test_ranks_that_outlive_the_grace_time_are_ended(tmp_path: Path) -> None:
    process = start(tmp_path, "stubborn", grace=1)
    ids = pids(tmp_path)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143
    assert gone(ids)


def test_ranks_die_with_their_launcher(tmp_path: Path) -> None:
    process = start(tmp_path, "wait")
    ids = pids(tmp_path)
    process.kill()
    process.communicate(timeout=20)
    assert gone(ids)
