"""Corpus D: malformed data files; each names the error, the line and a part of the message; nothing is left."""

import bz2
import gzip
import io
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from llmtrain.data.documents import LONGEST
from llmtrain.errors import Exit, Failure, render
from llmtrain.recipe.schema import DataSection, Source

GOOD = b'{"text": "a good row of words"}\n'


def table(values: list[Any], kind: Any = None, name: str = "text") -> pyarrow.Table:
    return pyarrow.table({name: pyarrow.array(values, kind)})


def parquet(content: pyarrow.Table) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(content, sink)
    return sink.getvalue()


def arrow(content: pyarrow.Table, stream: bool = False) -> bytes:
    sink = io.BytesIO()
    with (pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file)(sink, content.schema) as writer:
        writer.write_table(content)
    return sink.getvalue()


def invalid_utf8() -> pyarrow.Table:
    offsets, data = (
        pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"),
        pyarrow.py_buffer(b"ok\xff\xfe"),
    )
    return pyarrow.table({"text": pyarrow.StringArray.from_buffers(2, offsets, data)})


JSON_LINES = [
    (
        "cut last line",
        GOOD + b'{"text": "never clos',
        "E-DATA-001",
        2,
        "not valid JSON",
    ),
    ("cut after a key", GOOD + b'{"text":', "E-DATA-001", 2, "at the end"),
    ("trailing comma", GOOD + b'{"text": "a",}\n', "E-DATA-001", 2, "not valid JSON"),
    ("single quotes", GOOD * 2 + b"{'text': 'a'}\n", "E-DATA-001", 3, "double quotes"),
    ("no quotes", b"{text: 1}\n", "E-DATA-001", 1, "not valid JSON"),
    ("plain text", b"just words\n", "E-DATA-001", 1, "not valid JSON"),
    ("NaN", GOOD + b'{"text": "a", "score": NaN}\n', "E-DATA-001", 2, "NaN"),
    ("Infinity", b'{"text": "a", "score": -Infinity}\n', "E-DATA-001", 1, "-Infinity"),
    (
        "two objects",
        GOOD + b'{"text": "a"} {"text": "b"}\n',
        "E-DATA-001",
        2,
        "two values",
    ),
    ("words after the object", b'{"text": "a"} yes\n', "E-DATA-001", 1, "yes"),
    ("array named .jsonl", b'[{"text": "a"}]\n', "E-DATA-006", 1, "got a list"),
    (
        "array over lines",
        b'[\n{"text": "a"},\n{"text": "b"}\n]\n',
        "E-DATA-001",
        1,
        "not valid JSON",
    ),
    ("text row", GOOD + b'"only text"\n', "E-DATA-006", 2, "got text"),
    ("null row", b"null\n", "E-DATA-006", 1, "got null"),
    ("number row", GOOD * 3 + b"17\n", "E-DATA-006", 4, "got a number"),
    (
        "missing column",
        GOOD + b'{"txt": "a", "id": 3}\n',
        "E-DATA-003",
        2,
        '"txt", "id"',
    ),
    ("empty object", GOOD + b"{}\n", "E-DATA-003", 2, "none"),
    ("null text", GOOD + b'{"text": null}\n', "E-DATA-004", 2, "got null"),
    ("number text", b'{"text": 12}\n', "E-DATA-004", 1, "got a number"),
    ("boolean text", b'{"text": true}\n', "E-DATA-004", 1, "got a boolean"),
    ("list text", GOOD + b'{"text": ["a"]}\n', "E-DATA-004", 2, "got a list"),
    ("object text", b'{"text": {"a": 1}}\n', "E-DATA-004", 1, "got an object"),
    (
        "duplicate key",
        GOOD + b'{"text": "a", "text": "b"}\n',
        "E-DATA-009",
        2,
        '"text" stands twice',
    ),
    (
        "nested duplicate key",
        b'{"text": "a", "m": {"k": 1, "k": 2}}\n',
        "E-DATA-009",
        1,
        '"k" stands twice',
    ),
    ("lone high surrogate", GOOD + b'{"text": "\\ud83d"}\n', "E-DATA-002", 2, "U+D83D"),
    ("lone low surrogate", b'{"text": "ab\\udc00"}\n', "E-DATA-002", 1, "character 3"),
    ("raw NUL", GOOD + b'{"text": "a\0b"}\n', "E-DATA-002", 2, "NUL"),
    ("raw tab", b'{"text": "a\tb"}\n', "E-DATA-001", 1, "control character"),
    ("bad escape", b'{"text": "\\x41"}\n', "E-DATA-001", 1, "escape"),
    (
        "1e5 nested lists",
        b'{"text": "a", "m": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        "E-DATA-010",
        1,
        "deep",
    ),
    (
        "1e6 digits",
        GOOD + b'{"text": "a", "n": ' + b"9" * 1_000_000 + b"}\n",
        "E-DATA-010",
        2,
        "4,300 digits",
    ),
    ("comment", b'// rows\n{"text": "a"}\n', "E-DATA-001", 1, "not valid JSON"),
    ("empty", b"", "E-DATA-008", None, "no document"),
    ("blank lines only", b"\n\n \r\n", "E-DATA-008", None, "no document"),
    ("empty texts only", b'{"text": ""}\n', "E-DATA-008", None, "no document"),
    ("form feed between rows", GOOD + b"\x0c\n", "E-DATA-001", 2, "not valid JSON"),
]
ENCODINGS = [
    ("latin-1", GOOD + '{"text": "caf\u00e9"}\n'.encode("latin-1"), "E-DATA-002", 2, "0xe9 at offset 45"),
    ("cut character", GOOD + b'{"text": "\xe2\x82', "E-DATA-002", 2, "ends inside a character"),
    ("overlong slash", b'{"text": "\xc0\xaf"}\n', "E-DATA-002", 1, "0xc0 at offset 10"),
    ("encoded surrogate", b'{"text": "\xed\xa0\x80"}\n', "E-DATA-002", 1, "0xed at offset 10"),
    ("above U+10FFFF", GOOD + b'{"text": "\xf5\x90\x80\x80"}\n', "E-DATA-002", 2, "0xf5"),
    ("UTF-16 without mark", '{"text": "a row"}\n'.encode("utf-16-le"), "E-DATA-002", 1, "NUL"),
    ("UTF-16 cut", b"\xff\xfe" + '{"text": "a"}\n'.encode("utf-16-le")[:-1], "E-DATA-002", 1, "ends inside"),
    ("UTF-32 beyond", b"\xff\xfe\0\0" + b"\0\0\x11\0", "E-DATA-002", 1, "utf-32-le"),
    ("ISO-2022-JP", '{"text": "\u65e5\u672c"}\n'.encode("iso2022_jp"), "E-DATA-002", 1, "ISO-2022-JP"),
    (
        "shift_jis far in",
        GOOD * 90_000 + '{"text": "\u65e5\u672c\u8a9e"}\n'.encode("shift_jis"),
        "E-DATA-002",
        90_001,
        "not utf-8",
    ),
]
OTHERS = [
    ("json", b'[{"text": "a"}, {"text": "b"', "E-DATA-001", 1, "item 2"),
    (
        "json",
        b'[\n{"text": "a"}\n{"text": "b"}\n]',
        "E-DATA-001",
        3,
        "expecting a comma",
    ),
    ("json", b'[{"text": "a"},\n', "E-DATA-001", 2, "item 2"),
    ("json", b'[{"text": "a"}]\n[]', "E-DATA-001", 2, "after the array"),
    ("json", b'[{"text": "a"},\n\n{"text": nul}]', "E-DATA-001", 3, "item 2"),
    ("json", b"[]", "E-DATA-008", None, "no document"),
    ("json", b'[{"text": "a"}, {"text": 1}]', "E-DATA-004", 2, "got a number"),
    ("json", b'{"rows": []}', "E-DATA-003", 1, '"rows"'),
    ("json", b"[" * 100_000, "E-DATA-010", 1, "deep"),
    ("csv", b"id,body\n1,a\n", "E-DATA-003", 1, '"id", "body"'),
    ("csv", b"text,text\na,b\n", "E-DATA-009", 1, "twice in the header"),
    ("csv", b"text,id\na,1\nb\n", "E-DATA-016", 3, "1 fields, but the header has 2"),
    ("csv", b"text,id\na,1\nwell, this,2\n", "E-DATA-016", 3, "3 fields"),
    (
        "csv",
        b'text,id\n"a\nb",1\n"never closed,2\nmore\n',
        "E-DATA-016",
        4,
        "never closed",
    ),
    ("csv", b'text\n"a"b\n', "E-DATA-016", 2, "malformed csv"),
    ("csv", b"text;id\na;1\n", "E-DATA-003", 1, "text;id"),
    ("csv", b"text\n", "E-DATA-008", None, "no document"),
    ("tsv", b"text,id\na,1\n", "E-DATA-003", 1, "text,id"),
    ("parquet", parquet(table(["a"] * 50))[:-6], "E-DATA-005", None, "parquet"),
    ("parquet", b"not parquet at all", "E-DATA-005", None, "parquet"),
    ("parquet", b"", "E-DATA-005", None, "parquet"),
    ("parquet", parquet(table([1, 2])), "E-DATA-004", None, "int64"),
    ("parquet", parquet(table([["a"]])), "E-DATA-004", None, "list"),
    ("parquet", parquet(table(["a"], name="content")), "E-DATA-003", None, '"content"'),
    ("parquet", parquet(table(["a", "b", None])), "E-DATA-004", 3, "got null"),
    (
        "parquet",
        parquet(table([], pyarrow.string())),
        "E-DATA-008",
        None,
        "no document",
    ),
    ("arrow", arrow(table(["a"]))[:100], "E-DATA-005", None, "Arrow"),
    ("arrow", b"hello", "E-DATA-005", None, "Arrow"),
    ("arrow", arrow(table([1.5])), "E-DATA-004", None, "double"),
    ("arrow", arrow(table(["a", None]), stream=True), "E-DATA-004", 2, "got null"),
    ("arrow", arrow(invalid_utf8()), "E-DATA-002", 2, "not UTF-8"),
    ("jsonl.gz", gzip.compress(GOOD * 9)[:-9], "E-DATA-012", None, "damaged gzip"),
    ("jsonl.gz", GOOD, "E-DATA-012", None, "damaged gzip"),
    ("jsonl.gz", gzip.compress(GOOD) + b"tail", "E-DATA-012", None, "damaged gzip"),
    ("jsonl.gz", gzip.compress(GOOD + b"{,}\n"), "E-DATA-001", 2, "not valid JSON"),
    (
        "jsonl.zst",
        zstandard.compress(GOOD * 500)[:-3],
        "E-DATA-012",
        None,
        "inside a frame",
    ),
    ("jsonl.zst", b"", "E-DATA-012", None, "damaged zstd"),
    ("jsonl.zst", bz2.compress(GOOD), "E-DATA-012", None, "damaged zstd"),
    ("txt", b"one\ntwo\0\n", "E-DATA-002", 2, "NUL"),
    ("txt", b"", "E-DATA-008", None, "no document"),
    ("txt", b"words\n\xe9t\xe9\n", "E-DATA-002", 2, "0xe9 at offset 6"),
    ("jsonl.gz", gzip.compress(b"a" * (20 << 20)), "E-DATA-010", None, "bomb"),
    ("doc", b"words", "E-DATA-011", None, '".doc"'),
    ("jsonl.bz2", bz2.compress(GOOD), "E-DATA-011", None, '".bz2"'),
]

