"""Whole processes: what is imported, closed and full streams, crashes, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "safetensors",
    "numpy",
    "pyarrow",
    "pydantic",
    "rich",
)


def run(
    words: list[str], *, cwd: Path, before: str = "", after: str = "", **more: object
) -> subprocess.CompletedProcess[str]:
    code = (
        f"import sys\n{before}\nfrom llmtrain.cli.app import main\ncode = main(sys.argv[1:])\n{after}\nsys.exit(code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *words], cwd=cwd, env=environment, text=True, timeout=60,
        **({"capture_output": True} | more),
    )  # type: ignore[call-overload]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    ["--help", "--version", "train --help", "check demo", "schema", "schema optimizer.lr", "recipes", "recipes demo",
     "plan demo", "train demo --dry-run", "runs list", "init demo x.yaml"],
)  # fmt: skip
def test_nothing_heavy_is_imported(line: str, tmp_path: Path) -> None:
    after = f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    done = run(line.split(), cwd=tmp_path, after=after)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m llmtrain schema | head -c 10; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.stdout.endswith("0\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_74(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = run(["schema"], cwd=tmp_path, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 74
    assert done.stderr == "error: stdout: No space left on device [E-IO-001]\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stderr_changes_no_code(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = run(["check", "gone.yaml"], cwd=tmp_path, capture_output=False, stdout=subprocess.PIPE, stderr=full)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(("redirect", "code"), [(">&-", 0), ("2>&-", 0), ("<&-", 0), (">&- 2>&- <&-", 0)])
def test_closed_streams(tmp_path: Path, redirect: str, code: int) -> None:
    command = f"{sys.executable} -m llmtrain recipes {redirect}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (code, "")


BREAK = "import llmtrain.cli.inspection as i\ndef broken(request):\n    raise {error}\ni.VERBS['doctor'] = broken"


def test_output_survives_an_ascii_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    said = "from llmtrain.cli import streams; streams.result('caf\\xe9 \\u2026\\n'); streams.say('\\u20ac')"
    done = run(["doctor"], cwd=tmp_path, before=BREAK.replace("raise {error}", said))
    assert (done.returncode, done.stdout, done.stderr) == (0, "caf\\xe9 \\u2026\n", "\\u20ac\n")


def test_a_bug_is_one_line_and_a_crash_file(tmp_path: Path) -> None:
    done = run(["doctor"], cwd=tmp_path, before=BREAK.format(error="ZeroDivisionError('half\\nlost')"))
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert lines[0] == "error: unexpected error: ZeroDivisionError: half [E-RUN-005]"
    [crash] = tmp_path.glob("crash-*.txt")
    assert lines[1] == f"hint: details in {crash}; please report it"
    assert "Traceback" in crash.read_text()
    assert len(lines) == 2


@pytest.mark.parametrize("error", ["BrokenPipeError(32, 'peer')", "EOFError('short')", "SystemError('x')"])
def test_errors_that_typer_would_swallow_are_bugs_too(tmp_path: Path, error: str) -> None:
    done = run(["doctor"], cwd=tmp_path, before=BREAK.format(error=error))
    assert done.returncode == 1
    assert "[E-RUN-005]" in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run(["doctor", "--debug"], cwd=tmp_path, before=BREAK.format(error="ZeroDivisionError('half')"))
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_bug_as_json(tmp_path: Path) -> None:
    done = run(["doctor", "--error-format=json"], cwd=tmp_path, before=BREAK.format(error="KeyError('x')"))
    assert json.loads(done.stderr)["id"] == "E-RUN-005"


def test_ctrl_c_before_anything_was_saved_is_130(tmp_path: Path) -> None:
    before = BREAK.replace(
        "raise {error}",
        # Programs started in the background by a shell inherit an ignored SIGINT; this one is in the foreground.
        "import os, signal, time; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(9)",
    )
    done = run(["doctor"], cwd=tmp_path, before=before)
    assert (done.returncode, done.stdout, done.stderr) == (int(128 + signal.SIGINT), "", "interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_a_termination_before_anything_was_saved_is_143(tmp_path: Path) -> None:
    before = BREAK.format(error="Terminated") + "\nfrom llmtrain.errors import Terminated\ni.Terminated = Terminated"
    before = before.replace("raise Terminated", "raise i.Terminated")
    done = run(["doctor"], cwd=tmp_path, before=before)
    assert (done.returncode, done.stdout) == (int(128 + signal.SIGTERM), "")
    assert done.stderr == "terminated before there was anything to save\n"


def test_results_are_strict_json(tmp_path: Path) -> None:
    before = BREAK.replace(
        "raise {error}", "from llmtrain.cli import streams; streams.result_json({{'a': [float('nan')], 'b': 'é'}})"
    )
    done = run(["doctor"], cwd=tmp_path, before=before.format())
    assert done.stdout == '{"a": [null], "b": "é"}\n'
