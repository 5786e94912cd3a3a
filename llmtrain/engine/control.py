"""When to save, evaluate and stop, and how ranks agree on it: one small message a step, before the update.

Separate from the loop so that the loop shows only the order of things.
"""

import math
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from llmtrain.dist import Ranks
from llmtrain.errors import Terminated
from llmtrain.recipe.durations import Every


@dataclass(frozen=True, kw_only=True)
class Word:
    """What all ranks agreed on for this step."""

    loss_sum: float
    weight: float
    nonfinite: bool
    stop: int
    """0: go on; 1 and above: stop after this step."""
    save: bool
    clock: float
    """Seconds since the start, as rank 0 sees it."""
    writer: tuple[int, int]
    """Ranks whose writer is done, and ranks whose writer failed."""


class Signals:
    """Stop and save requests from outside; handlers only set flags.

    TERM, USR1 and the first INT ask for a stop after this step; the second INT raises KeyboardInterrupt at once.
    USR2 asks for a save; HUP and PIPE are ignored, because training outlives its terminal.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.stop = 0
        self.save = False
        self.name: str | None = None
        self._say = say
        self.interruptible = True
        """Before the first step there is nothing to save: a signal ends the run at once."""

    @contextmanager
    def installed(self) -> Generator[None]:
        """Handlers in place for the duration; the former ones come back."""
        handlers = {
            signal.SIGINT: self._interrupt, signal.SIGTERM: self._stop, signal.SIGUSR1: self._stop,
            signal.SIGUSR2: self._save, signal.SIGHUP: signal.SIG_IGN, signal.SIGPIPE: signal.SIG_IGN,
        }  # fmt: skip
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.interruptible or self.stop:
            raise KeyboardInterrupt
        self._request("SIGINT")
        self._say("stopping after this step; press again to stop now without saving")

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.interruptible:
            raise Terminated
        self._request(signal.Signals(number).name)

    def _request(self, name: str) -> None:
        self.stop, self.name = 1, name

    def _save(self, number: int, frame: FrameType | None) -> None:
        self.save = True


class Control:
    """Collects this rank's wishes and makes them everyone's."""

    def __init__(self, ranks: Ranks, signals: Signals, *, deadline: float | None, max_time: float | None) -> None:
        self._ranks, self.signals = ranks, signals
        self._deadline, self._max_time = deadline, max_time
        self._start = time.monotonic()
        self.out_of_time = False
        self.past_deadline = False

    def agree(self, *, loss_sum: float, weight: float, norm: float, writer: int) -> Word:
        """The step's control word; collective, every rank must call it before its update.

        Args:
            loss_sum: this rank's undivided loss.
            weight: global denominator of the step.
            norm: global gradient norm.
            writer: outcome of this rank's checkpoint writer: 0 nothing new, 1 done, 2 failed.
        """
        bad = not (math.isfinite(loss_sum) and math.isfinite(norm))
        elapsed = time.monotonic() - self._start
        values = [
            loss_sum, float(bad), float(self.signals.stop), float(self.signals.save),
            elapsed if self._ranks.is_first else 0.0, float(writer == 1), float(writer == 2),
        ]  # fmt: skip
        total, bads, stops, saves, clock, done, failed = self._ranks.sum(values)
        self.signals.save = False
        self.out_of_time = self._max_time is not None and clock >= self._max_time
        self.past_deadline = self._deadline is not None and clock >= self._deadline
        return Word(
            loss_sum=total, weight=weight, nonfinite=bads > 0, save=saves > 0, clock=clock,
            stop=int(stops > 0 or self.out_of_time or self.past_deadline), writer=(int(done), int(failed)),
        )  # fmt: skip


class Rhythm:
    """Whether something with a cadence is due after a step; the same answer on every rank.

    For steps, shares and epochs a pure function of the step; for times it follows rank 0's clock.
    """

    def __init__(self, every: Every, *, total: int, per_epoch: int | None, at_least: int | None = None) -> None:
        self._kind = every.kind
        self._value = every.value
        self._per_epoch = per_epoch
        self._last = 0.0
        if every.kind == "share":
            self._kind, self._value = "steps", max(1, round(total * every.value))
        self._at_most: int | None = None
        """Steps between two times with `at_least`, where the cadence itself cannot promise that many."""
        if at_least is not None:
            self._often_enough(max(1, total // at_least))

    def _often_enough(self, steps: int) -> None:
        if self._kind == "seconds":
            self._at_most = steps
        elif self._kind == "epochs":
            assert self._per_epoch is not None
            if self._value * self._per_epoch > steps:
                self._kind, self._value = "steps", steps
        else:
            self._value = min(self._value, steps) if self._kind == "steps" else steps
            self._kind = "steps"

    @property
    def on_improvement(self) -> bool:
        """Whether an improving evaluation makes it due (`best`)."""
        return self._kind == "best"

    @property
    def never(self) -> bool:
        return self._kind == "never"

    def due(self, step: int, clock: float) -> bool:
        """After `step` steps, `clock` seconds into this process's run."""
        if self._kind == "steps":
            return step % int(self._value) == 0
        if self._kind == "epochs":
            assert self._per_epoch is not None
            length = self._per_epoch * self._value
            return math.floor(step / length + 1e-9) > math.floor((step - 1) / length + 1e-9)
        if self._kind == "seconds" and clock - self._last >= self._value:
            self._last = clock
            return True
        return self._at_most is not None and step % self._at_most == 0
