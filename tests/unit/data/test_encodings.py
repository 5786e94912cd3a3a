"""Encodings: read exactly as Python's codecs read them, or refused at the true byte; never mojibake."""

import codecs
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtrain.data.documents import BadRow
from llmtrain.data.encodings import decode, likely_encodings, named_encoding
from llmtrain.data.sources import file_documents, open_source
from llmtrain.errors import Failure
from llmtrain.recipe.schema import Source

AWKWARD = {
    "big5.txt": "big5", "cp949.txt": "cp949", "euc_jp.txt": "euc_jp", "gb18030.txt": "gb18030", "gbk.txt": "gb18030",
    "shift_jis.txt": "shift_jis",
}  # fmt: skip
MARKED = {
    "english_utf8_bom.txt": "utf-8-sig",
    "polish_utf8_crlf.txt": "utf-8",
    "spanish_crlf.txt": "utf-8",
    "subtitles_utf16le_bom.srt": "utf-16",
}


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def text_of(path: Path, **keys: str) -> str:
    items = list(file_documents(path, Source(path=str(path), **keys)))
    assert not any(isinstance(item, BadRow) for item in items)
    return "".join(item.text for item in items)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_mark_decides_and_is_taken_off(encoding: str, size: int) -> None:
    text = "\u65e5 caf\u00e9 \U0001f600\nend"
    mark = {"utf-8": codecs.BOM_UTF8}.get(encoding, "\ufeff".encode(encoding))
    chunks = decode(in_pieces(mark + text.encode(encoding), size), file="f", encoding=None)
    assert "".join(chunks) == text


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0\x1b\ufeff")),
    size=st.integers(1, 9),
)
def test_utf8_comes_back_however_it_is_cut(text: str, size: int) -> None:
    assert "".join(decode(in_pieces(text.encode(), size), file="f", encoding=None)) == text


@settings(max_examples=80, deadline=None)
@given(data=st.binary(max_size=60), size=st.integers(1, 20))
def test_arbitrary_bytes_are_read_as_python_reads_them_or_refused_at_its_offset(data: bytes, size: int) -> None:
    try:
        expected: str | None = data.decode("utf-8-sig")
        offset = None
    except UnicodeDecodeError as error:
        expected, offset = (
            None,
            error.start + (3 if data.startswith(codecs.BOM_UTF8) else 0),
        )
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        found = "".join(decode(in_pieces(data, size), file="f", encoding=None))
    except Failure as failure:
        message = failure.problems[0].message
        assert marked or "\0" in data.decode("latin-1") or b"\x1b" in data or f"offset {offset:,}" in message
    else:
        assert marked or found == expected


@pytest.mark.parametrize("size", [1, 2, 5, 1 << 20])
def test_the_offset_and_line_of_a_bad_byte_are_true(size: int) -> None:
    data = "one\ntwo caf\u00e9\n".encode() + b"three \xff\n"
    with pytest.raises(Failure) as caught:
        list(decode(in_pieces(data, size), file="f", encoding=None))
    problem = caught.value.problems[0]
    assert (problem.place.line, "offset 20 " in problem.message) == (3, True), problem.message


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("cp932", b"abc\n\x82\xa0\x82\n"),
        ("utf-16-le", b"a\0\n\0\0\xd8a\0"),
        ("ascii", b"ab\n\xe9"),
    ],
)
def test_a_declared_encoding_is_strict(encoding: str, data: bytes) -> None:
    with pytest.raises(Failure) as caught:
        list(decode([data], file="f", encoding=named_encoding(encoding)))
    assert (caught.value.problems[0].id, caught.value.problems[0].place.line) == (
        "E-DATA-002",
        2,
    )


def test_a_mark_against_the_declared_encoding_is_refused() -> None:
    with pytest.raises(Failure, match="mark of utf-8"):
        list(decode([codecs.BOM_UTF8 + b"abcd"], file="f", encoding="cp1252"))


def test_line_ends_of_plain_text_become_line_feeds(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\ntwo\rthree\n\r\n")
    assert text_of(path) == "one\ntwo\nthree\n\n"


@pytest.mark.parametrize("name", MARKED)
def test_real_files_with_evidence_are_read(name: str, shared: Path) -> None:
    path = shared / "awkward" / name
    truth = path.read_bytes().decode(MARKED[name]).replace("\r\n", "\n").replace("\r", "\n")
    assert text_of(path, documents="file") == truth


@pytest.mark.parametrize("name", AWKWARD)
def test_real_files_without_evidence_are_refused_with_the_right_advice(name: str, shared: Path) -> None:
    path = shared / "awkward" / name
    data = path.read_bytes()
    with pytest.raises(UnicodeDecodeError) as truth:
        data.decode()
    with pytest.raises(Failure) as caught:
        text_of(path)
    problem = caught.value.problems[0]
    assert f"0x{data[truth.value.start]:02x} at offset {truth.value.start:,} " in problem.message
    assert problem.place.line == data.count(b"\n", 0, truth.value.start) + 1
    assert likely_encodings(data)[0] == AWKWARD[name]
    assert text_of(path, encoding=AWKWARD[name]) == data.decode(AWKWARD[name])


def test_a_latin1_file_is_advised_as_such(shared: Path) -> None:
    path = shared / "classification" / "trec_train.txt"
    with pytest.raises(Failure) as caught:
        text_of(path)
    assert caught.value.problems[0].hint.startswith("add `encoding: cp1252`")


@pytest.mark.parametrize(
    "name",
    [
        "c4_demo.jsonl",
        "c4_train_200.parquet",
        "dolma_cc_0091.jsonl.gz",
        "dolma_cc_0091.jsonl.zst",
        "tinyshakespeare.txt",
        "wiki_demo.txt",
    ],
)
def test_real_training_files_are_read(name: str, shared: Path) -> None:
    opened = open_source(Source(path=str(shared / "pretrain" / name)), key="data.train[0]")
    items = list(file_documents(opened.files[0], opened.source))
    documents = sum(item.last for item in items)
    assert documents == {
        "c4_demo.jsonl": 300,
        "c4_train_200.parquet": 200,
        "tinyshakespeare.txt": 1,
        "wiki_demo.txt": 1,
    }.get(name, 10)
    if name.endswith(".txt"):
        assert "".join(item.text for item in items) == (shared / "pretrain" / name).read_text("utf-8")
