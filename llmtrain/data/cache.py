"""Tokens of a source in memory-mapped files, made once and found again by content; separate because nobody else may
write them and everybody reads them.

An entry is a folder `tokens/<key>`: `tokens.bin` (uint16 below 65,536 ids, else uint32), `documents.bin` (one record a
document) and `meta.json` with sizes and SHA-256 of both. It is built beside its place and renamed, so it is whole or
absent; one that fails its hashes is set aside and built anew.
"""

import errno
import fcntl
import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from llmtrain.data.documents import BadRow
from llmtrain.data.encoding_pool import DOCUMENT, Encoded, encoded
from llmtrain.data.sources import OpenSource, kind_of
from llmtrain.data.tokens import Tokenizer
from llmtrain.errors import Failure, fail

VERSION = 1
"""Part of every key; raise it when the same input would give other files."""
LISTED = 100
"""Bad rows that are listed by name; more are only counted."""
_YOUNG = 60
"""Seconds in which a builder's folder is never swept: it may not hold its lock yet."""
Progress = Callable[[int, int | None], None]
Poll = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An opened cache entry."""

    key: str
    tokens: np.ndarray
    documents: np.ndarray
    meta: dict[str, Any]
    was_there: bool


def reading_key(opened: OpenSource, hashes: list[str]) -> str:
    """What decides the documents of a source: contents and settings, never paths or times."""
    source = opened.source
    settings = {
        "version": VERSION, "builtin": source.path if source.path.startswith("builtin:") else "",
        "files": [[hash, kind_of(file), file.suffix] for hash, file in zip(hashes, opened.files, strict=True)],
        "columns": source.columns, "encoding": source.encoding, "documents": source.documents, "limit": source.limit,
    }  # fmt: skip
    return json.dumps(settings, sort_keys=True)


def entry_key(opened: OpenSource, hashes: list[str], tokenizer: Tokenizer, on_bad_row: str) -> str:
    """Name of the entry: everything that decides its bytes."""
    parts = [reading_key(opened, hashes), on_bad_row, DOCUMENT.descr]
    parts += [tokenizer.fingerprint, tokenizer.eos_id, tokenizer.vocab_size]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]


def find(root: Path, key: str) -> Entry | None:
    """The entry, if it is there and whole; a damaged one is removed."""
    folder = root / "tokens" / key
    if not folder.is_dir():
        return None
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        for name in ("tokens.bin", "documents.bin"):
            with (folder / name).open("rb") as handle:
                if hashlib.file_digest(handle, "sha256").hexdigest() != meta["sha256"][name]:
                    raise ValueError(name)
        tokens, documents = (
            _mapped(folder / "tokens.bin", np.dtype(meta["dtype"])),
            _mapped(folder / "documents.bin", DOCUMENT),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        _set_aside(folder)
        return None
    return Entry(key=key, tokens=tokens, documents=documents, meta=meta, was_there=True)


def _set_aside(folder: Path) -> None:
    """Remove an entry; another process may do the same."""
    aside = folder.with_name(f".{folder.name[:12]}-{secrets.token_hex(4)}.trash")
    with suppress(FileNotFoundError):
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    """The file as a read-only array; an empty file cannot be mapped."""
    if path.stat().st_size == 0:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")


def find_or_build(
    root: Path, opened: OpenSource, hashes: list[str], tokenizer: Tokenizer, *, on_bad_row: str, workers: int,
    progress: Progress | None, poll: Poll | None,
) -> Entry:  # fmt: skip
    """The entry of a source. Several processes may build it at once: the first to finish wins, the others use its.

    Raises:
        Failure: a bad row (unless skipped), an unreadable file, no rows, or a full disk.
    """
    key = entry_key(opened, hashes, tokenizer, on_bad_row)
    try:
        if (found := find(root, key)) is not None:
            return found
        (root / "tokens").mkdir(parents=True, exist_ok=True)
        _sweep(root / "tokens")
        chunks = encoded(opened, tokenizer, workers=workers, poll=poll)
        with _Workshop(root / "tokens", key) as workshop, closing(chunks):
            _build(workshop.folder, opened, tokenizer, on_bad_row, chunks, progress)
            workshop.publish()
        found = find(root, key)
    except OSError as error:
        id = "E-IO-001" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "E-FILE-005"
        hint = "LLMTRAIN_CACHE names another folder for the cache"
        raise fail(
            id,
            f"the token cache cannot be written: {error.strerror}",
            file=str(root),
            hint=hint,
        ) from error
    if found is None:
        raise fail("E-DATA-020", "the token cache vanished while it was built", file=str(root))
    return replace(found, was_there=False)


class _Workshop:
    """A locked temporary folder beside the final one; the lock tells a living builder from a dead one."""

    def __init__(self, parent: Path, key: str) -> None:
        self.final = parent / key
        self.folder = parent / f".{key[:12]}-{secrets.token_hex(4)}.tmp"

    def __enter__(self) -> Self:
        self.folder.mkdir()
        self.lock = (self.folder / "lock").open("wb")
        with suppress(OSError):  # a file system without locks: nothing is swept there either
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self

    def publish(self) -> None:
        """Rename into place; where another process was first, its entry stays."""
        (self.folder / "lock").unlink()
        try:
            self.folder.rename(self.final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise

    def __exit__(self, *raised: object) -> None:
        self.lock.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove what builders that died left behind."""
    for folder in parent.glob(".*.tmp"):
        try:
            if time.time() - folder.stat().st_mtime < _YOUNG:
                continue
            with (folder / "lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue
    for folder in parent.glob(".*.trash"):
        shutil.rmtree(folder, ignore_errors=True)


class _HashedFile:
    """A file being written and hashed."""

    def __init__(self, handle: BinaryIO) -> None:
        self.handle = handle
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.handle.write(data)
        self.digest.update(data)


def _build(
    folder: Path,
    opened: OpenSource,
    tokenizer: Tokenizer,
    on_bad_row: str,
    chunks: Iterator[Encoded],
    progress: Progress | None,
) -> None:
    dtype, total = token_dtype(tokenizer), opened.size
    counts = {"documents": 0, "tokens": 0, "bytes": 0, "empty": 0, "bad_rows": 0}
    bad: list[dict[str, Any]] = []
    with (
        (folder / "tokens.bin").open("wb") as tokens_file,
        (folder / "documents.bin").open("wb") as documents_file,
    ):
        tokens, table = _HashedFile(tokens_file), _HashedFile(documents_file)
        for chunk in chunks:
            _note_bad(chunk.bad, on_bad_row, counts, bad)
            tokens.write(chunk.ids.astype(dtype, copy=False).tobytes())
            records = chunk.documents.copy()
            records["end"] += counts["tokens"]
            table.write(records.tobytes())
            counts["tokens"] += len(chunk.ids)
            counts["documents"] += len(records)
            counts["bytes"] += chunk.bytes
            counts["empty"] += chunk.empty
            if progress is not None:
                progress(counts["bytes"], total)
    if not counts["documents"]:
        skipped = f"; {counts['bad_rows']:,} bad rows were skipped" if counts["bad_rows"] else ""
        raise fail(
            "E-DATA-008",
            f"no document with text{skipped}",
            file=opened.source.path,
            key=opened.key,
        )
    sha256 = {
        "tokens.bin": tokens.digest.hexdigest(),
        "documents.bin": table.digest.hexdigest(),
    }
    meta = {
        "version": VERSION,
        "dtype": dtype.str,
        "sha256": sha256,
        "counts": counts,
        "bad": bad,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


def token_dtype(tokenizer: Tokenizer) -> np.dtype:
    """The narrowest type that holds every id."""
    return np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")


def _note_bad(
    rows: list[tuple[int, BadRow]],
    on_bad_row: str,
    counts: dict[str, int],
    bad: list[dict[str, Any]],
) -> None:
    for file, row in rows:
        problem = row.problem
        if on_bad_row == "error":
            raise Failure(problem)
        counts["bad_rows"] += 1
        if len(bad) < LISTED:
            bad.append(
                {
                    "file": file,
                    "row": problem.place.line,
                    "id": problem.id,
                    "message": problem.message,
                }
            )
