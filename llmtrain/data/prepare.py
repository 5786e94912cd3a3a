"""The data section of a recipe to rows, split and counted; separate because it is the one entry the rest calls.

It needs no other rank: rank 0 calls it before the process group exists, the others find the cache warm.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmtrain.data import cache as token_cache
from llmtrain.data.assemble import Loaded, assemble
from llmtrain.data.cache import Poll, Progress
from llmtrain.data.documents import BadRow
from llmtrain.data.rows import JoinedRows, RowSource
from llmtrain.data.sources import (
    OpenSource,
    content_hashes,
    documents,
    open_source,
    unique_names,
)
from llmtrain.data.tokens import Tokenizer, sampled, train_bpe, training_key
from llmtrain.errors import Failure
from llmtrain.recipe.schema import DataSection, EvalSplit, Source
from llmtrain.record.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Rows ready to be drawn."""

    train: RowSource
    """All training rows, source after source; `sources` are the same rows by source."""
    sources: tuple[RowSource, ...]
    weights: tuple[float, ...]
    evals: dict[str, RowSource]
    """By name; a single set is called ""."""
    ledger: Ledger
    documents: int
    """Of all training sources, held-out ones included."""
    tokens: int
    fingerprint: str
    """Of everything rows depend on: contents, tokenizer, settings, split."""
    from_cache: bool
    seconds: float


def worker_count(workers: str | int) -> int:
    """The number of threads behind `data.workers`: `auto` is one a core, at most 8."""
    if isinstance(workers, int):
        return workers
    return max(1, min(8, len(os.sched_getaffinity(0))))


def open_sources(sources: Sequence[Source], *, key: str, offline: bool) -> list[OpenSource]:
    """Find the files of all sources.

    Raises:
        Failure: with the problems of every source that has one.
    """
    opened, problems = [], []
    for index, source in enumerate(sources):
        try:
            opened.append(open_source(source, key=f"{key}[{index}]", offline=offline))
        except Failure as failure:
            problems.extend(failure.problems)
    if problems:
        raise Failure(*problems)
    return opened


def train_tokenizer(section: DataSection, *, vocab_size: int, cache: Path, workers: int, offline: bool) -> Path:
    """The folder of a byte-level BPE trained on `data.train`; found again by content.

    Raises:
        Failure: a source cannot be read.
    """
    opened = open_sources(section.train, key="data.train", offline=offline)
    content = [token_cache.reading_key(source, content_hashes(source, workers)) for source in opened]
    folder = cache / "tokenizers" / training_key([*content, section.on_bad_row], vocab_size)
    if (folder / "tokenizer_config.json").is_file():
        return folder
    known = [source.size for source in opened]
    size = None if None in known else sum(part or 0 for part in known)
    return train_bpe(
        sampled(_texts(opened, section.on_bad_row), size),
        vocab_size=vocab_size,
        folder=folder,
    )


def prepare(
    section: DataSection, tokenizer: Tokenizer, *, seed: int, cache: Path, workers: int, offline: bool,
    progress: Progress | None = None, poll: Poll | None = None,
) -> Prepared:  # fmt: skip
    """Tokenise what is not in the cache yet, split, and cut into rows.

    Idempotent; on a warm cache it costs reading (hashing) the sources and the cache once.

    Args:
        seed: of the split.
        cache: folder that holds the token cache.
        workers: threads that hash and encode.
        progress: called with (bytes of text done, bytes in all or None) of the source at work.
        poll: called often; may raise to stop.

    Raises:
        Failure: the data cannot be used; nothing half-made stays behind.
    """
    start = time.monotonic()
    train = open_sources(section.train, key="data.train", offline=offline)
    evals = [] if isinstance(section.eval, EvalSplit) else open_sources(section.eval, key="data.eval", offline=offline)
    names = unique_names([source.name for source in train])
    eval_names = unique_names([source.name for source in evals])
    loaded = []
    for name, opened in zip([*names, *eval_names], [*train, *evals], strict=True):
        entry = token_cache.find_or_build(
            cache, opened, content_hashes(opened, workers), tokenizer,
            on_bad_row=section.on_bad_row, workers=workers, progress=progress, poll=poll,
        )  # fmt: skip
        loaded.append(Loaded(opened=opened, name=name, entry=entry))
    rows = assemble(section, seed, loaded[: len(train)], loaded[len(train) :])
    return Prepared(
        train=JoinedRows(rows.train),
        sources=rows.train,
        weights=tuple(source.weight for source in section.train),
        evals=rows.evals,
        ledger=rows.ledger,
        documents=sum(part.entry.meta["counts"]["documents"] for part in loaded[: len(train)]),
        tokens=sum(part.entry.meta["counts"]["tokens"] for part in loaded[: len(train)]),
        fingerprint=rows.fingerprint,
        from_cache=all(part.entry.was_there for part in loaded),
        seconds=time.monotonic() - start,
    )


def _texts(opened: Sequence[OpenSource], on_bad_row: str) -> Iterator[str]:
    """The text of all sources, piece by piece."""
    for source in opened:
        left = source.source.limit
        for _, item in documents(source):
            if left == 0:
                break
            if isinstance(item, BadRow):
                if on_bad_row == "error":
                    raise Failure(item.problem)
                continue
            if left is not None and item.last:
                left -= 1
            yield item.text
