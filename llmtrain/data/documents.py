"""What readers hand on: pieces of documents and bad rows; separate because readers and consumers share it."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from llmtrain.errors import Place, Problem, quoted

PIECE = 1 << 18
"""Characters after which a document is cut into pieces, so that memory does not grow with a document."""
LONGEST = 1 << 26
"""Characters (64 Mi) a line, a JSON value or a csv field may have."""

_LINE_END = re.compile(r"(?<=\S)\n(?=\S)")
_SPACE = re.compile(r"(?<=\S) (?=\S)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Text of one document, whole or in part; a document's pieces follow each other and `last` ends it.

    `row` is the 1-based line of line-based files, else the 1-based row.
    """

    text: str
    file: str
    row: int
    last: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """A row that cannot be read while the rows after it can."""

    problem: Problem


def bad_row(
    id: str,
    message: str,
    *,
    file: str,
    row: int,
    column: int | None = None,
    hint: str | None = None,
) -> BadRow:
    """A bad row at its place."""
    return BadRow(
        problem=Problem(
            id=id,
            message=message,
            place=Place(file=file, line=row, column=column),
            hint=hint,
        )
    )


def cut(chunks: Iterable[str], *, file: str, row: int) -> Iterator[Piece]:
    """One document's text, given in chunks, as pieces of about `PIECE` characters.

    Cuts depend on the text alone, not on the chunks. A cut stands after a line end or before a space with text on
    both sides, where a byte-level tokenizer never joins characters, so that pieces tokenise as the whole does.
    """
    rest = ""
    for chunk in chunks:
        rest = rest + chunk if rest else chunk
        start = 0
        while len(rest) - start > 2 * PIECE:
            border = _border(rest, start + PIECE)
            yield Piece(text=rest[start:border], file=file, row=row, last=False)
            start = border
        rest = rest[start:] if start else rest
    yield Piece(text=rest, file=file, row=row)


def _border(text: str, near: int) -> int:
    """The first safe cut at or after `near` within one more piece, else `near`."""
    if found := _LINE_END.search(text, near, near + PIECE):
        return found.end()
    if found := _SPACE.search(text, near, near + PIECE):
        return found.start()
    return near


def too_long(file: str, row: int, what: str) -> BadRow:
    """The bad row of a line, value or field above `LONGEST`."""
    return bad_row(
        "E-DATA-010",
        f"{what} has more than {LONGEST:,} characters, the longest this tool reads",
        file=file,
        row=row,
        hint="split it into several rows",
    )


def text_of(row: object, column: str, *, file: str, line: int) -> str | BadRow:
    """The text in a row's column, or why there is none."""
    if not isinstance(row, dict):
        return bad_row(
            "E-DATA-006",
            f"a row must be an object, got {_kind(row)}",
            file=file,
            row=line,
        )
    if column not in row:
        return BadRow(problem=missing_column(column, list(row), Place(file=file, line=line)))
    text = row[column]
    if not isinstance(text, str):
        return bad_row(
            "E-DATA-004",
            f"column {quoted(column)} must be text, got {_kind(text)}",
            file=file,
            row=line,
        )
    return checked(text, file=file, line=line)


def checked(text: str, *, file: str, line: int) -> str | BadRow:
    """The text, or the bad row of a lone surrogate in it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        message = f"the text has a lone surrogate U+{code:04X} at character {error.start + 1}, which is no character"
        return bad_row("E-DATA-002", message, file=file, row=line)
    return text


def missing_column(column: str, found: Sequence[str], place: Place) -> Problem:
    """The problem of a table or row without the column, with the line that would mend it."""
    shown = ", ".join(quoted(name, 30) for name in found[:8]) + (
        f" and {len(found) - 8} more" if len(found) > 8 else ""
    )
    message = f"no column {quoted(column)}; found: {shown or 'none'}"
    other = next(
        (name for name in found if name.lower() in ("text", "content", "body", "document")),
        None,
    )
    hint = f"name the column that holds the text: `columns: {{text: {other or (found[0] if found else 'NAME')}}}`"
    return Problem(id="E-DATA-003", message=message[:200], place=place, hint=hint)


def _kind(value: object) -> str:
    names = {
        type(None): "null",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
    }
    return names.get(type(value), "an object")
