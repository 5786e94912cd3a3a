"""The README's commands, run as written but for the size of the runs."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.tiny import Tool

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [block.strip() for block in re.findall(r"```bash\n(.*?)```", README, re.S)]
SETUP = [block for block in BLOCKS if "pip install" in block]
COMMANDS = [line for block in BLOCKS if block not in SETUP for line in block.splitlines()]
SCRIPT = ".venv/bin/llmtrain"
SMALL = [
    "budget.steps=4", "data.seq_len=32", "batch.global_size=2", "checkpoint.every=2", "evaluate.every=4",
    "evaluate.samples.every=4", "data.workers=1", "speed.threads=1", "speed.compile=false",
]  # fmt: skip
SMALLER = [*SMALL, "tokenizer.train.vocab_size=300", "model.config.hidden_size=32", "model.config.num_hidden_layers=1"]


def words_of(command: str) -> list[str]:
    """The command's arguments, a training shrunk: sizes of the model only where it is new."""
    script, *words = shlex.split(command)
    assert script == SCRIPT
    if words[0] == "train" and "--dry-run" not in words:
        words += SMALL if "continue" in words else SMALLER
    return words


def test_both_setup_commands_come_first_and_are_sound() -> None:
    assert BLOCKS[:2] == SETUP
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for block in SETUP:
        assert subprocess.run(["bash", "-n", "-c", block], check=False).returncode == 0
        make, install, _ = (shlex.split(part) for part in block.split("&&"))
        assert make == ["python3", "-m", "venv", ".venv"]
        assert install[:3] == [".venv/bin/pip", "install", "-q"]
        assert all(extra in extras for extra in re.findall(r"\[(\w+)\]", install[3]))


def test_continuous_integration_runs_the_readme_s_test_command() -> None:
    command = SETUP[1].split("&&")[-1].strip()
    assert command == ".venv/bin/python -m pytest -q"
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_commands_work_one_after_another(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Notes on many things, one after another, in plain words.\n" * 400)
    main_job = SETUP[0].split("&&")[-1].strip()
    for command in (main_job, *COMMANDS):
        if command.startswith(SCRIPT):
            tool(*words_of(command), cwd=tmp_path)
        else:
            assert command == ".venv/bin/python -m pytest -q -m slow"
    assert len(list((tmp_path / "runs").glob("*/model/model.safetensors"))) >= 5


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.slow
def test_the_first_command_in_a_fresh_process(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "llmtrain", *words_of(SETUP[0].split("&&")[-1].strip())]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
