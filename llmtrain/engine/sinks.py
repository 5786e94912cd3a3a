"""Where numbers go beside metrics.jsonl; separate so that a broken viewer can never stop a run."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from llmtrain.engine.events import Evaluated, EventBus, Notice, RunEnd, StepEnd
from llmtrain.lazy import Lazy

tensorboard = Lazy("torch.utils.tensorboard")

NAMES = {"lr": "train/learning_rate"}
"""Names that viewers expect and a rule does not give; see `curve_name`."""
COUNTS = frozenset({"step"})
"""Values that are the horizontal axis itself."""


class MetricSink(Protocol):
    """Takes numbers of a step; any exception drops the sink, never the run."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of one step, or of one evaluation."""
        ...

    def close(self) -> None:
        """Write what is buffered; nothing follows."""
        ...


def curve_name(name: str) -> str:
    """The curve of a name of metrics.jsonl: `eval_x` is `eval/x`, others are `train/<name>`."""
    if name in NAMES:
        return NAMES[name]
    return f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"


class TensorBoard:
    """Event files for TensorBoard; only the first rank opens one, because several writers corrupt the view."""

    def __init__(self, folder: Path, *, purge_step: int | None = None) -> None:
        """Open the folder.

        Args:
            folder: of the event files.
            purge_step: after a resume the first step written again; older curves are cut there.
        """
        self._writer = tensorboard.SummaryWriter(log_dir=str(folder), purge_step=purge_step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Each finite number becomes a point of its curve."""
        for name, value in values.items():
            if name not in COUNTS and math.isfinite(value):
                self._writer.add_scalar(curve_name(name), value, step)

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


class Sinks:
    """All sinks of a run on its bus; one that raises is dropped with one notice."""

    def __init__(self, bus: EventBus, sinks: Mapping[str, Callable[[], MetricSink]]) -> None:
        """Open each sink and listen.

        Args:
            bus: of the run, on the first rank.
            sinks: how to open each, by the name that notices use.
        """
        self._bus = bus
        self._sinks: dict[str, MetricSink] = {}
        for name, open_sink in sinks.items():
            opened = self._guard(name, open_sink)
            if opened is not None:
                self._sinks[name] = opened
        bus.on(StepEnd, lambda event: self.write(event.step, event.values))
        bus.on(Evaluated, lambda event: self.write(event.step, event.values))
        bus.on(RunEnd, lambda _: self.close())

    @property
    def names(self) -> Sequence[str]:
        """Sinks that still work."""
        return tuple(self._sinks)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Hand the values to every sink."""
        for name, sink in list(self._sinks.items()):
            self._guard(name, lambda sink=sink: sink.write(step, values))

    def close(self) -> None:
        """Close every sink, once."""
        for name, sink in list(self._sinks.items()):
            self._guard(name, sink.close)
            self._sinks.pop(name, None)

    def _guard(self, name: str, call: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the call returns
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - a sink is foreign code, and numbers are safe in metrics.jsonl
            self._sinks.pop(name, None)
            what = str(error).split("\n")[0][:120] or type(error).__name__
            self._bus.emit(Notice(message=f"log.to: {name} failed and is left out: {what}", level="warning"))
            return None
