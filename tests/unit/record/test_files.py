"""Atomic writes, append-once lines, strict JSON and hashes."""

import hashlib
import os
import zlib
from pathlib import Path

import pytest

from llmtrain.record import files


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'{"a":1,"a":2}', "'a' stands twice"), (b'{"x":[{"b":1,"b":1}]}', "'b' stands twice"),
        (b"[NaN]", "NaN is not JSON"),
        (b"-Infinity", "-Infinity is not JSON"), (b"{", "line 1 column 2"), (b'"\xff"', "not UTF-8 at byte 1"),
        (b"[" * 100_000, "deep"), (b"", "not valid JSON"), (b"9" * 5000, "not valid JSON"),
    ],
)  # fmt: skip
def test_strict_json_says_why(text: bytes, why: str) -> None:
    with pytest.raises(files.BadJson, match=why):
        files.parse_json(text)


def test_canonical_is_one_form_without_nan() -> None:
    assert files.canonical({"b": 1, "a": [0.1, "é"]}) == '{"a":[0.1,"é"],"b":1}'.encode()
    with pytest.raises(ValueError, match="Out of range"):
        files.canonical({"a": float("nan")})


def test_written_tells_size_hash_and_blocks(tmp_path: Path) -> None:
    data = os.urandom(files.BLOCK + 100)
    with files.NewFile(tmp_path / "a") as file:
        for start in range(0, len(data), 1_000_001):
            file.write(data[start : start + 1_000_001])
        written = file.finish()
    blocks = (data[: files.BLOCK], data[files.BLOCK :])
    assert written.size == len(data) and written.sha256 == hashlib.sha256(data).hexdigest()
    assert written.blocks == tuple(f"{zlib.crc32(block):08x}" for block in blocks)
    assert files.hash_file(tmp_path / "a") == written
    assert [files.block_sum(tmp_path / "a", number) for number in (0, 1)] == list(written.blocks)


def test_a_replaced_file_leaves_no_temporary(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "a", b"1")
    files.write_atomic(tmp_path / "a", b"2")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"2")]


def test_a_failed_replacement_keeps_the_old(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "a", b"1")
    with pytest.raises(ValueError, match="Out of range"):
        files.write_json(tmp_path / "a", float("inf"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        files.write_atomic(tmp_path / "folder", b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "folder"]


def test_lines_survive_a_torn_end(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    files.append_line(path, {"n": 1})
    with path.open("ab") as file:
        file.write(b'{"n": 2')
    assert list(files.read_lines(path)) == [{"n": 1}]
    files.append_line(path, {"n": 3}, sync=True)
    assert list(files.read_lines(path)) == [{"n": 1}, {"n": 3}]
    with path.open("ab") as file:
        file.write(b"x" * 100_000)
    assert files.repair_lines(path) == 100_000 and files.repair_lines(path) == 0
    assert files.repair_lines(tmp_path / "absent") == 0 and list(files.read_lines(tmp_path / "absent")) == []


def test_an_append_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines"
    files.append_line(path, {"n": 1})
    original = os.write
    calls: list[int] = []

    def half(descriptor: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return original(descriptor, bytes(data)[:3])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="space"):
        files.append_line(path, {"n": 2})
    assert path.read_bytes() == b'{"n":1}\n'


def test_what_is_not_a_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    for name in ("fifo", "link", "."):
        with pytest.raises(OSError, match=r"."):
            files.read_regular(tmp_path / name)


def test_a_published_folder_is_whole_or_absent(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("x")

    def broken(folder: Path) -> None:
        fill(folder)
        raise OSError(28, "full")

    with pytest.raises(OSError, match="full"):
        files.publish_folder(tmp_path / "model", broken)
    assert list(tmp_path.iterdir()) == []
    assert files.publish_folder(tmp_path / "model", fill)
    assert (tmp_path / "model" / "sub" / "a").read_text() == "x"
    with pytest.raises(FileExistsError):
        files.publish_folder(tmp_path / "model", fill)
