"""What a rank owes its launcher: to die with it, to say who it is, and to leave a record of its end.

Separate from `launch.local` because ranks must not pay for the launcher's imports.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmtrain.errors import Exit, Failure, Place, Problem

PARENT = "LLMTRAIN_LAUNCHER"
"""Process id of the launcher, for ranks it started."""
RECORDS = "LLMTRAIN_RANK_RECORDS"
"""Folder in which each rank leaves `rank_N.pid` and `rank_N.exit.json` for the launcher."""
SET_PARENT_DEATH_SIGNAL = 1


@dataclass(frozen=True, kw_only=True)
class ExitRecord:
    """How a rank ended; `kind` is `own`, or `peer` when another rank's end was the cause."""

    rank: int
    code: int
    kind: str
    time: float
    problems: Sequence[dict[str, Any]] = ()


def bind_to_launcher() -> None:
    """Make this process end when its launcher does, and register its id; does nothing without a launcher."""
    parent = os.environ.get(PARENT)
    if parent is None:
        return
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != int(parent):  # the launcher ended before the line above
        os._exit(1)
    folder = records_folder()
    if folder is not None:
        _write(folder / f"rank_{os.environ['RANK']}.pid", str(os.getpid()))


def records_folder() -> Path | None:
    """Where the launcher of this rank expects records, or None when the rank has no launcher of ours."""
    text = os.environ.get(RECORDS)
    return Path(text) if text else None


def record_exit(code: int, *, kind: str = "own", problems: Sequence[Problem] = ()) -> None:
    """Leave the record of this rank's end; does nothing without a launcher of ours."""
    folder = records_folder()
    if folder is None:
        return
    rank = int(os.environ["RANK"])
    record = ExitRecord(
        rank=rank, code=int(code), kind=kind, time=time.time(), problems=[asdict(item) for item in problems]
    )
    if code == Exit.STOPPED and rank != 0:
        _let_first_rank_finish(folder)
    _write(folder / f"rank_{rank}.exit.json", json.dumps(asdict(record)))


def _let_first_rank_finish(folder: Path, seconds: float = 10.0) -> None:
    """The launcher ends everyone when the first rank leaves with a code, and rank 0 still has a summary to write."""
    limit = time.monotonic() + seconds
    while not (folder / "rank_0.exit.json").exists() and time.monotonic() < limit:
        time.sleep(0.02)


def read_record(path: Path) -> ExitRecord | None:
    """The record at `path`, or None when the rank left none."""
    try:
        return ExitRecord(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None


def record_failure(record: ExitRecord) -> Failure:
    """The failure that a rank recorded."""
    problems = [Problem(**{**item, "place": Place(**item["place"])}) for item in record.problems]
    return Failure(*problems)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(text)
    partial.replace(path)
