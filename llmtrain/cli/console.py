"""What a person sees: problems, header, live line, summary; the only module that imports rich.

On anything but a terminal it writes plain lines, one a log step, that `grep` can read.
"""

import itertools
import json
import math
import os
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from llmtrain import __version__
from llmtrain.cli import streams
from llmtrain.engine.events import (
    Committed,
    Evaluated,
    EventBus,
    Notice,
    RunEnd,
    RunStart,
    Sampled,
    StepEnd,
)
from llmtrain.errors import Problem, escape, render

SHOWN = 20
"""Problems printed in full; the rest are counted."""
BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-=+*#@"
CURVE = 24
"""Points of the loss curve."""
REFRESH_SECONDS = 0.1
STYLES = {"error:": "bold red", "hint:": "cyan", "warning:": "yellow"}


def fancy() -> bool:
    """Whether stderr is a terminal that takes escape codes."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") in ("dumb", "unknown", "")
    return sys.stderr.isatty() and not plain


def show_problems(problems: Sequence[Problem], *, as_json: bool, started: bool) -> None:
    """All problems on stderr; the last line counts them and says what was not done."""
    if as_json:
        for problem in problems:
            streams.say(json.dumps(problem_fields(problem), ensure_ascii=False))
        return
    blocks = [render(problem) for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        blocks.append(f"and {len(problems) - SHOWN} more")
    if len(problems) > 1:
        blocks.append(f"{len(problems)} problems" + ("" if started else "; nothing was started"))
    if not fancy():
        streams.say("\n".join(blocks))
        return
    console = terminal()
    for line in "\n".join(blocks).split("\n"):
        word = line.split(" ", 1)[0]
        text = Text(line)
        if word in STYLES:
            text.stylize(STYLES[word], 0, len(word))
        console.print(text, soft_wrap=True)


def problem_fields(problem: Problem) -> dict[str, Any]:
    """The object of `--error-format json`."""
    place = problem.place
    return {
        "code": int(problem.exit_code), "id": problem.id, "file": place.file, "line": place.line,
        "column": place.column, "key": problem.key, "message": problem.message, "hint": problem.hint,
    }  # fmt: skip


def terminal() -> Console:
    """The console on stderr; never guesses markup or highlights numbers."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False, force_terminal=fancy())


def attach(bus: EventBus, *, progress: str, title: tuple[str, str, int]) -> "View":
    """Put the first rank's screen on a run's bus.

    Args:
        bus: of the run.
        progress: `auto`, `lines` or `none` (`log.progress`).
        title: verb, recipe and seed for the first line.
    """
    view = LiveView(title) if progress == "auto" and fancy() else View(title, quiet=progress == "none")
    bus.on(RunStart, view.start)
    bus.on(StepEnd, view.step)
    bus.on(Evaluated, view.evaluated)
    bus.on(Sampled, view.sampled)
    bus.on(Committed, view.committed)
    bus.on(Notice, view.notice)
    bus.on(RunEnd, view.end)
    return view


class View:
    """Plain lines on stderr; with `quiet` only warnings."""

    def __init__(self, title: tuple[str, str, int], *, quiet: bool = False) -> None:
        self.verb, self.recipe, self.seed = title
        self.quiet = quiet
        self.total = 0
        self.warned: set[str] = set()

    def say(self, text: str, style: str = "") -> None:
        """One line for the user."""
        del style
        if not self.quiet:
            streams.say(text)

    def start(self, event: RunStart) -> None:
        """The header: one fact a line."""
        self.total = event.total_steps
        self.say(f"llmtrain {__version__}  {self.verb}  {escape(self.recipe)}  seed {self.seed}", "bold")
        self.block(event.header)

    def step(self, event: StepEnd) -> None:
        """A line for a log step."""
        if event.log:
            self.say(step_line(event.step, self.total, event.values))

    def evaluated(self, event: Evaluated) -> None:
        """A line for an evaluation."""
        self.say(f"step {event.step} " + pairs(event.values), "green")

    def sampled(self, event: Sampled) -> None:
        """A line for each generated text."""
        for sample in event.samples:
            self.say(f"step {event.step} sample " + " ".join(f"{key}={escape(text)}" for key, text in sample.items()))

    def committed(self, event: Committed) -> None:
        """A line for a checkpoint."""
        self.say(f"step {event.step} saved {escape(event.path)} in {event.seconds:.1f} s")

    def notice(self, event: Notice) -> None:
        """What the run has to say; each warning once."""
        mark = f" [{event.id}]" if event.id else ""
        if event.level != "warning":
            self.say(escape(event.message) + mark)
            return
        if event.message not in self.warned:
            self.warned.add(event.message)
            self.warn(f"warning: {escape(event.message)}{mark}")

    def warn(self, text: str) -> None:
        """A warning is shown even with `--quiet`."""
        streams.say(text)

    def end(self, event: RunEnd) -> None:
        """The summary."""
        self.close()
        self.block(event.summary)

    def block(self, lines: Mapping[str, str]) -> None:
        """Labelled lines, aligned."""
        width = max((len(label) for label in lines), default=0)
        for label, text in lines.items():
            first, rest = f"  {label:<{width}}  ", " " * (width + 4)
            for line in self.fold(escape(text), len(rest)):
                self.say(first + line)
                first = rest

    def fold(self, text: str, indent: int) -> list[str]:
        """The text as it stands; a file has no width."""
        del indent
        return [text]

    def close(self) -> None:
        """Nothing is left open."""


