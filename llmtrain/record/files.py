"""Bytes that survive: atomic writes, append-once lines, strict JSON, hashes; separate because every durable file of a
run goes through here and nowhere else.

Every call that changes the disk is a plain `os` function, so that fault injection sees each of them.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

BLOCK = 4 * 1024 * 1024
"""Bytes read, written and check-summed at once."""

_append_lock = threading.Lock()


class BadJson(ValueError):  # noqa: N818 - the message is what the user reads
    """Text that strict JSON refuses; the message says why and where."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was put on disk: bytes, SHA-256 of all of them, and a CRC-32 for each block of `BLOCK` bytes."""

    size: int
    sha256: str
    blocks: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return {"size": self.size, "sha256": self.sha256, "blocks": list(self.blocks)}


def canonical(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """The one byte form of a JSON value: sorted keys, no spaces, no NaN or Infinity (ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def parse_json(data: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Strict JSON: UTF-8, no key twice in an object, no NaN or Infinity.

    Raises:
        BadJson: with one line that says what is wrong.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            names = [name for name, _ in items]
            raise BadJson(f"key {next(n for n in names if names.count(n) > 1)!r} stands twice in one object")
        return result

    def constant(text: str) -> float:
        raise BadJson(f"{text} is not JSON")

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)
    except UnicodeDecodeError as error:
        raise BadJson(f"not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise BadJson(f"not valid JSON: {error.msg} at line {error.lineno} column {error.colno}") from error
    except RecursionError as error:
        raise BadJson("nested too deep") from error
    except BadJson:
        raise
    except ValueError as error:
        raise BadJson(f"not valid JSON: {error}") from error


def open_regular(path: Path) -> int:
    """A read-only descriptor of a regular file; never follows a link, never waits for a FIFO.

    Raises:
        OSError: absent, unreadable, a link (ELOOP), or not a regular file (EINVAL).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def read_regular(path: Path, limit: int = 1 << 30) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; raises OSError as `open_regular`, EFBIG above the limit."""
    descriptor = open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"{size} bytes, at most {limit} expected", str(path))
        parts: list[bytes] = []
        while part := os.read(descriptor, BLOCK):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def as_map(value: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    """The value if it is an object, else an empty one: for looking into JSON nobody vouches for."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def read_json(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    """Strict JSON of a regular file; raises OSError or BadJson."""
    return parse_json(read_regular(path))


def write_all(descriptor: int, data: memoryview | bytes) -> None:
    """Write every byte; a short write goes on where it ended."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class NewFile:
    """A file that must not exist yet, hashed while it is written; durable once `finish` returns.

    Use as a context manager: leaving without `finish` closes the file and leaves it to the caller's sweep.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o666)
        self._path = path
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._checksum = 0
        self._blocks: list[str] = []

    def write(self, data: memoryview | bytes) -> None:
        """Append bytes, in pieces of at most `BLOCK` that end where a check-summed block ends."""
        view = memoryview(data).cast("B")
        while view:
            piece = view[: BLOCK - self._size % BLOCK]
            write_all(self._descriptor, piece)
            self._sha256.update(piece)
            self._checksum = zlib.crc32(piece, self._checksum)
            self._size += len(piece)
            if self._size % BLOCK == 0:
                self._close_block()
            view = view[len(piece) :]

    def finish(self) -> Written:
        """Fsync, check the size on disk, close.

        Raises:
            OSError: a failed fsync is final for this file; the caller discards it.
        """
        os.fsync(self._descriptor)
        size = os.fstat(self._descriptor).st_size
        self.close()
        if size != self._size:
            raise OSError(errno.EIO, f"{size} bytes on disk, {self._size} written", str(self._path))
        if self._size % BLOCK:
            self._close_block()
        return Written(size=self._size, sha256=self._sha256.hexdigest(), blocks=tuple(self._blocks))

    def close(self) -> None:
        """Close without promise; closing twice is harmless."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _close_block(self) -> None:
        self._blocks.append(f"{self._checksum:08x}")
        self._checksum = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_new(path: Path, data: bytes) -> Written:
    """Create `path` with these bytes, durable but for its name; raises FileExistsError when it is there."""
    with NewFile(path) as file:
        file.write(data)
        return file.finish()


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` so that a reader, or the next start after a kill, sees the old bytes or the new, never half."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        write_new(temporary, data)
        os.rename(temporary, path)
    except BaseException:
        remove_file(temporary)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Indented JSON, atomically; ValueError for NaN or Infinity."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def remove_file(path: Path) -> bool:
    """Unlink; False when there was nothing."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def sync_folder(path: Path) -> bool:
    """Make the names in a folder durable; False where the file system cannot."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EACCES):
            return False
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTSUP):
            return False
        raise
    finally:
        os.close(descriptor)
    return True


def sync_file(path: Path) -> None:
    """Make the bytes of an existing regular file durable."""
    descriptor = open_regular(path)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_line(path: Path, value: Any, *, sync: bool = False) -> None:  # noqa: ANN401 - any JSON value
    """Append one JSON line with a single write; a torn line that a kill left at the end is cut first."""
    append_text(path, canonical(value) + b"\n", sync=sync)


def append_text(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Append whole lines, all or nothing: an append that fails half-way is cut off again."""
    flags = os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    with _append_lock:
        descriptor = os.open(path, flags, 0o666)
        try:
            length = _whole_lines(descriptor)
            if length != os.fstat(descriptor).st_size:
                os.ftruncate(descriptor, length)
            try:
                write_all(descriptor, data)
            except OSError:
                os.ftruncate(descriptor, length)
                raise
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if sync and not length:
        sync_folder(path.parent)


def repair_lines(path: Path) -> int:
    """Cut a torn last line; the number of bytes cut. An absent file is whole."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        size, length = os.fstat(descriptor).st_size, _whole_lines(descriptor)
        if length != size:
            os.ftruncate(descriptor, length)
            os.fsync(descriptor)
        return size - length
    finally:
        os.close(descriptor)


def _whole_lines(descriptor: int) -> int:
    """Length up to and including the last line end."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - 65536)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def read_lines(path: Path) -> Iterator[Any]:
    """The JSON objects of a file of lines; a torn or damaged line is passed over, an absent file is empty."""
    try:
        data = read_regular(path)
    except FileNotFoundError:
        return
    for line in data.split(b"\n"):
        if line.strip():
            try:
                value = parse_json(line)
            except BadJson:
                continue
            if isinstance(value, dict):
                yield value


def hash_file(path: Path) -> Written:
    """Size, SHA-256 and block sums of a regular file; raises OSError as `open_regular`."""
    descriptor = open_regular(path)
    try:
        digest, size = hashlib.sha256(), 0
        blocks: list[str] = []
        while block := _read_block(descriptor, size):
            digest.update(block)
            blocks.append(f"{zlib.crc32(block):08x}")
            size += len(block)
        return Written(size=size, sha256=digest.hexdigest(), blocks=tuple(blocks))
    finally:
        os.close(descriptor)


def block_sum(path: Path, number: int) -> str:
    """CRC-32 of one block of a regular file, as `Written.blocks` has it."""
    descriptor = open_regular(path)
    try:
        return f"{zlib.crc32(_read_block(descriptor, number * BLOCK)):08x}"
    finally:
        os.close(descriptor)


def _read_block(descriptor: int, offset: int) -> bytes:
    parts: list[bytes] = []
    wanted = BLOCK
    while wanted and (part := os.pread(descriptor, wanted, offset)):
        parts.append(part)
        offset += len(part)
        wanted -= len(part)
    return b"".join(parts)


def publish_folder(final: Path, fill: Callable[[Path], None]) -> bool:
    """Write a folder beside `final`, make it durable, then rename: it is there whole or not at all.

    Args:
        final: must not exist, else FileExistsError.
        fill: writes the files into the folder it is given; sub-folders are allowed.

    Returns:
        False where the file system cannot make names durable.
    """
    if os.path.lexists(final):
        raise FileExistsError(errno.EEXIST, "exists", str(final))
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}.tmp")
    os.mkdir(temporary)
    try:
        fill(temporary)
        for folder, _, names in os.walk(temporary, topdown=False):
            for name in names:
                sync_file(Path(folder, name))
            sync_folder(Path(folder))
        os.rename(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return sync_folder(final.parent)
