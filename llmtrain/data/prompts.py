"""Prompts from files; separate from the rows of training because a prompt has no target.

Used by `predict` and by a run that predicts when it ends.
"""

import codecs
import json
import sys
from pathlib import Path

from llmtrain.errors import Failure, Place, Problem, fail, quoted

SUFFIXES = (".txt", ".jsonl")


def named_prompts(value: str | list[str] | None) -> list[str]:
    """What `predict.input` stands for: a text, a list of texts, or a file by its suffix.

    Raises:
        Failure: as `read_prompts`.
    """
    if isinstance(value, str):
        return read_prompts(value) if value.endswith(SUFFIXES) else [value]
    return list(value or [])


def read_prompts(path: str) -> list[str]:
    """Prompts of a .txt file (one a line), a .jsonl file (`prompt`), or of stdin (`-`, one a line).

    Raises:
        Failure: E-FILE-001..004, E-DATA-001 and E-DATA-003 with their line, E-DATA-011 for another suffix.
    """
    if path == "-":
        return [line for line in sys.stdin.read().splitlines() if line]
    file = Path(path)
    if file.suffix not in SUFFIXES:
        raise fail("E-DATA-011", "prompts are read from .txt (one a line) or .jsonl", file=path)
    text = _read_text(file)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if file.suffix == ".txt":
        return [line.rstrip("\r") for _, line in lines]
    return [_json_prompt(path, number, line) for number, line in lines]


def _read_text(file: Path) -> str:
    if not file.exists():
        raise fail("E-FILE-001", "file not found", file=str(file))
    if not file.is_file():
        raise fail("E-FILE-004", "not a regular file", file=str(file))
    try:
        data = file.read_bytes()
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except OSError as error:
        raise fail("E-FILE-002", f"cannot be read: {error.strerror}", file=str(file)) from error
    except UnicodeDecodeError as error:
        message = f"not UTF-8 (byte 0x{error.object[error.start]:02x} at offset {error.start})"
        raise fail("E-FILE-003", message, file=str(file), hint="save it as UTF-8") from error


def _json_prompt(path: str, number: int, line: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise fail("E-DATA-001", "not valid JSON", file=path, line=number) from error
    if not isinstance(row, dict) or "prompt" not in row:
        raise fail("E-DATA-003", "no column `prompt`", file=path, line=number)
    if not isinstance(row["prompt"], str):
        place = Place(file=path, line=number)
        message = f"{quoted(row['prompt'])} is not text"
        raise Failure(Problem(id="E-DATA-004", message=message, place=place, key="prompt"))
    return row["prompt"]
