"""Sinks take every step, and a broken one is left out with one notice."""

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from llmtrain.engine.events import Evaluated, EventBus, Notice, RunEnd, StepEnd
from llmtrain.engine.sinks import Sinks, TensorBoard, curve_name


class Recorder:
    """A sink that remembers, or fails at a given step."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.fail_at, self.seen, self.closed = fail_at, list[tuple[int, dict[str, float]]](), 0

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if step == self.fail_at:
            raise ConnectionError("no route\nsecond line")
        self.seen.append((step, dict(values)))

    def close(self) -> None:
        self.closed += 1


def bus_with_notices() -> tuple[EventBus, list[Notice]]:
    bus, notices = EventBus(), list[Notice]()
    bus.on(Notice, notices.append)
    return bus, notices


def test_every_step_and_evaluation_arrives_whether_logged_or_not() -> None:
    bus, notices = bus_with_notices()
    sink = Recorder()
    Sinks(bus, {"recorder": lambda: sink})
    bus.emit(StepEnd(step=1, values={"loss": 2.0}, log=False))
    bus.emit(Evaluated(step=1, values={"eval_loss": 3.0}))
    bus.emit(RunEnd(result={}))
    bus.emit(RunEnd(result={}))
    assert sink.seen == [(1, {"loss": 2.0}), (1, {"eval_loss": 3.0})]
    assert sink.closed == 1
    assert notices == []


def test_a_failing_sink_is_dropped_once_and_others_go_on() -> None:
    bus, notices = bus_with_notices()
    bad, good = Recorder(fail_at=2), Recorder()
    sinks = Sinks(bus, {"bad": lambda: bad, "good": lambda: good})
    for step in (1, 2, 3):
        bus.emit(StepEnd(step=step, values={"loss": 1.0}, log=True))
    assert [step for step, _ in bad.seen] == [1]
    assert [step for step, _ in good.seen] == [1, 2, 3]
    assert sinks.names == ("good",)
    assert [notice.message for notice in notices] == ["log.to: bad failed and is left out: no route"]
    assert notices[0].level == "warning"


def test_a_sink_that_cannot_open_is_a_notice() -> None:
    bus, notices = bus_with_notices()

    def refuse() -> Recorder:
        raise PermissionError(13, "not yours")

    assert Sinks(bus, {"x": refuse}).names == ()
    assert len(notices) == 1


@pytest.mark.parametrize(
    ("name", "curve"),
    [
        ("loss", "train/loss"),
        ("lr", "train/learning_rate"),
        ("grad_norm", "train/grad_norm"),
        ("tokens_per_second", "train/tokens_per_second"),
        ("eval_loss", "eval/loss"),
        ("eval_perplexity", "eval/perplexity"),
    ],
)
def test_curve_names(name: str, curve: str) -> None:
    assert curve_name(name) == curve


def test_tensorboard_files_hold_every_finite_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoard(tmp_path / "tb")
    for step in (1, 2, 3):
        sink.write(step, {"step": step, "loss": 1.0 / step, "lr": 1e-3, "epoch": 1, "bad": math.nan})
    sink.write(3, {"eval_loss": 0.5})
    sink.close()
    read = EventAccumulator(str(tmp_path / "tb"))
    read.Reload()
    assert sorted(read.Tags()["scalars"]) == ["eval/loss", "train/epoch", "train/learning_rate", "train/loss"]
    assert [point.step for point in read.Scalars("train/loss")] == [1, 2, 3]
    assert read.Scalars("train/loss")[1].value == pytest.approx(0.5)
