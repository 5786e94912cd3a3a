"""A source of a recipe to its files and documents; separate because it alone knows where documents come from."""

import glob
import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtrain.data import hub
from llmtrain.data.builtin import builtin_documents, builtin_files
from llmtrain.data.documents import BadRow, Piece, checked, cut, text_of, too_long
from llmtrain.data.encodings import decode, named_encoding
from llmtrain.data.jsonrows import json_lines, json_values
from llmtrain.data.streams import lines, open_regular, read_bytes
from llmtrain.data.tables import arrow_rows, csv_rows, parquet_rows
from llmtrain.errors import fail, quoted
from llmtrain.recipe.schema import Source

PLAIN = (".txt", ".md")
TEXTUAL = (*PLAIN, ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
BINARY = (".parquet", ".arrow")
KNOWN = (*TEXTUAL, *BINARY)
PACKED = (".gz", ".zst")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(:[\w.-]+)?")


@dataclass(frozen=True, kw_only=True)
class OpenSource:
    """A source whose files are found; nothing of them is read yet but for the hub's."""

    name: str
    source: Source
    key: str
    files: tuple[Path, ...]
    passed_over: int = 0
    """Files of a folder whose type is unknown."""
    data: Any = None
    """The hub's data set."""

    @property
    def shown(self) -> list[str]:
        """Names of the files as messages show them, in the order documents come."""
        if self.data is not None or self.source.path.startswith("builtin:"):
            return [self.source.path]
        return [str(file) for file in self.files]

    @property
    def size(self) -> int | None:
        """Bytes of all files, None where it says nothing about the text's."""
        if any(kind_of(file) not in TEXTUAL or file.suffix in PACKED for file in self.files):
            return None
        return sum(file.stat().st_size for file in self.files)


def kind_of(path: Path) -> str:
    """The file type: the suffix in lower case, that of a packed file's content."""
    if path.suffix.lower() in PACKED:
        path = path.with_suffix("")
    return path.suffix.lower()


def open_source(source: Source, *, key: str, offline: bool = False) -> OpenSource:
    """Find the files behind a source.

    Args:
        key: the source's place in the recipe, for messages: `data.train[0]`.
        offline: never reach for the hub.

    Raises:
        Failure: nothing is there, a type is unknown, or a key has no meaning for this source.
    """
    name = source.name or _last_part(source.path)
    if set(source.columns) - {"text"}:
        other = next(iter(set(source.columns) - {"text"}))
        message = f"nothing reads a column called {quoted(other)}; this objective reads `text`"
        raise fail(
            "E-DATA-003",
            message,
            key=f"{key}.columns",
            hint="write `columns: {text: NAME_IN_THE_FILE}`",
        )
    if source.path.startswith("builtin:"):
        files = builtin_files(source.path, key=f"{key}.path")
        opened = OpenSource(name=name, source=source, key=key, files=tuple(files))
    elif source.path.startswith("hf://") or _is_hub_name(source.path):
        data = hub.load(source.path, split=source.split, offline=offline, key=f"{key}.path")
        return OpenSource(
            name=name,
            source=source,
            key=key,
            files=tuple(hub.content_files(data)),
            data=data,
        )
    else:
        found, passed_over = _local_files(source, key)
        opened = OpenSource(
            name=name,
            source=source,
            key=key,
            files=tuple(found),
            passed_over=passed_over,
        )
    _refuse_idle_keys(opened)
    return opened


def _last_part(path: str) -> str:
    part = path.removeprefix("builtin:").rstrip("/").rsplit("/", 1)[-1]
    return part or "data"


def _is_hub_name(path: str) -> bool:
    if os.path.lexists(path) or not _HUB_NAME.fullmatch(path):
        return False
    return kind_of(Path(path)) not in KNOWN and not Path(path.split("/", maxsplit=1)[0]).is_dir()


def _local_files(source: Source, key: str) -> tuple[list[Path], int]:
    """The files behind a path or glob, and how many a folder holds besides."""
    path = Path(source.path)
    if path.is_dir():
        return _folder_files(path, key)
    found = [path]
    if not os.path.lexists(path) and glob.has_magic(source.path):
        found = sorted(file for file in map(Path, glob.glob(source.path, recursive=True)) if not file.is_dir())  # noqa: PTH207 - the pattern may be absolute
        if not found:
            raise fail(
                "E-DATA-007",
                f"no file matches {quoted(source.path)}",
                key=f"{key}.path",
            )
    for file in found:
        open_regular(file).close()
        if source.documents == "auto" and kind_of(file) not in KNOWN:
            message = f"unknown file type {quoted(kind_of(file) or 'none')}"
            hint = "for plain text add `documents: file` (or `lines`); else convert it to .jsonl or .parquet"
            raise fail("E-DATA-011", message, file=str(file), key=f"{key}.path", hint=hint)
    return found, 0


def _folder_files(folder: Path, key: str) -> tuple[list[Path], int]:
    """Files of known types at any depth, sorted by path, hidden ones left out; and the number of others."""
    below = [file for file in folder.rglob("*") if file.is_file()]
    seen = [file for file in below if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    found = sorted(file for file in seen if kind_of(file) in KNOWN)
    if not found:
        hint = f"types read here: {' '.join(KNOWN)}, also with .gz or .zst"
        raise fail(
            "E-DATA-008",
            "the folder holds no file of a known type",
            file=str(folder),
            key=key,
            hint=hint,
        )
    return found, len(seen) - len(found)


def _refuse_idle_keys(opened: OpenSource) -> None:
    """Nothing accepted is ignored: a key that no file of the source can use is an error."""
    source, kinds = opened.source, [kind_of(file) for file in opened.files]
    is_builtin = source.path.startswith("builtin:")
    plain = [kind for kind in kinds if kind not in TEXTUAL[len(PLAIN) :] and kind not in BINARY]
    idle = {
        "split": source.split != "train",
        "columns": bool(source.columns) and (is_builtin or len(plain) == len(kinds)),
        "encoding": source.encoding is not None and (is_builtin or all(kind in BINARY for kind in kinds)),
        "documents": source.documents != "auto" and (is_builtin or not plain),
    }
    for name, unused in idle.items():
        if unused:
            raise fail(
                "E-RECIPE-009",
                "has no meaning for this source",
                key=f"{opened.key}.{name}",
                hint="take it out",
            )
    if source.encoding is not None:
        named_encoding(source.encoding, key=f"{opened.key}.encoding")


def content_hashes(opened: OpenSource, workers: int) -> list[str]:
    """SHA-256 of each file's bytes, always read anew: size and time do not prove that a file is unchanged."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(_sha256, opened.files))


def _sha256(path: Path) -> str:
    with open_regular(path) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def documents(opened: OpenSource) -> Iterator[tuple[int, Piece | BadRow]]:
    """(index into `opened.shown`, piece or bad row) in a fixed order.

    Raises:
        Failure: a file cannot be read from some point on.
    """
    source = opened.source
    if opened.data is not None:
        yield from ((0, piece) for piece in hub.documents(opened.data, source.path, column_of(source)))
    elif source.path.startswith("builtin:"):
        yield from ((0, piece) for piece in builtin_documents(source.path, list(opened.files)))
    else:
        for index, file in enumerate(opened.files):
            yield from ((index, item) for item in file_documents(file, source))


def column_of(source: Source) -> str:
    """The column that holds the text."""
    return source.columns.get("text", "text")


def file_documents(path: Path, source: Source) -> Iterator[Piece | BadRow]:
    """Documents of one file, by its type."""
    kind, file = kind_of(path), str(path)
    if kind in (*TEXTUAL[len(PLAIN) :], *BINARY):
        for row, value in _rows(path, kind, source):
            if isinstance(value, BadRow):
                yield value
                continue
            text = text_of(value, column_of(source), file=file, line=row)
            yield from ([text] if isinstance(text, BadRow) else cut([text], file=file, row=row))
    elif source.documents == "lines":
        yield from _line_documents(_text(path, source), file)
    else:
        yield from cut(_newlines(_text(path, source)), file=file, row=1)


def _rows(path: Path, kind: str, source: Source) -> Iterator[tuple[int, Any]]:
    file, column = str(path), column_of(source)
    match kind:
        case ".parquet":
            return parquet_rows(path, file, column)
        case ".arrow":
            return arrow_rows(path, file, column)
        case ".csv" | ".tsv":
            return csv_rows(_text(path, source), file, column, "," if kind == ".csv" else "\t")
        case ".json":
            return json_values(_text(path, source), file)
        case _:
            return json_lines(_text(path, source), file)


def _text(path: Path, source: Source) -> Iterator[str]:
    encoding = named_encoding(source.encoding) if source.encoding is not None else None
    return decode(read_bytes(path, shown=str(path)), file=str(path), encoding=encoding)


def _newlines(chunks: Iterator[str]) -> Iterator[str]:
    r"""Plain text with `\r\n` and `\r` as `\n`."""
    decoder = io.IncrementalNewlineDecoder(None, translate=True)
    for chunk in chunks:
        yield decoder.decode(chunk)
    yield decoder.decode("", final=True)


def _line_documents(chunks: Iterator[str], file: str) -> Iterator[Piece | BadRow]:
    for number, line in lines(_newlines(chunks)):
        if line is None:
            yield too_long(file, number, "the line")
        elif line.strip():
            text = checked(line.rstrip("\n"), file=file, line=number)
            yield from ([text] if isinstance(text, BadRow) else cut([text], file=file, row=number))


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, later ones of the same name numbered."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return out
