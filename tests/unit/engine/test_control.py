"""Rhythms, signals and the control word, each a pure function of what it is told."""

import os
import signal
import time
from typing import Any

import pytest

from llmtrain.dist import Ranks
from llmtrain.engine.control import Control, Rhythm, Signals
from llmtrain.errors import Terminated
from llmtrain.recipe.durations import parse_cadence


def due(
    every: Any, total: int = 20, per_epoch: int | None = 7, at_least: int | None = None, seconds: float = 1.0
) -> list[int]:
    """Steps after which it is due; each step takes `seconds`."""
    rhythm = Rhythm(parse_cadence(every, best=True), total=total, per_epoch=per_epoch, at_least=at_least)
    return [step for step in range(1, total + 1) if rhythm.due(step, step * seconds)]


@pytest.mark.parametrize(
    ("every", "words", "expected"),
    [
        (5, {}, [5, 10, 15, 20]),
        (100, {}, []),
        (1, {"total": 3}, [1, 2, 3]),
        (0.25, {}, [5, 10, 15, 20]),
        (0.3, {"total": 10}, [3, 6, 9]),
        (0.01, {"total": 10}, list(range(1, 11))),
        ("1 epoch", {}, [7, 14]),
        ("0.5 epochs", {}, [4, 7, 11, 14, 18]),
        ("2 epochs", {}, [14]),
        ("3 s", {}, [3, 6, 9, 12, 15, 18]),
        ("0.1 min", {}, [6, 12, 18]),
        ("1 s", {"seconds": 2.5, "total": 3}, [1, 2, 3]),
        (None, {}, []),
        ("best", {}, []),
        (100, {"at_least": 4}, [5, 10, 15, 20]),
        (100, {"at_least": 4, "total": 7}, [1, 2, 3, 4, 5, 6, 7]),
        (100, {"at_least": 4, "total": 3}, [1, 2, 3]),
        (2, {"at_least": 4}, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]),
        ("1 epoch", {"at_least": 4}, [5, 10, 15, 20]),
        ("0.2 epochs", {"at_least": 4, "per_epoch": 10}, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]),
        ("1 h", {"at_least": 4}, [5, 10, 15, 20]),
        ("4 s", {"at_least": 2}, [4, 8, 10, 12, 16, 20]),
        (None, {"at_least": 4}, [5, 10, 15, 20]),
    ],
)
def test_every_cadence(every: Any, words: dict[str, Any], expected: list[int]) -> None:
    assert due(every, **words) == expected


def test_epochs_do_not_drift() -> None:
    """A seventh of an epoch of 1,000 steps, a hundred epochs long: as often as it should be."""
    rhythm = Rhythm(parse_cadence("0.142857142857 epochs"), total=100_000, per_epoch=1000)
    assert sum(rhythm.due(step, 0.0) for step in range(1, 100_001)) == 700


def test_what_a_rhythm_is() -> None:
    assert Rhythm(parse_cadence("best", best=True), total=1, per_epoch=1).on_improvement
    assert Rhythm(parse_cadence(None), total=1, per_epoch=1).never
    assert not Rhythm(parse_cadence(3), total=1, per_epoch=1).never


@pytest.fixture
def signals() -> Signals:
    return Signals(lambda text: None)


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # the handler runs before the next bytecode


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_before_the_first_step_a_signal_ends_the_run(signals: Signals, number: int, error: type) -> None:
    with signals.installed(), pytest.raises(error):
        send(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_in_training_a_signal_asks_for_a_stop(signals: Signals, number: int) -> None:
    with signals.installed():
        signals.interruptible = False
        send(number)
        assert signals.stop and signals.name == signal.Signals(number).name
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_saving_and_what_is_ignored(signals: Signals) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)]
    with signals.installed():
        signals.interruptible = False
        for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR2):
            send(number)
        assert signals.save and not signals.stop
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)]
    assert after == before


def agreed(control: Control, **values: Any) -> Any:
    return control.agree(**{"loss_sum": 1.0, "weight": 2.0, "norm": 1.0, "writer": 0, **values})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["loss_sum", "norm"])
def test_the_word_tells_what_is_not_finite(signals: Signals, name: str, bad: float) -> None:
    control = Control(Ranks(), signals, deadline=None, max_time=None)
    assert agreed(control, **{name: bad}).nonfinite and not agreed(control).nonfinite


def test_the_word_carries_wishes_once(signals: Signals) -> None:
    control = Control(Ranks(), signals, deadline=None, max_time=None)
    signals.save = True
    first, second = agreed(control, writer=1), agreed(control, writer=2)
    assert (first.save, second.save) == (True, False)
    assert (first.writer, second.writer) == ((1, 0), (0, 1))
    signals.stop = 1
    assert agreed(control).stop == 1 and agreed(control).stop == 1


@pytest.mark.parametrize(("words", "ends"), [({"deadline": 0.0}, (False, True)), ({"max_time": 0.0}, (True, False))])
def test_limits_of_time(signals: Signals, words: dict[str, float], ends: tuple[bool, bool]) -> None:
    control = Control(Ranks(), signals, **{"deadline": None, "max_time": None, **words})
    assert agreed(control).stop == 1
    assert (control.out_of_time, control.past_deadline) == ends
    generous = Control(Ranks(), signals, deadline=1e6, max_time=1e6)
    assert agreed(generous).stop == 0
