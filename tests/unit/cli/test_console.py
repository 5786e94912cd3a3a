"""What is printed: whole messages, plain lines off a terminal, no escape codes where none belong."""

import io
import json
import re
from collections.abc import Callable

import pytest

from llmtrain.cli import console
from llmtrain.engine.events import Committed, Evaluated, EventBus, Notice, RunEnd, RunStart, Sampled, StepEnd
from llmtrain.errors import Place, Problem

ESCAPE = "\x1b"
VALUES = {"loss": 2.34567891, "lr": 0.001, "tokens": 1024, "tokens_per_second": 12345.6, "memory_gib": 1.25}


class Terminal(io.TextIOWrapper):
    """A stream that claims to be a terminal."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding=encoding, errors="backslashreplace", write_through=True)

    def isatty(self) -> bool:
        return True

    def shown(self) -> str:
        return self.bytes.getvalue().decode()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Terminal]:
    """Make stderr a terminal with the given environment."""

    def make(encoding: str = "utf-8", **environment: str) -> Terminal:
        for name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", **environment}.items():
            monkeypatch.setenv(name, value)
        stream = Terminal(encoding)
        monkeypatch.setattr("sys.stderr", stream)
        return stream

    return make


def a_problem(number: int = 1) -> Problem:
    return Problem(
        id="E-RECIPE-001", message="unknown key", key=f"optimizer.learning_rat{number}", hint="did you mean `lr`?",
        place=Place(file="recipe.yaml", line=8, column=3, text="  learning_rat: 2e-4", width=12),
    )  # fmt: skip


def a_run(progress: str = "auto", total: int = 20) -> console.View:
    bus = EventBus()
    view = console.attach(bus, progress=progress, title=("train", "recipe.yaml", 42))
    bus.emit(RunStart(header={"model": "tiny", "out": "runs/x"}, start_step=0, total_steps=total))
    for step in range(1, total + 1):
        bus.emit(StepEnd(step=step, values=VALUES, log=step % 10 == 0))
    bus.emit(Evaluated(step=total, values={"eval_loss": 2.5}))
    bus.emit(Sampled(step=total, samples=[{"prompt": "a", "text": "b\x1b[31m"}]))
    bus.emit(Committed(step=total, path="runs/x/checkpoints/step-00000020", seconds=0.25))
    for _ in range(2):
        bus.emit(Notice(message="slow\x1b[0m disk", level="warning", id="W-1"))
    bus.emit(Notice(message="bf16 is off"))
    bus.emit(RunEnd(result={}, summary={"loss": "8 to 2"}))
    return view


WHOLE = """\
error: recipe.yaml:8:3: optimizer.learning_rat1: unknown key [E-RECIPE-001]
   8 |   learning_rat: 2e-4
     |   ^^^^^^^^^^^^
hint: did you mean `lr`?
"""


def test_one_problem(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_problems([a_problem()], as_json=False, started=False)
    assert capsys.readouterr() == ("", WHOLE)


def test_the_last_line_counts_and_long_lists_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_problems([a_problem(number) for number in range(34)], as_json=False, started=False)
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("error:") for line in lines) == 20
    assert lines[-2:] == ["and 14 more", "34 problems; nothing was started"]


def test_after_the_start_nothing_is_said_about_not_starting(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_problems([a_problem(1), a_problem(2)], as_json=False, started=True)
    assert capsys.readouterr().err.splitlines()[-1] == "2 problems"


def test_json_problems_are_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_problems([a_problem(1), a_problem(2)], as_json=True, started=False)
    objects = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert objects[0] == {
        "code": 2, "id": "E-RECIPE-001", "file": "recipe.yaml", "line": 8, "column": 3,
        "key": "optimizer.learning_rat1", "message": "unknown key", "hint": "did you mean `lr`?",
    }  # fmt: skip
    assert len(objects) == 2


def test_a_terminal_gets_colour_and_the_same_text(terminal: Callable[..., Terminal]) -> None:
    stream = terminal()
    console.show_problems([a_problem()], as_json=False, started=False)
    assert ESCAPE in stream.shown()
    assert re.sub(r"\x1b\[[0-9;]*m", "", stream.shown()) == WHOLE


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_escape_codes_where_none_are_wanted(terminal: Callable[..., Terminal], environment: dict[str, str]) -> None:
    stream = terminal(**environment)
    console.show_problems([a_problem()], as_json=False, started=False)
    a_run()
    assert ESCAPE not in stream.shown()
    assert "step 10/20 loss=2.3457" in stream.shown()


def test_lines_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    a_run()
    assert capsys.readouterr() == (
        "",
        """\
