"""Files to bytes and lines, gzip and zstd unpacked on the way; separate from what the bytes mean."""

import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from llmtrain.data.documents import LONGEST
from llmtrain.errors import Failure, fail

CHUNK = 1 << 20
BOMB_SIZE, BOMB_RATIO = 16 << 20, 200
"""Compressed files that have unpacked to more than this many bytes at more than this ratio are refused."""
_ZSTD_WINDOW = 1 << 27


def open_regular(path: Path) -> BufferedReader:
    """The file, opened for reading.

    Raises:
        Failure: it is missing, no regular file (a folder, pipe or device) or not readable.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise fail("E-DATA-007", "no such file", file=str(path)) from error
    except OSError as error:
        if path.exists() and not path.is_file():
            raise fail("E-FILE-004", "not a regular file", file=str(path)) from error
        raise fail("E-FILE-002", f"cannot be read: {error.strerror}", file=str(path)) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise fail("E-FILE-004", "not a regular file", file=str(path))
    return os.fdopen(handle, "rb")


def read_bytes(path: Path, *, shown: str) -> Iterator[bytes]:
    """The file's bytes in chunks, unpacked when its name ends in .gz or .zst.

    Raises:
        Failure: as `open_regular`; a damaged or cut compressed file; one that unpacks beyond all proportion.
    """
    with open_regular(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        if path.suffix == ".gz":
            yield from _guarded(_gunzip(handle, shown), size, shown)
        elif path.suffix == ".zst":
            yield from _guarded(_unzstd(handle, shown), size, shown)
        else:
            yield from _plain(handle, shown)


def _plain(handle: BinaryIO, shown: str) -> Iterator[bytes]:
    try:
        while chunk := handle.read(CHUNK):
            yield chunk
    except OSError as error:
        raise fail("E-FILE-002", f"cannot be read: {error.strerror}", file=shown) from error


def _gunzip(handle: BinaryIO, shown: str) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=handle) as unpacked:
            while chunk := unpacked.read(CHUNK):
                yield chunk
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(shown, "gzip", error) from error


def _unzstd(handle: BinaryIO, shown: str) -> Iterator[bytes]:
    import zstandard

    context = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    started = False
    try:
        reader = context.decompressobj()
        while packed := handle.read(CHUNK // 8):
            while packed:
                started = True
                if chunk := reader.decompress(packed):
                    yield chunk
                packed = b""
                if reader.eof:
                    packed, reader, started = (
                        reader.unused_data,
                        context.decompressobj(),
                        False,
                    )
    except zstandard.ZstdError as error:
        raise _damaged(shown, "zstd", error) from error
    if started or handle.tell() == 0:
        raise _damaged(shown, "zstd", EOFError("the file ends inside a frame"))


def _damaged(shown: str, kind: str, error: Exception) -> Failure:
    return fail(
        "E-DATA-012",
        f"damaged {kind} file: {error}"[:200],
        file=shown,
        hint="unpack it by hand, or get it anew",
    )


def _guarded(chunks: Iterator[bytes], size: int, shown: str) -> Iterator[bytes]:
    """The chunks, until they have outgrown the packed file beyond all proportion."""
    seen = 0
    for chunk in chunks:
        seen += len(chunk)
        if seen > BOMB_SIZE and seen > BOMB_RATIO * size:
            message = f"{size:,} packed bytes unpack to more than {seen:,}: this looks like a decompression bomb"
            raise fail(
                "E-DATA-010",
                message,
                file=shown,
                hint="unpack it by hand if it is meant",
            )
        yield chunk


def lines(chunks: Iterator[str]) -> Iterator[tuple[int, str | None]]:
    """(1-based number, line with its end) for each line; the text of a line above `LONGEST` characters is None.

    Only a line feed ends a line, so that U+2028 and its kin may stand in JSON strings.
    """
    number, rest, size = 1, [], 0
    for chunk in chunks:
        head, *more = chunk.split("\n")
        rest.append(head if size <= LONGEST else "")
        size += len(head)
        for following in more:
            yield number, "".join([*rest, "\n"]) if size <= LONGEST else None
            number, rest, size = number + 1, [following], len(following)
    if size:
        yield number, "".join(rest) if size <= LONGEST else None
