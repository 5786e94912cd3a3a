"""csv, parquet and Arrow files to rows; separate because tables have a schema to check before the first row."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtrain.data.documents import LONGEST, bad_row, missing_column, too_long
from llmtrain.data.streams import lines, open_regular
from llmtrain.errors import Failure, Place, fail, quoted

if TYPE_CHECKING:
    import pyarrow

ROWS = 256
"""Rows of a table in memory at a time."""


def csv_rows(chunks: Iterator[str], file: str, column: str, delimiter: str) -> Iterator[tuple[int, Any]]:
    """(1-based line a row starts on, {column: text} or BadRow) for each row; the first row names the columns.

    Raises:
        Failure: the header lacks the column or has it twice, or quoting breaks, after which no row can be trusted.
    """
    source = _Lines(chunks, file)
    csv.field_size_limit(LONGEST)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    position: int | None = None
    width = 0
    for start, row in _records(reader, source, file):
        if not row:
            continue
        if position is None:
            position, width = _header(row, column, file, start), len(row)
        elif len(row) != width:
            message = f"{len(row)} fields, but the header has {width}"
            hint = 'a field that holds the delimiter or a quote must stand in quotes: "..."'
            yield start, bad_row("E-DATA-016", message, file=file, row=start, hint=hint)
        else:
            yield start, {column: row[position]}


class _Lines:
    """Lines for the csv reader, and the number of the last one given out."""

    def __init__(self, chunks: Iterator[str], file: str) -> None:
        self.lines = lines(chunks)
        self.file = file
        self.number = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        self.number, line = next(self.lines)
        if line is None:
            raise Failure(too_long(self.file, self.number, "the line").problem)
        return line


def _records(reader: Any, source: _Lines, file: str) -> Iterator[tuple[int, list[str]]]:  # noqa: ANN401 - a csv reader
    while True:
        start = source.number + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            if "field larger" in str(error):
                raise Failure(too_long(file, start, "a field").problem) from error
            raise _bad_quoting(error, file, start) from error
        if row is None:
            return
        yield start, row


def _bad_quoting(error: csv.Error, file: str, line: int) -> Failure:
    text = str(error)
    if "unexpected end of data" in text:
        text = "a quoted field that starts in this row is never closed"
    elif "new-line character" in text:
        text = "a carriage return without a line feed stands outside quotes"
    return fail(
        "E-DATA-016",
        f"malformed csv: {text}"[:200],
        file=file,
        line=line,
        hint='a quote inside a quoted field is written twice: ""',
    )


def _header(row: list[str], column: str, file: str, line: int) -> int:
    if row.count(column) > 1:
        raise fail(
            "E-DATA-009",
            f"column {quoted(column)} stands twice in the header",
            file=file,
            line=line,
        )
    if column not in row:
        raise Failure(missing_column(column, row, Place(file=file, line=line)))
    return row.index(column)


def parquet_rows(path: Path, file: str, column: str) -> Iterator[tuple[int, Any]]:
    """(1-based row, {column: value} or BadRow) of a parquet file.

    Raises:
        Failure: not parquet, or damaged; the column is missing or holds no text.
    """
    from pyarrow import parquet

    with open_regular(path) as handle, _table_errors(file, "parquet"):
        table = parquet.ParquetFile(handle)
        _check_column(table.schema_arrow, column, file)
        batches = table.iter_batches(batch_size=ROWS, columns=[column], use_threads=False)
        yield from _column_rows(batches, column, file)


def arrow_rows(path: Path, file: str, column: str) -> Iterator[tuple[int, Any]]:
    """As `parquet_rows` for Arrow's IPC file and stream formats, told apart by their first bytes."""
    from pyarrow import ipc

    with open_regular(path) as handle, _table_errors(file, "Arrow"):
        is_file = handle.read(6) == b"ARROW1"
        handle.seek(0)
        if is_file:
            reader = ipc.open_file(handle)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            reader = ipc.open_stream(handle)
            batches = iter(reader)
        _check_column(reader.schema, column, file)
        yield from _column_rows(batches, column, file)


class _table_errors:  # noqa: N801 - used as a context manager, like a function
    """Context that turns pyarrow's errors into ours."""

    def __init__(self, file: str, kind: str) -> None:
        self.file = file
        self.kind = kind

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import pyarrow

        if isinstance(error, (pyarrow.ArrowException, OSError)):
            text = str(error).split("\n")[0]
            message = f"not a readable {self.kind} file: {text}"[:200]
            raise fail("E-DATA-005", message, file=self.file, hint="is the file whole?") from error


def _check_column(schema: "pyarrow.Schema", column: str, file: str) -> None:
    import pyarrow

    count = schema.names.count(column)
    if count == 0:
        raise Failure(missing_column(column, schema.names, Place(file=file)))
    if count > 1:
        raise fail(
            "E-DATA-009",
            f"column {quoted(column)} stands twice in the schema",
            file=file,
        )
    kind = schema.field(column).type
    inner = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    texts = (
        pyarrow.types.is_string,
        pyarrow.types.is_large_string,
        pyarrow.types.is_string_view,
    )
    if not any(is_text(inner) for is_text in texts):
        raise fail(
            "E-DATA-004",
            f"column {quoted(column)} must be text, got {kind}"[:200],
            file=file,
        )


def _column_rows(batches: Iterator[Any], column: str, file: str) -> Iterator[tuple[int, Any]]:
    row = 0
    for batch in batches:
        values = batch.column(batch.schema.get_field_index(column))
        for index in range(len(values)):
            row += 1
            try:
                yield row, {column: values[index].as_py()}
            except UnicodeDecodeError as error:
                message = f"byte {error.start} of the text is not UTF-8"
                yield row, bad_row("E-DATA-002", message, file=file, row=row)
