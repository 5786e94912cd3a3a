"""`metrics.jsonl`: each step once, in full precision, cut back on resume; separate because a checkpoint's promise
includes the length of this file.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmtrain.record import files

_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Strict JSON has no NaN and no infinities: they are written as these words and read back as floats."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


class MetricsFile:
    """The writer, for the one process that owns the run folder. Lines are buffered until `flush`."""

    def __init__(self, path: Path) -> None:
        files.repair_lines(path)
        self._path = path
        self._buffer: list[bytes] = []
        self._length = path.stat().st_size if path.exists() else 0
        self._last_step = max((line["step"] for line in read(path, "step")), default=0)

    @property
    def length(self) -> int:
        """Bytes of the file once everything written so far is flushed."""
        return self._length

    def write(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """Add a line; `event` is `step` or `eval`.

        Raises:
            ValueError: a step that is there already, which would be a bug of the loop.
        """
        if event == "step":
            if step <= self._last_step:
                raise ValueError(f"step {step} after step {self._last_step} in {self._path.name}")
            self._last_step = step
        line = {"event": event, "step": step, **{name: _plain(value) for name, value in values.items()}}
        data = (json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n").encode()
        self._buffer.append(data)
        self._length += len(data)

    def flush(self, *, sync: bool = False) -> int:
        """Hand the lines to the file system, and to the disk with `sync`; the file's length in bytes."""
        if self._buffer or sync:
            files.append_text(self._path, b"".join(self._buffer), sync=sync)
            self._buffer.clear()
        return self._length


def read(path: Path, event: str | None = None) -> Iterator[dict[str, Any]]:
    """The lines in order, all or those of one event, with non-finite numbers as floats again."""
    for line in files.read_lines(path):
        if event is None or line.get("event") == event:
            yield {name: _WORDS.get(value, value) if isinstance(value, str) else value for name, value in line.items()}


def cut(path: Path, length: int, dropped: Path) -> int:
    """Cut the file to the length a checkpoint remembers; the tail moves to `dropped`. The number of bytes moved.

    A kill between the two leaves the tail in both places, and the next resume cuts again.

    Raises:
        OSError: the file cannot be read or written.
    """
    data = files.read_regular(path) if path.exists() else b""
    tail = data[length:]
    if not tail:
        return 0
    if dropped.exists():
        tail_there = files.read_regular(dropped)
        if not tail_there.endswith(tail):
            files.write_atomic(dropped, tail_there + tail)
    else:
        files.write_atomic(dropped, tail)
    os.truncate(path, length)
    files.sync_file(path)
    return len(tail)
