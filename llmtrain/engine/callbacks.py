"""Measuring without steering: memory of this process, and the profiler; both only listen to a run."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtrain.engine.events import EventBus, Notice, RunEnd, RunStart, StepEnd
from llmtrain.lazy import Lazy

if TYPE_CHECKING:
    from torch import device as Device  # noqa: N812 - a type

torch = Lazy("torch")
profiler = Lazy("torch.profiler")

GIB = 2**30
KIB_PER_GIB = 2**20


def memory_gib(device: "Device") -> float:
    """Peak memory of this process in GiB: what the device's allocator held, on a processor resident memory.

    On Linux the peak is the kernel's high-water mark (`VmHWM`); elsewhere `getrusage` gives it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    if sys.platform == "linux":
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / KIB_PER_GIB
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / GIB if sys.platform == "darwin" else peak / KIB_PER_GIB


class Profiler:
    """Traces steps `first` to `last` into `profile/steps-<first>-<last>.rank<N>.json`, readable by trace viewers."""

    def __init__(self, bus: EventBus, folder: Path, *, first: int, last: int, rank: int) -> None:
        """Listen for the range.

        Args:
            bus: of the run, on every rank that is to be traced.
            folder: receives the trace; made when needed.
            first: 1-based step, included.
            last: 1-based step, included.
            rank: this process, part of the file's name.
        """
        self._bus, self._first, self._last = bus, first, last
        self._path = folder / f"steps-{first}-{last}.rank{rank}.json"
        self._trace: Any = None
        bus.on(RunStart, lambda event: self._reached(event.start_step))
        bus.on(StepEnd, lambda event: self._reached(event.step))
        bus.on(RunEnd, lambda _: self._stop())

    def _reached(self, step: int) -> None:
        """`step` is done; the next one is `step + 1`."""
        if self._trace is not None and step >= self._last:
            self._stop()
        elif self._trace is None and self._first <= step + 1 <= self._last:
            os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler writes lines of its own to stderr
            self._trace = profiler.profile()
            self._trace.start()

    def _stop(self) -> None:
        trace, self._trace = self._trace, None
        if trace is None:
            return
        trace.stop()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            trace.export_chrome_trace(str(self._path))
        except OSError as error:
            self._bus.emit(Notice(message=f"speed.profile: {self._path}: {error.strerror}", level="warning"))
            return
        self._bus.emit(Notice(message=f"profile of steps {self._first} to {self._last}: {self._path}"))