class LiveView(View):
    """A terminal: the same lines in colour, and the current step as one live line below them."""

    def __init__(self, title: tuple[str, str, int]) -> None:
        super().__init__(title)
        self.console = terminal()
        self.live: Live | None = None
        self.losses: list[float] = []
        self.drawn = 0.0
        self.began = time.monotonic()
        self.first = 0

    def say(self, text: str, style: str = "") -> None:
        """Printed above the live line."""
        self._guard(lambda: self.console.print(Text(text, style=style), soft_wrap=True))

    def fold(self, text: str, indent: int) -> list[str]:
        """Words wrapped to the terminal; words with two spaces between them stay columns."""
        room = max(20, self.console.width - indent - 1)
        return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False, drop_whitespace=True) or [""]

    def warn(self, text: str) -> None:
        """Printed above the live line, in yellow."""
        self.say(text, STYLES["warning:"])

    def start(self, event: RunStart) -> None:
        """The header, then the live line."""
        super().start(event)
        self.first, self.began = event.start_step, time.monotonic()
        live = self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self._guard(live.start)

    def step(self, event: StepEnd) -> None:
        """Redraw the live line, at most every tenth of a second."""
        if "loss" in event.values:
            self.losses.append(event.values["loss"])
        now = time.monotonic()
        if self.live is None or (now - self.drawn < REFRESH_SECONDS and event.step != self.total):
            return
        self.drawn = now
        done = max(1, event.step - self.first)
        left = (now - self.began) / done * max(0, self.total - event.step)
        width = self.console.width
        line = live_line(event.step, self.total, event.values, self.losses, left, width, ascii_only=self._ascii())
        live = self.live
        self._guard(lambda: live.update(Text(line, no_wrap=True, overflow="crop"), refresh=True))

    def close(self) -> None:
        """Take the live line away."""
        live, self.live = self.live, None
        if live is not None:
            self._guard(live.stop)

    def _ascii(self) -> bool:
        return not (self.console.encoding or "").lower().startswith("utf")

    def _guard(self, draw: Any) -> None:  # noqa: ANN401 - a callable without arguments
        """A terminal that went away must not stop a run."""
        try:
            draw()
        except (OSError, ValueError):
            self.live = None
            self.quiet = True


def step_line(step: int, total: int, values: Mapping[str, float]) -> str:
    """`step 10/300 loss=2.31 lr=0.001 ...`: the plain form of a log step."""
    shown = {name: value for name, value in values.items() if name not in ("step", "samples")}
    return f"step {step}/{total} {pairs(shown)}"


def live_line(
    step: int, total: int, values: Mapping[str, float], losses: Sequence[float], left: float, width: int, *,
    ascii_only: bool = False,
) -> str:  # fmt: skip
    """Step, bar, loss, curve, tokens a second, memory and time left in at most `width` columns.

    Args:
        left: seconds to the end.
    """
    parts = []
    if "loss" in values:
        parts.append(f"loss {values['loss']:.4g} {sparkline(losses, ascii_only=ascii_only)}")
    if "tokens_per_second" in values:
        parts.append(f"{short(values['tokens_per_second'])} tok/s")
    if "memory_gib" in values:
        parts.append(f"{values['memory_gib']:.1f} GiB")
    parts.append(f"{clock(left)} left")
    head, tail = f"step {step}/{total} ", "  " + "  ".join(parts)
    room = min(30, width - 1 - len(head) - len(tail))
    return (head + bar(step, total, room, ascii_only=ascii_only) + tail)[: max(1, width - 1)]


def bar(step: int, total: int, width: int, *, ascii_only: bool = False) -> str:
    """A progress bar of `width` columns; empty when there is no room."""
    if width < 4:
        return ""
    filled = round(width * min(1.0, step / total)) if total else 0
    full, rest = ("#", "-") if ascii_only else ("━", "─")
    return full * filled + rest * (width - filled)


def sparkline(values: Sequence[float], points: int = CURVE, *, ascii_only: bool = False) -> str:
    """The whole history as `points` characters, each the mean of its share of steps."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    count = min(points, len(finite))
    edges = [len(finite) * number // count for number in range(count + 1)]
    means = [sum(finite[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    bars = ASCII_BARS if ascii_only else BARS
    return "".join(bars[min(7, int((value - low) / span * 7.999))] for value in means)


def pairs(values: Mapping[str, Any]) -> str:
    """`name=value` words; numbers with five significant digits."""
    return " ".join(f"{name}={number(value)}" for name, value in values.items())


def number(value: Any) -> str:  # noqa: ANN401 - a JSON value
    """A number as lines show it."""
    if isinstance(value, bool) or not isinstance(value, float):
        return escape(str(value))
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.5g}"


def short(value: float) -> str:
    """`12.3k`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    whole = int(seconds + 0.5)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def metrics_table(result: Mapping[str, Any]) -> str:
    """The numbers of a result, one a line, for stdout."""
    rows: dict[str, str] = {}
    for name, value in result.items():
        if isinstance(value, Mapping):
            rows |= {str(inner): number(item) for inner, item in value.items() if isinstance(item, int | float)}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            rows[name] = number(value)
    width = max((len(name) for name in rows), default=0)
    return "".join(f"{name:<{width}}  {text}\n" for name, text in rows.items())
