"""Memory and profiler observe; neither steers."""

import json
from pathlib import Path

import pytest

from llmtrain.engine.callbacks import Profiler, memory_gib
from llmtrain.engine.events import EventBus, Notice, RunEnd, RunStart, StepEnd

torch = pytest.importorskip("torch")


def steps(bus: EventBus, start: int, stop: int) -> None:
    bus.emit(RunStart(header={}, start_step=start, total_steps=stop))
    for step in range(start + 1, stop + 1):
        torch.ones(8, 8) @ torch.ones(8, 8)
        bus.emit(StepEnd(step=step, values={}, log=False))
    bus.emit(RunEnd(result={}))


def test_memory_is_the_peak_of_this_process() -> None:
    before = memory_gib(torch.device("cpu"))
    block = torch.ones(64 * 2**20 // 4)
    after = memory_gib(torch.device("cpu"))
    del block
    slack = 0.01  # the kernel counts in batches
    assert 0.01 < before <= after + slack
    assert memory_gib(torch.device("cpu")) >= after - slack


@pytest.mark.parametrize(
    ("start", "first", "last", "products"), [(0, 2, 3, 2), (0, 1, 1, 1), (4, 2, 5, 1), (0, 5, 9, 2)]
)
def test_the_named_steps_are_traced(tmp_path: Path, start: int, first: int, last: int, products: int) -> None:
    bus, notices = EventBus(), list[Notice]()
    bus.on(Notice, notices.append)
    Profiler(bus, tmp_path / "profile", first=first, last=last, rank=0)
    steps(bus, start, 6)
    trace = json.loads((tmp_path / "profile" / f"steps-{first}-{last}.rank0.json").read_text())
    assert sum(event.get("name") == "aten::mm" for event in trace["traceEvents"]) == products
    assert len(notices) == 1


def test_the_profiler_itself_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bus = EventBus()
    Profiler(bus, tmp_path, first=1, last=1, rank=0)
    steps(bus, 0, 2)
    assert capfd.readouterr() == ("", "")


def test_a_range_that_never_comes_leaves_nothing(tmp_path: Path) -> None:
    bus = EventBus()
    Profiler(bus, tmp_path / "profile", first=50, last=60, rank=0)
    steps(bus, 0, 3)
    assert not (tmp_path / "profile").exists()


def test_a_trace_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bus, notices = EventBus(), list[Notice]()
    bus.on(Notice, notices.append)
    Profiler(bus, tmp_path / "file" / "profile", first=1, last=1, rank=0)
    steps(bus, 0, 2)
    assert [notice.level for notice in notices] == ["warning"]
