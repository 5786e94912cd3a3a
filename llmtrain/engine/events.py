"""Typed events and the bus: observation listens here, control does not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened in a run; listeners must not change the run."""


@dataclass(frozen=True, kw_only=True)
class RunStart(Event):
    """Everything is built; the first step is next."""

    header: Mapping[str, str]
    """Lines of the header: label -> text, measured from the loaded objects."""
    start_step: int
    total_steps: int
    folder: str | None = None
    """The run's folder; a crash file goes there."""


@dataclass(frozen=True, kw_only=True)
class StepEnd(Event):
    """An optimizer step was applied or skipped; `values` is the line of metrics.jsonl without its event name."""

    step: int
    values: Mapping[str, float]
    log: bool
    """Whether `log.every` puts this step on the screen."""


@dataclass(frozen=True, kw_only=True)
class Evaluated(Event):
    """An evaluation ended; `values` holds `eval_loss` and its kin."""

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Sampled(Event):
    """Text was generated from `evaluate.samples.prompts`."""

    step: int
    samples: list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Committed(Event):
    """A checkpoint is durable and can be resumed from."""

    step: int
    path: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Notice(Event):
    """A warning or piece of information for the user; `level` is `info` or `warning`."""

    message: str
    level: str = "info"
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """The run ends with an error."""

    message: str
    exit_code: int


@dataclass(frozen=True, kw_only=True)
class RunEnd(Event):
    """The run ended; `result` is result.json."""

    result: Mapping[str, Any]
    summary: Mapping[str, str] = field(default_factory=dict[str, str])
    """Lines of the summary: label -> text."""


E_ = TypeVar("E_", bound=Event)


class EventBus:
    """Calls listeners in the order of their registration, in the main thread, on every rank."""

    def __init__(self) -> None:
        self._listeners: list[tuple[type[Event], Callable[[Any], None]]] = []

    def on(self, kind: type[E_], listener: Callable[[E_], None]) -> None:
        """Call `listener` for each event of `kind`; `Event` itself means all."""
        self._listeners.append((kind, listener))

    def emit(self, event: Event) -> None:
        """Tell every listener of this kind."""
        for kind, listener in self._listeners:
            if isinstance(event, kind):
                listener(event)
