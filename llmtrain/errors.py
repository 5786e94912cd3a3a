"""Problems a user can cause or meet, their ids and the exit codes; separate because every layer reports through it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum


class Exit(IntEnum):
    """The closed table of exit codes (surface.md 4)."""

    OK = 0
    BUG = 1
    INPUT = 2
    UNHEALTHY = 3
    NO_CHECKPOINT = 4
    NO_FIT = 5
    LOST_PEER = 69
    IO = 74
    STOPPED = 75
    INTERRUPTED = 130
    TERMINATED = 143


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a problem stands: a file or the command line, 1-based line and column, and the source line itself."""

    file: str | None = None
    line: int | None = None
    column: int | None = None
    text: str | None = None
    width: int = 1


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong, in the user's words: what, where, and how to mend it."""

    id: str
    message: str
    place: Place = field(default_factory=Place)
    key: str | None = None
    hint: str | None = None

    def __post_init__(self) -> None:
        assert self.id in REGISTRY, f"unregistered error id {self.id}"

    @property
    def exit_code(self) -> Exit:
        return REGISTRY[self.id][0]


class Failure(Exception):  # noqa: N818 - a run fails; "error" is the word of the message
    """Carries every problem found; the exit code is that of the first."""

    def __init__(self, *problems: Problem) -> None:
        assert problems
        super().__init__(problems[0].message)
        self.problems: Sequence[Problem] = problems

    @property
    def exit_code(self) -> Exit:
        return self.problems[0].exit_code


class Terminated(BaseException):
    """SIGTERM arrived before there was anything to save; like KeyboardInterrupt, not an error of the program."""


def fail(
    id: str, message: str, *, file: str | None = None, line: int | None = None, key: str | None = None,
    hint: str | None = None,
) -> Failure:  # fmt: skip
    """Shorthand for a failure with a single problem; the caller raises it."""
    return Failure(Problem(id=id, message=message, place=Place(file=file, line=line), key=key, hint=hint))