CASES = [("jsonl", name, *rest) for name, *rest in (*JSON_LINES, *ENCODINGS)]
CASES += [(kind, f"{kind} {number}", *rest) for number, (kind, *rest) in enumerate(OTHERS)]


@pytest.mark.parametrize(
    ("kind", "content", "id", "line", "expected"), [(c[0], *c[2:]) for c in CASES], ids=[c[1] for c in CASES]
)
def test_a_malformed_file_is_named(
    kind: str,
    content: bytes,
    id: str,
    line: int | None,
    expected: str,
    tmp_path: Path,
    make: Callable[..., Any],
) -> None:
    path = tmp_path / f"data.{kind}"
    path.write_bytes(content)
    with pytest.raises(Failure) as caught:
        make(path, eval=[])
    problem = caught.value.problems[0]
    assert (problem.id, problem.place.file, problem.place.line) == (
        id,
        str(path),
        line,
    ), render(problem)
    assert expected in render(problem)
    assert problem.exit_code == Exit.INPUT
    assert len(problem.message) <= 200 and "\n" not in problem.message
    left = [file for file in (tmp_path / "cache").rglob("*") if file.name != "tokens"]
    assert left == []


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 60


def test_a_line_beyond_the_cap_is_named_in_flat_memory(tmp_path: Path, make: Callable[..., Any]) -> None:
    path = tmp_path / "long.jsonl"
    with open(path, "wb") as handle:
        handle.write(GOOD + b'{"text": "')
        handle.writelines(b"a" * (1 << 20) for _ in range(LONGEST // (1 << 20) + 2))
        handle.write(b'"}\n')
    with pytest.raises(Failure) as caught:
        make(path)
    assert (caught.value.problems[0].id, caught.value.problems[0].place.line) == (
        "E-DATA-010",
        2,
    )


def folder_as_file(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("prepare_place", "name", "id"),
    [
        (lambda path: None, "missing.txt", "E-DATA-007"),
        (lambda path: None, "*.jsonl", "E-DATA-007"),
        (lambda path: None, "no/such/folder/", "E-DATA-007"),
        (folder_as_file, "empty", "E-DATA-008"),
        (pipe, "pipe.jsonl", "E-FILE-004"),
        (device, "zero.txt", "E-FILE-004"),
        (dangling, "link.txt", "E-DATA-007"),
    ],
)
def test_what_is_no_file_is_refused(
    prepare_place: Callable[[Path], None],
    name: str,
    id: str,
    tmp_path: Path,
    make: Callable[..., Any],
) -> None:
    prepare_place(tmp_path / name)
    with pytest.raises(Failure) as caught:
        make(f"{tmp_path}/{name}")
    assert caught.value.problems[0].id == id


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path: Path, make: Callable[..., Any]) -> None:
    path = tmp_path / "secret.txt"
    path.write_text("words")
    path.chmod(stat.S_IWUSR)
    with pytest.raises(Failure) as caught:
        make(path)
    assert caught.value.problems[0].id == "E-FILE-002"


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ({"columns": {"label": "y"}}, "data.train[0].columns"),
        ({"columns": {"text": "body"}}, "data.train[0].columns"),
        ({"encoding": "klingon"}, "data.train[0].encoding"),
        ({"encoding": "base64"}, "data.train[0].encoding"),
        ({"split": "test"}, "data.train[0].split"),
    ],
)
def test_a_key_that_no_file_can_use_is_refused(
    source: dict, key: str, tmp_path: Path, make: Callable[..., Any]
) -> None:
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(Failure) as caught:
        make(Source(path=str(tmp_path / "a.txt"), **source))
    assert caught.value.problems[0].key == key


