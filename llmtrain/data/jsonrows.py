"""JSON lines and JSON arrays to rows, strictly and in flat memory; separate because Python's defaults are too lax.

Refused: NaN and infinities, a key twice in one object, two values in a line, nesting beyond the interpreter's limit.
"""

import json
from collections.abc import Iterator
from typing import Any, NoReturn

from llmtrain.data.documents import LONGEST, BadRow, bad_row, too_long
from llmtrain.data.streams import lines
from llmtrain.errors import Failure, Problem, fail, quoted


class _RefusedError(ValueError):
    """JSON that Python reads and we do not."""

    def __init__(self, id: str, message: str) -> None:
        super().__init__(message)
        self.id = id


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _RefusedError("E-DATA-009", f"key {quoted(twice)} stands twice in one object")
    return row


def _no_constant(name: str) -> NoReturn:
    raise _RefusedError("E-DATA-001", f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
_BLANK = " \t\r\n"


def json_lines(chunks: Iterator[str], file: str) -> Iterator[tuple[int, Any]]:
    """(1-based line, value or BadRow) for each line that is not blank."""
    for number, line in lines(chunks):
        if line is None:
            yield number, too_long(file, number, "the line")
        elif body := line.rstrip(_BLANK):
            yield number, _parse_line(body, file, number)


def _parse_line(line: str, file: str, number: int) -> Any:  # noqa: ANN401 - any JSON value
    try:
        value, end = _DECODER.raw_decode(line, len(line) - len(line.lstrip(_BLANK)))
        if end != len(line):
            rest = line[end:].lstrip(_BLANK)
            what = "two values in one line" if rest[:1] in ("{", "[") else f"text after the value: {quoted(rest, 20)}"
            return bad_row(
                "E-DATA-001",
                what,
                file=file,
                row=number,
                column=len(line) - len(rest) + 1,
            )
        if isinstance(value, list):
            hint = "a file that is one JSON array is named .json; here each line holds one object"
            return bad_row(
                "E-DATA-006",
                "a line must hold an object, got a list",
                file=file,
                row=number,
                hint=hint,
            )
        return value
    except (ValueError, RecursionError) as error:
        return BadRow(problem=_problem(error, line, file, number, line_column=True))


def _problem(error: Exception, text: str, file: str, row: int, *, line_column: bool) -> Problem:
    if isinstance(error, _RefusedError):
        return fail(error.id, str(error), file=file, line=row).problems[0]
    if isinstance(error, RecursionError):
        return fail("E-DATA-010", "the value is nested too deep", file=file, line=row).problems[0]
    if isinstance(error, json.JSONDecodeError):
        column = error.colno if line_column else None
        near = text[error.pos : error.pos + 1]
        message = f"not valid JSON: {error.msg[0].lower()}{error.msg[1:]}, " + (
            f"at {quoted(near)}" if near else "at the end"
        )
        hint = "JSON takes double quotes only" if near == "'" else None
        return bad_row("E-DATA-001", message, file=file, row=row, column=column, hint=hint).problem
    return fail("E-DATA-010", "a number has more than 4,300 digits", file=file, line=row).problems[0]


def json_values(chunks: Iterator[str], file: str) -> Iterator[tuple[int, Any]]:
    """(1-based row, value or BadRow) for each item of an array, or of a sequence of values.

    Raises:
        Failure: the file is not JSON from some point on; the place is the line of the item that cannot be read.
    """
    scanner = _Scanner(chunks, file)
    is_array = scanner.peek() == "["
    if is_array:
        scanner.advance(1)
    row, first = 0, True
    while (following := scanner.peek()) not in ("", "]" if is_array else ""):
        if is_array and not first:
            if following != ",":
                raise scanner.error(f"expecting a comma or ] before {quoted(following)}")
            scanner.advance(1)
            scanner.peek()
        row, first = row + 1, False
        yield row, scanner.value(row)
    if is_array:
        _end_of_array(scanner)


def _end_of_array(scanner: "_Scanner") -> None:
    if scanner.peek() == "":
        raise scanner.error("the file ends before the array does")
    scanner.advance(1)
    if rest := scanner.peek():
        raise scanner.error(f"text after the array: {quoted(rest)}")


class _Scanner:
    """A window over the text that grows until the value at its start is complete."""

    def __init__(self, chunks: Iterator[str], file: str) -> None:
        self.chunks = chunks
        self.file = file
        self.window = ""
        self.at = 0
        self.line = 1
        self.ended = False

    def peek(self) -> str:
        """The next character that is not blank, "" at the end."""
        while True:
            while self.at < len(self.window):
                character = self.window[self.at]
                if character not in _BLANK:
                    return character
                self.line += character == "\n"
                self.at += 1
            if not self._grow():
                return ""

    def advance(self, count: int) -> None:
        self.line += self.window.count("\n", self.at, self.at + count)
        self.at += count

    def value(self, row: int) -> Any:  # noqa: ANN401 - any JSON value
        """The value here. More text is asked for in doubling steps, so that a long value costs linear time."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.window, self.at)
                if end < len(self.window) or self.ended or isinstance(value, (dict, list, str)):
                    self.advance(end - self.at)
                    return value
                error: Exception = ValueError()
            except (ValueError, RecursionError) as caught:
                error = caught
            size = len(self.window) - self.at
            if size > LONGEST:
                raise self.error(
                    f"item {row} is not valid JSON, or has more than {LONGEST:,} characters",
                    "E-DATA-010",
                )
            if not self._worth_growing(error) or not self._grow(size):
                raise self._broken(error, row)

    def _worth_growing(self, error: Exception) -> bool:
        """Whether the error may be only the window's end."""
        if self.ended or isinstance(error, (RecursionError, _RefusedError)):
            return False
        if isinstance(error, json.JSONDecodeError):
            return len(self.window) - error.pos < 16 or error.msg.startswith("Unterminated string")
        return True

    def _broken(self, error: Exception, row: int) -> Failure:
        if isinstance(error, json.JSONDecodeError):
            line = self.line + self.window.count("\n", self.at, error.pos)
            problem = _problem(error, self.window, self.file, line, line_column=False)
        else:
            problem = _problem(error, self.window, self.file, self.line, line_column=False)
        return fail(
            problem.id,
            f"item {row}: {problem.message}",
            file=self.file,
            line=problem.place.line,
            hint=problem.hint,
        )

    def error(self, message: str, id: str = "E-DATA-001") -> Failure:
        return fail(id, message, file=self.file, line=self.line)

    def _grow(self, least: int = 0) -> bool:
        """Append at least `least` characters; False when the text has ended."""
        parts, size = [self.window[self.at :]], 0
        while size <= least:
            chunk = next(self.chunks, None)
            if chunk is None:
                self.ended = True
                break
            parts.append(chunk)
            size += len(chunk)
        self.window, self.at = "".join(parts), 0
        return size > 0