llmtrain 0.1.0  train  recipe.yaml  seed 42
  model  tiny
  out    runs/x
step 10/20 loss=2.3457 lr=0.001 tokens=1024 tokens_per_second=12346 memory_gib=1.25
step 20/20 loss=2.3457 lr=0.001 tokens=1024 tokens_per_second=12346 memory_gib=1.25
step 20 eval_loss=2.5
step 20 sample prompt=a text=b\\x1b[31m
step 20 saved runs/x/checkpoints/step-00000020 in 0.2 s
warning: slow\\x1b[0m disk [W-1]
bf16 is off
  loss  8 to 2
""",
    )


def test_quiet_keeps_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    a_run(progress="none")
    assert capsys.readouterr() == ("", "warning: slow\\x1b[0m disk [W-1]\n")


def test_lines_can_be_asked_for_on_a_terminal(terminal: Callable[..., Terminal]) -> None:
    stream = terminal()
    a_run(progress="lines")
    assert ESCAPE not in stream.shown()


def test_the_live_line_on_a_terminal(terminal: Callable[..., Terminal]) -> None:
    stream = terminal()
    a_run()
    text = stream.shown()
    assert "step 20/20" in text
    assert "12.3k tok/s" in text
    assert "step 10/20 loss=" not in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor comes back


def test_long_header_lines_wrap_under_their_text(terminal: Callable[..., Terminal]) -> None:
    stream = terminal(COLUMNS="40")
    bus = EventBus()
    console.attach(bus, progress="auto", title=("train", "r", 1))
    bus.emit(RunEnd(result={}, summary={"out": "x", "budget": "one two three four five six seven eight nine"}))
    assert stream.shown().splitlines() == [
        "  out     x", "  budget  one two three four five six", "          seven eight nine",
    ]  # fmt: skip


def test_a_terminal_that_goes_away_stops_nothing(terminal: Callable[..., Terminal]) -> None:
    stream = terminal()
    bus = EventBus()
    view = console.attach(bus, progress="auto", title=("train", "r", 1))
    bus.emit(RunStart(header={}, start_step=0, total_steps=5))
    stream.close()
    bus.emit(StepEnd(step=5, values=VALUES, log=True))
    bus.emit(Notice(message="hello", level="warning"))
    bus.emit(RunEnd(result={}))
    view.close()


@pytest.mark.parametrize("width", [20, 40, 80, 120, 300])
def test_the_live_line_fits(width: int) -> None:
    line = console.live_line(7, 300, VALUES, [3.0, 2.0], 75.0, width)
    assert len(line) < width
    assert line.startswith("step 7/300 ")


def test_the_live_line_in_full() -> None:
    line = console.live_line(150, 300, VALUES, [4.0, 3.0, 2.0, 1.0], 75.4, 90)
    assert line == "step 150/300 " + "━" * 13 + "─" * 13 + "  loss 2.346 █▆▃▁  12.3k tok/s  1.2 GiB  1:15 left"
    plain = console.live_line(150, 300, VALUES, [4.0, 1.0], 75.4, 90, ascii_only=True)
    assert plain.isascii()


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([], ""),
        ([1.0], "▁"),
        ([1.0, 1.0], "▁▁"),
        ([2.0, 1.0], "█▁"),
        ([float("nan"), 1.0], "▁"),
        ([1e300, -1e300], "█▁"),
    ],
)
def test_sparkline(values: list[float], shown: str) -> None:
    assert console.sparkline(values) == shown


def test_sparkline_has_a_bounded_length() -> None:
    assert len(console.sparkline([float(value) for value in range(1000)])) == console.CURVE


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")])
def test_clock(seconds: float, shown: str) -> None:
    assert console.clock(seconds) == shown


def test_metrics_table() -> None:
    text = console.metrics_table({"state": "done", "eval": {"eval_loss": 2.123456789, "rows": 12}, "ok": True})
    assert text == "eval_loss  2.1235\nrows       12\n"