def test_problems_of_all_sources_come_at_once(tmp_path: Path, make: Callable[..., Any]) -> None:
    with pytest.raises(Failure) as caught:
        make(tmp_path / "a.txt", tmp_path / "b.txt")
    assert [problem.place.file for problem in caught.value.problems] == [
        str(tmp_path / "a.txt"),
        str(tmp_path / "b.txt"),
    ]


def test_bad_rows_are_skipped_counted_and_listed(tmp_path: Path, make: Callable[..., Any]) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(GOOD * 30 + b"{,}\n" + GOOD + b'{"text": 1}\n' + GOOD)
    prepared = make(path, on_bad_row="skip", eval=[])
    entry = prepared.ledger.sources[0]
    assert (entry.bad_rows, entry.documents) == (2, 32)
    assert entry.bad[0].startswith(f"{path}:31: not valid JSON") and entry.bad[1].startswith(f"{path}:33: column")
    assert "2 bad rows skipped" in prepared.ledger.notices[0]


def test_values_in_messages_cannot_steer_a_terminal(tmp_path: Path, make: Callable[..., Any]) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(json.dumps({"\x1b[31mred\r": 1}).encode() + b"\n")
    with pytest.raises(Failure) as caught:
        make(path)
    assert "\x1b" not in render(caught.value.problems[0]) and "\r" not in render(caught.value.problems[0])


