"""How a command ends badly: problems on stderr, a crash file, the record a launcher reads.

Separate from the app so that the rendering libraries are imported only when something went wrong.
"""

import itertools
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmtrain.cli import streams
from llmtrain.dist import is_peer_loss, launched_world
from llmtrain.errors import Exit, Failure, escape, fail
from llmtrain.launch import rank

"""Texts of torch's errors when another rank went away; torch gives them no type of their own on CPU."""
crash_folder: list[Path] = []
"""Where crash files go once a run folder is known; the last entry counts."""


def leave(code: int) -> None:
    """Record a regular end for the launcher."""
    rank.record_exit(code)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Turns what ended a command into stderr lines and an exit code."""

    json: bool
    debug: bool

    @classmethod
    def of(cls, words: Sequence[str]) -> "Report":
        """Read the reporting options before parsing, because parsing itself can fail."""
        pairs = [*itertools.pairwise(words), *(word.split("=", 1) for word in words if "=" in word)]
        as_json = any(tuple(pair) == ("--error-format", "json") for pair in pairs)
        return cls(json=as_json, debug="--debug" in words)

    def failure(self, failure: Failure, *, kind: str = "own") -> int:
        """Print every problem; the first one's exit code."""
        if self.debug:
            traceback.print_exception(failure)
        code = int(failure.exit_code)
        kind = "peer" if code == Exit.LOST_PEER else kind
        rank.record_exit(code, kind=kind, problems=failure.problems)
        if self._speaks(kind):
            from llmtrain.cli import console

            console.show_problems(failure.problems, as_json=self.json, started=code not in (Exit.INPUT, Exit.NO_FIT))
        return code

    def interrupted(self, code: Exit, text: str) -> int:
        """A signal came before there was anything to save, or Ctrl-C came twice."""
        rank.record_exit(int(code))
        if self._speaks("own"):
            streams.say(text)
        return int(code)

    def crash(self, error: Exception) -> int:
        """A bug of ours: one line and a file with the traceback."""
        text = "".join(traceback.format_exception(error))
        where = _write_crash(text)
        what = escape(f"{type(error).__name__}: {error}".split("\n")[0])[:120]
        hint = f"details in {where}; please report it" if where else "--debug shows the traceback"
        if self.debug:
            streams.say(text)
        return self.failure(fail("E-RUN-005", f"unexpected error: {what}", hint=hint), kind=_kind(error))

    def _speaks(self, kind: str) -> bool:
        """Under a launcher of ours the first rank speaks for itself; for the others the launcher does."""
        if rank.records_folder() is None:
            return True
        return os.environ.get("RANK") == "0" and kind == "own"


def _kind(error: Exception) -> str:
    return "peer" if rank.records_folder() is not None and is_peer_loss(error) else "own"


def _write_crash(text: str) -> Path | None:
    folder = crash_folder[-1] if crash_folder else Path.cwd()
    number = launched_world()[0]
    suffix = f"-rank{number}" if number else ""
    path = folder / f"crash-{time.strftime('%y%m%d-%H%M%S')}{suffix}.txt"
    try:
        path.write_text(f"{sys.version}\n{text}", encoding="utf-8", errors="backslashreplace")
    except OSError:
        return None
    return path