def escape(text: str) -> str:
    """Make control characters visible, so that data can never steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(value: object, limit: int = 60) -> str:
    """The value as shown in messages: escaped, cut at `limit` characters, in double quotes when it is text."""
    text = escape(str(value))
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return f'"{text}"' if isinstance(value, str) else text


def headline(problem: Problem) -> str:
    """`file:line:column: key: message [ID]` with absent parts left out."""
    place = problem.place
    column = None if place.line is None else place.column
    where = ":".join(str(part) for part in (place.file, place.line, column) if part is not None)
    parts = [part for part in (where, problem.key) if part]
    return escape(": ".join([*parts, problem.message])) + f" [{problem.id}]"


def render(problem: Problem) -> str:
    """The whole plain-text form: headline, excerpt with a caret, hint."""
    lines = [f"error: {headline(problem)}"]
    place = problem.place
    if place.text is not None and place.column is not None:
        gutter = f"{place.line if place.line is not None else '$':>4} | "
        start = max(0, place.column - 1 - 80)
        shown = escape(place.text[start : start + 150])
        lead = len(escape(place.text[start : place.column - 1]))
        lines.append(f"{gutter}{shown}")
        lines.append(f"     | {' ' * lead}{'^' * max(1, min(place.width, len(shown) - lead))}")
    if problem.hint:
        lines.append(f"hint: {escape(problem.hint)}")
    return "\n".join(lines)


REGISTRY: dict[str, tuple[Exit, str]] = {
    # the recipe
    "E-RECIPE-001": (Exit.INPUT, "unknown key"),
    "E-RECIPE-002": (Exit.INPUT, "wrong type: a map, a list or a single value expected"),
    "E-RECIPE-003": (Exit.INPUT, "value outside its choices"),
    "E-RECIPE-004": (Exit.INPUT, "not a value of the key's type"),
    "E-RECIPE-005": (Exit.INPUT, "value outside its range"),
    "E-RECIPE-006": (Exit.INPUT, "a required key is missing"),
    "E-RECIPE-007": (Exit.INPUT, "key set twice"),
    "E-RECIPE-008": (Exit.INPUT, "not valid YAML"),
    "E-RECIPE-009": (Exit.INPUT, "keys contradict each other"),
    "E-RECIPE-010": (Exit.INPUT, "unknown name in a slot"),
    "E-RECIPE-011": (Exit.INPUT, "YAML reads the value as another type"),
    "E-RECIPE-012": (Exit.INPUT, "a key of another tool"),
    "E-RECIPE-013": (Exit.INPUT, "not available in this version"),
    "E-RECIPE-014": (Exit.INPUT, "`extends` cannot be followed"),
    "E-RECIPE-015": (Exit.INPUT, "interpolation failed"),
    "E-RECIPE-016": (Exit.INPUT, "the recipe is not a map, or is empty"),
    "E-RECIPE-017": (Exit.INPUT, "the recipe is too large or too deep"),
    "E-RECIPE-018": (Exit.INPUT, "no recipe of that name"),
    "E-RECIPE-019": (Exit.INPUT, "YAML tags are not allowed"),
    # files
    "E-FILE-001": (Exit.INPUT, "file not found"),
    "E-FILE-002": (Exit.INPUT, "file cannot be read"),
    "E-FILE-003": (Exit.INPUT, "file is not UTF-8"),
    "E-FILE-004": (Exit.INPUT, "not a regular file"),
    "E-FILE-005": (Exit.INPUT, "output cannot be written"),
    # the command line
    "E-CLI-001": (Exit.INPUT, "usage"),
    "E-CLI-002": (Exit.INPUT, "unknown key on the command line"),
    "E-CLI-003": (Exit.INPUT, "malformed KEY=VALUE"),
    "E-CLI-004": (Exit.INPUT, "options contradict each other"),
    "E-CLI-005": (Exit.INPUT, "no such run"),
    # the plan
    "E-PLAN-001": (Exit.INPUT, "batch arithmetic does not come out"),
    "E-PLAN-002": (Exit.INPUT, "layout does not fit the model"),
    "E-PLAN-003": (Exit.INPUT, "layout does not fit the world"),
    "E-PLAN-004": (Exit.INPUT, "schedule does not fit the budget"),
    "E-PLAN-005": (Exit.INPUT, "no budget"),
    # data
    "E-DATA-001": (Exit.INPUT, "not valid JSON"),
    "E-DATA-002": (Exit.INPUT, "text encoding"),
    "E-DATA-003": (Exit.INPUT, "missing column"),
    "E-DATA-004": (Exit.INPUT, "wrong type in a column"),
    "E-DATA-005": (Exit.INPUT, "not a table this tool can read"),
    "E-DATA-006": (Exit.INPUT, "row breaks its format"),
    "E-DATA-007": (Exit.INPUT, "data file not found"),
    "E-DATA-008": (Exit.INPUT, "no rows"),
    "E-DATA-009": (Exit.INPUT, "duplicate key in a row"),
    "E-DATA-010": (Exit.INPUT, "line too long or nested too deep"),
    "E-DATA-011": (Exit.INPUT, "unknown file type"),
    "E-DATA-012": (Exit.INPUT, "damaged compressed file"),
    "E-DATA-013": (Exit.INPUT, "too few rows to split"),
    "E-DATA-014": (Exit.INPUT, "row longer than data.seq_len"),
    "E-DATA-015": (Exit.INPUT, "an extra is needed to read this"),
    "E-DATA-016": (Exit.INPUT, "malformed csv"),
    "E-DATA-019": (Exit.INPUT, "a limit of data.limits is passed"),
    "E-DATA-020": (Exit.IO, "data changed or vanished while running"),
    # models and tokenizers
    "E-MODEL-001": (Exit.INPUT, "model not found"),
    "E-MODEL-002": (Exit.INPUT, "model configuration"),
    "E-MODEL-003": (Exit.INPUT, "model weights do not match"),
    "E-MODEL-004": (Exit.INPUT, "tokenizer"),
    "E-MODEL-005": (Exit.INPUT, "tokenizer and embedding sizes differ"),
    "E-MODEL-006": (Exit.INPUT, "sequence longer than the model's positions"),
    "E-MODEL-007": (Exit.INPUT, "the factory's module cannot be used"),
    # security
    "E-SEC-001": (Exit.INPUT, "a pickle file is not opened"),
    "E-SEC-002": (Exit.INPUT, "code named without permission"),
    "E-SEC-003": (Exit.INPUT, "remote code"),
    # environment
    "E-ENV-001": (Exit.INPUT, "a package is missing"),
    "E-ENV-002": (Exit.INPUT, "device or precision not available"),
    "E-ENV-003": (Exit.INPUT, "run folder in use"),
    "E-ENV-004": (Exit.INPUT, "ranks disagree"),
    "E-ENV-005": (Exit.INPUT, "offline"),
    # a run
    "E-RUN-001": (Exit.UNHEALTHY, "non-finite loss or gradient"),
    "E-RUN-002": (Exit.UNHEALTHY, "loss above run.max_loss"),
    "E-RUN-003": (Exit.UNHEALTHY, "too many skipped steps"),
    "E-RUN-004": (Exit.UNHEALTHY, "the recipe's tests are missed"),
    "E-RUN-005": (Exit.BUG, "unexpected error"),
    "E-RUN-006": (Exit.INPUT, "run folder exists"),
    "E-RUN-007": (Exit.INPUT, "resume would not be the same run"),
    "E-RUN-008": (Exit.UNHEALTHY, "the saved model differs from the trained one"),
    # checkpoints
    "E-CKPT-001": (Exit.UNHEALTHY, "non-finite tensor in a checkpoint"),
    "E-CKPT-002": (Exit.INPUT, "checkpoint does not match the model"),
    "E-CKPT-003": (Exit.IO, "checkpoint could not be written"),
    "E-CKPT-004": (Exit.NO_CHECKPOINT, "no usable checkpoint"),
    "E-CKPT-005": (Exit.NO_CHECKPOINT, "checkpoint is damaged"),
    # memory, input and output, peers
    "E-FIT-001": (Exit.NO_FIT, "does not fit in memory"),
    "E-IO-001": (Exit.IO, "disk full"),
    "E-IO-002": (Exit.IO, "input or output failed"),
    "E-PEER-001": (Exit.LOST_PEER, "a rank died"),
    "E-PEER-002": (Exit.LOST_PEER, "a rank did not come"),
    "E-PEER-004": (Exit.LOST_PEER, "a rank made no progress"),
}
