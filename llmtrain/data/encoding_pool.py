"""Documents to ids by several threads, in order; separate because the result must not depend on their number.

Threads rather than processes: the tokenizers library releases the interpreter's lock while it encodes, so threads
scale, and nothing can be orphaned, deadlock on a pipe or catch a signal. Memory is bounded by the chunks in flight.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from llmtrain.data.documents import PIECE, BadRow, Piece
from llmtrain.data.sources import OpenSource, documents
from llmtrain.data.tokens import Tokenizer

DOCUMENT = np.dtype([("end", "<i8"), ("hash", "<u8"), ("bytes", "<i8"), ("row", "<i8"), ("file", "<i8")])
"""`end`: index after its last token; `hash` and `bytes`: of its UTF-8 text; `row`, `file`: where it stood."""
CHUNK = PIECE
"""Characters handed to a thread at a time."""
CHUNK_ROWS = 4096


@dataclass(kw_only=True)
class _Chunk:
    """Pieces to encode.

    `table`: (pieces up to its last one, hash, bytes, row, file) of each document that ends here.
    """

    texts: list[str] = field(default_factory=list)
    ends: list[bool] = field(default_factory=list)
    table: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    bad: list[tuple[int, BadRow]] = field(default_factory=list)
    size: int = 0
    bytes: int = 0
    empty: int = 0


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Ids of a chunk, end-of-text after each document; `documents` as in the cache, `end` counted from the chunk."""

    ids: np.ndarray
    documents: np.ndarray
    bad: list[tuple[int, BadRow]]
    bytes: int
    empty: int


def encoded(
    opened: OpenSource, tokenizer: Tokenizer, *, workers: int, poll: Callable[[], None] | None
) -> Generator[Encoded, None, None]:  # fmt: skip
    """Encode a source's documents; chunks come in the order of the documents.

    Args:
        workers: threads that encode; any number gives the same ids.
        poll: called between chunks; may raise to stop.
    """
    with (
        _one_thread_each(),
        ThreadPoolExecutor(workers, thread_name_prefix="tokenise") as pool,
    ):
        flying: deque[Future[Encoded]] = deque()
        try:
            for chunk in _chunks(opened):
                flying.append(pool.submit(_encode, chunk, tokenizer))
                while len(flying) > 2 * workers:
                    yield flying.popleft().result()
                if poll is not None:
                    poll()
            while flying:
                yield flying.popleft().result()
        finally:
            for future in flying:
                future.cancel()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """The library's own threads off, so that `workers` is what runs."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def _chunks(opened: OpenSource) -> Iterator[_Chunk]:
    """Pieces in chunks; a document's hash and size run over all its pieces."""
    limit = opened.source.limit
    chunk, digest, size, count = _Chunk(), hashlib.sha256(), 0, 0
    for file, item in documents(opened):
        if isinstance(item, BadRow):
            chunk.bad.append((file, item))
        else:
            data = item.text.encode()
            digest.update(data)
            size += len(data)
            _take(chunk, item, len(data))
            if item.last:
                _end(chunk, item, file, digest, size)
                count += size > 0
                digest, size = hashlib.sha256(), 0
        if chunk.size >= CHUNK or len(chunk.texts) + len(chunk.bad) >= CHUNK_ROWS:
            yield chunk
            chunk = _Chunk()
        if limit is not None and count >= limit:
            break
    yield chunk


def _take(chunk: _Chunk, piece: Piece, size: int) -> None:
    chunk.texts.append(piece.text)
    chunk.ends.append(False)
    chunk.size += len(piece.text)
    chunk.bytes += size


def _end(chunk: _Chunk, piece: Piece, file: int, digest: "hashlib._Hash", size: int) -> None:
    """Close the document; one without any text leaves no tokens, not even its end."""
    if size == 0:
        chunk.texts.pop()
        chunk.ends.pop()
        chunk.empty += 1
        return
    chunk.ends[-1] = True
    value = int.from_bytes(digest.digest()[:8], "little")
    chunk.table.append((len(chunk.texts), value, size, piece.row, file))


def _encode(chunk: _Chunk, tokenizer: Tokenizer) -> Encoded:
    found = tokenizer.encode_batch(chunk.texts)
    for ids, ends in zip(found, chunk.ends, strict=True):
        if ends:
            ids.append(tokenizer.eos_id)
    lengths = np.fromiter(map(len, found), np.int64, len(found))
    ids = np.fromiter(chain.from_iterable(found), np.int32, int(lengths.sum()))
    until = np.concatenate([[0], np.cumsum(lengths)])
    table = np.zeros(len(chunk.table), DOCUMENT)
    for index, (pieces, value, size, row, file) in enumerate(chunk.table):
        table[index] = (until[pieces], value, size, row, file)
    return Encoded(ids=ids, documents=table, bad=chunk.bad, bytes=chunk.bytes, empty=chunk.empty)
