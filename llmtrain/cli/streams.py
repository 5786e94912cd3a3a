"""Standard streams that may be closed, full, or not UTF-8: results to stdout, everything else to stderr."""

import errno
import io
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from llmtrain.errors import Exit, fail


class ReaderLeft(Exception):  # noqa: N818 - nothing went wrong: nobody wants the rest
    """The reader of stdout closed it."""


def prepare() -> None:
    """Replace closed streams by the null device, and let characters the terminal lacks be shown escaped."""
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - lives as long as the process
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def result(text: str) -> None:
    """Write to stdout at once.

    Raises:
        ReaderLeft: the pipe's reader is gone.
        Failure: E-IO-001 or E-IO-002, stdout cannot be written.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError as error:
        _drop(sys.stdout)
        raise ReaderLeft from error
    except OSError as error:
        _drop(sys.stdout)
        id = "E-IO-001" if error.errno == errno.ENOSPC else "E-IO-002"
        raise fail(id, f"stdout: {error.strerror}") from error


def result_json(value: Any) -> None:  # noqa: ANN401 - any JSON value
    """One JSON object on one line of stdout; numbers that JSON lacks become null."""
    result(json.dumps(_finite(value), ensure_ascii=False, allow_nan=False) + "\n")


def say(text: str) -> None:
    """A line on stderr; a terminal that went away is no reason to stop."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        _drop(sys.stderr)


def finish(code: int) -> int:
    """Flush what is left, so that the interpreter's own flush at exit cannot fail; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            _drop(stream)
        except OSError:
            _drop(stream)
            code = code or int(Exit.IO)
        except ValueError:  # closed by someone else: nothing is left to flush
            pass
    return code


def _finite(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _drop(stream: Any) -> None:  # noqa: ANN401 - a text stream
    """Point the stream's descriptor at the null device; buffered text then goes nowhere."""
    if not isinstance(stream, io.TextIOWrapper):
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