ROWS = [
    "first row",
    "second \u65e5\u672c row",
    'third "quoted", row\u2028with a separator',
]


def lines_of(rows: list[str], end: str = "\n") -> str:
    return "".join(json.dumps({"text": row}, ensure_ascii=False) + end for row in rows)


ACCEPTED = {
    "plain.jsonl": lines_of(ROWS).encode(),
    "bom.jsonl": b"\xef\xbb\xbf" + lines_of(ROWS).encode(),
    "crlf.jsonl": lines_of(ROWS, "\r\n").encode(),
    "blank.jsonl": ("\n\n" + lines_of(ROWS, "\n\n \t\n")).encode(),
    "no_end.jsonl": lines_of(ROWS).rstrip("\n").encode(),
    "ascii.jsonl": "".join(json.dumps({"text": row}) + "\n" for row in ROWS).encode(),
    "extra.jsonl": "".join(json.dumps({"id": 1, "text": row, "m": {"a": [None]}}) + "\n" for row in ROWS).encode(),
    "utf16.jsonl": lines_of(ROWS).encode("utf-16"),
    "utf32.jsonl": lines_of(ROWS).encode("utf-32"),
    "upper.JSONL": lines_of(ROWS).encode(),
    "gz.jsonl.gz": gzip.compress(lines_of(ROWS).encode()),
    "members.jsonl.gz": b"".join(gzip.compress(lines_of([row]).encode()) for row in ROWS),
    "zst.jsonl.zst": zstandard.compress(lines_of(ROWS).encode()),
    "frames.jsonl.zst": b"".join(zstandard.compress(lines_of([row]).encode()) for row in ROWS),
    "array.json": json.dumps([{"text": row} for row in ROWS], indent=2).encode(),
    "lines.json": lines_of(ROWS).encode(),
    "array.json.gz": gzip.compress(json.dumps([{"text": row} for row in ROWS]).encode()),
    "table.csv": ("text,id\n" + "".join('"' + r.replace('"', '""') + '",1\n' for r in ROWS)).encode(),
    "crlf.csv": ("\ufefftext\r\n" + "".join('"' + r.replace('"', '""') + '"\r\n' for r in ROWS)).encode(),
    "table.tsv": ("id\ttext\n" + "".join('1\t"' + r.replace('"', '""') + '"\n' for r in ROWS)).encode(),
    "table.parquet": parquet(table(ROWS)),
    "large.parquet": parquet(table(ROWS, pyarrow.large_string())),
    "words.parquet": parquet(table(ROWS, pyarrow.dictionary(pyarrow.int32(), pyarrow.string()))),
    "file.arrow": arrow(table(ROWS)),
    "stream.arrow": arrow(table(ROWS), stream=True),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_valid_look_alikes_give_the_same_rows(
    name: str, tmp_path: Path, make: Callable[..., Any], tokenizer: Any
) -> None:
    path = tmp_path / name
    path.write_bytes(ACCEPTED[name])
    prepared = make(path, eval=[], packing=False, seq_len=100)
    rows = [prepared.train.row(index) for index in range(len(prepared.train))]
    assert [tokenizer.decode(row.ids) for row in rows] == ROWS
    assert all(row.ids[-1] == tokenizer.eos_id for row in rows)


def test_a_renamed_column_is_read(tmp_path: Path, make: Callable[..., Any]) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"body": "words to read"}\n')
    section = DataSection(train=[Source(path=str(path), columns={"text": "body"})])
    assert make(*section.train, eval=[]).documents == 1
