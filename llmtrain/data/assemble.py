"""Tokens of all sources to training and held-out rows with their ledger; separate from reading and tokenising, because
split, row length and limits change without a token changing.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmtrain.data.cache import Entry
from llmtrain.data.order import mix_many
from llmtrain.data.rows import (
    JoinedRows,
    PackedRows,
    RowSource,
    Segments,
    SingleRows,
    Stream,
)
from llmtrain.data.sources import OpenSource
from llmtrain.dist import fold_seed
from llmtrain.errors import Failure, Place, Problem, fail
from llmtrain.recipe.schema import DataSection, EvalSplit
from llmtrain.record.ledger import Ledger, SourceLedger

_VERSION = 1
"""Part of every fingerprint; raise it when the same tokens would give other rows."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A source with its tokens."""

    opened: OpenSource
    name: str
    entry: Entry

    @property
    def segments(self) -> Segments:
        """Each document as a segment."""
        ends = np.asarray(self.entry.documents["end"])
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        return Segments(starts=starts, lengths=ends - starts)

    def locate(self, token: int) -> str:
        """`file:row` of the document that holds a token."""
        file, row = self.origin(token)
        return f"{file}:{row}"

    def origin(self, token: int) -> tuple[str, int]:
        """File and row of the document that holds a token."""
        record = self.entry.documents[int(np.searchsorted(self.entry.documents["end"], token, side="right"))]
        return self.opened.shown[int(record["file"])], int(record["row"])


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """Rows of every source and set."""

    train: tuple[RowSource, ...]
    evals: dict[str, RowSource]
    ledger: Ledger
    fingerprint: str


def assemble(section: DataSection, seed: int, train: Sequence[Loaded], evals: Sequence[Loaded]) -> Assembled:
    """Split, apply `overflow`, cut rows, count, and hold the counts against `limits`.

    Raises:
        Failure: too little to split or to train on, a document too long under `overflow: error`, a limit passed.
    """
    if isinstance(section.eval, EvalSplit):
        how, kept, held = split(train, section.eval.fraction, seed)
    else:
        how, kept, held = "sources", [part.segments for part in train], []
    entries: list[SourceLedger] = []
    rows = tuple(_rows(section, part, segments, "train", entries) for part, segments in zip(train, kept, strict=True))
    sets: dict[str, RowSource] = {}
    if held:
        pooled = [_rows(section, part, segments, "eval", entries) for part, segments in zip(train, held, strict=True)]
        sets[""] = JoinedRows(pooled)
    for part in evals:
        name = part.name if len(evals) > 1 else ""
        sets[name] = _rows(section, part, part.segments, f"eval:{name}" if name else "eval", entries)
    _refuse_nothing(section, rows, sets)
    _hold_limits(section, entries)
    shared = _shared_documents(train, evals)
    ledger = Ledger(
        sources=tuple(entries),
        split=how,
        shared_documents=shared,
        notices=tuple(_notices(train, entries, how, shared)),
    )
    prints = [source.fingerprint for source in (*rows, *sets.values())]
    return Assembled(train=rows, evals=sets, ledger=ledger, fingerprint=_hash([*prints, list(sets)]))


def split(train: Sequence[Loaded], fraction: float, seed: int) -> tuple[str, list[Segments], list[Segments]]:
    """(how, training segments, held-out segments) of each source.

    By documents: the hash of a document's text and the seed decides, so added documents move no others, and copies of
    a document stay on one side. Where there are fewer documents than 1/fraction (one long text, say), or one side
    would be empty: the last `fraction` of each document's tokens is held out.

    Raises:
        Failure: there are not enough tokens to hold any out.
    """
    whole = [part.segments for part in train]
    if fraction == 0:
        return "none", whole, []
    if sum(len(part.lengths) for part in whole) * fraction >= 1:
        held = [_is_held_out(part.entry.documents["hash"], fraction, seed) for part in train]
        if any(chosen.any() for chosen in held) and not all(chosen.all() for chosen in held):
            kept = [segments.where(~chosen) for segments, chosen in zip(whole, held, strict=True)]
            return (
                "documents",
                kept,
                [segments.where(chosen) for segments, chosen in zip(whole, held, strict=True)],
            )
    tails = [np.rint(segments.lengths * fraction).astype(np.int64) for segments in whole]
    if max((int(tail.max(initial=0)) for tail in tails), default=0) < 2:
        count = sum(len(part.lengths) for part in whole)
        hint = "give more data, a larger fraction, a list of sources for `data.eval`, or `data.eval.fraction=0`"
        message = f"{count:,} short documents are too few to hold out {fraction:g} of them"
        raise fail("E-DATA-013", message, key="data.eval.fraction", hint=hint)
    kept, held_out = [], []
    for segments, tail in zip(whole, tails, strict=True):
        heads = Segments(starts=segments.starts, lengths=segments.lengths - tail)
        kept.append(heads.where(heads.lengths > 0))
        held_out.append(Segments(starts=segments.starts + heads.lengths, lengths=tail).where(tail > 0))
    return "tail", kept, held_out


def _is_held_out(hashes: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    mixed = mix_many(np.asarray(hashes) ^ np.uint64(fold_seed(seed, "split")))
    return mixed < np.uint64(int(fraction * 2**64))


def _rows(
    section: DataSection,
    part: Loaded,
    segments: Segments,
    name: str,
    entries: list[SourceLedger],
) -> RowSource:
    """Rows of a source's segments; its counts are appended to `entries`."""
    fitting, truncated, dropped, left_out = _overflow(section, part, segments)
    stream = Stream(tokens=part.entry.tokens, segments=fitting, source=part.name, locate=part.locate)
    packed = section.packing in ("auto", True)
    digest = hashlib.sha256(segments.starts.tobytes() + segments.lengths.tobytes()).hexdigest()
    fingerprint = _hash([_VERSION, part.entry.key, digest, section.seq_len, packed, section.overflow])
    rows = (PackedRows if packed else SingleRows)(stream, section.seq_len, fingerprint)
    counts = part.entry.meta["counts"]
    bad = tuple(
        f"{part.opened.shown[b['file']]}:{b['row']}: {b['message']} [{b['id']}]" for b in part.entry.meta["bad"]
    )
    entries.append(
        SourceLedger(
            source=part.name,
            split=name,
            documents=len(segments.lengths),
            raw=segments.tokens,
            truncated=truncated,
            dropped=dropped + fitting.tokens - rows.tokens,
            dropped_documents=left_out,
            masked=rows.tokens - rows.supervised,
            supervised=rows.supervised,
            rows=len(rows),
            empty=counts["empty"],
            bad_rows=counts["bad_rows"],
            bad=bad,
        )
    )
    return rows


def _overflow(section: DataSection, part: Loaded, segments: Segments) -> tuple[Segments, int, int, int]:
    """(segments that go into rows, tokens truncated, tokens dropped, documents dropped)."""
    longer = segments.lengths > section.seq_len
    if section.overflow in ("auto", "split") or not longer.any():
        return segments, 0, 0, 0
    if section.overflow == "error":
        first = int(np.flatnonzero(longer)[0])
        file, row = part.origin(int(segments.starts[first]))
        message = f"{int(segments.lengths[first]):,} tokens, but `data.seq_len` is {section.seq_len:,}"
        hint = "raise data.seq_len, or set data.overflow to split, truncate or drop"
        raise fail("E-DATA-014", message, file=file, line=row, hint=hint)
    if section.overflow == "truncate":
        cut = Segments(
            starts=segments.starts,
            lengths=np.minimum(segments.lengths, section.seq_len),
        )
        return cut, segments.tokens - cut.tokens, 0, 0
    fitting = segments.where(~longer)
    return fitting, 0, segments.tokens - fitting.tokens, int(longer.sum())


def _refuse_nothing(section: DataSection, rows: Sequence[RowSource], sets: dict[str, RowSource]) -> None:
    if section.train and not sum(len(source) for source in rows):
        hint = f"every document is longer than data.seq_len ({section.seq_len})" if section.overflow == "drop" else None
        raise fail("E-DATA-008", "no row to train on is left", key="data.train", hint=hint)
    for name, source in sets.items():
        if not len(source):
            raise fail(
                "E-DATA-008",
                f"no row to evaluate on is left{f' in {name}' if name else ''}",
                key="data.eval",
            )


def _hold_limits(section: DataSection, entries: Sequence[SourceLedger]) -> None:
    """Compare each source's shares with `data.limits`."""
    problems = []
    for entry in entries:
        cut = entry.truncated / max(1, entry.raw)
        dropped = entry.dropped_documents / max(1, entry.documents)
        for name, share, limit in (
            ("truncated", cut, section.limits.truncated),
            ("dropped", dropped, section.limits.dropped),
        ):
            if share > limit:
                what = "of the tokens" if name == "truncated" else "of the documents"
                message = f"{entry.source}: {share:.1%} {what} {name}, the limit is {limit:.1%}"
                hint = "raise data.seq_len or the limit, or set data.overflow=split"
                problems.append(
                    Problem(
                        id="E-DATA-019",
                        message=message,
                        place=Place(),
                        key=f"data.limits.{name}",
                        hint=hint,
                    )
                )
    if problems:
        raise Failure(*problems)


def _shared_documents(train: Sequence[Loaded], evals: Sequence[Loaded]) -> int:
    if not train or not evals:
        return 0
    known = np.unique(np.concatenate([part.entry.documents["hash"] for part in train]))
    return int(sum(np.isin(part.entry.documents["hash"], known).sum() for part in evals))


def _notices(train: Sequence[Loaded], entries: Sequence[SourceLedger], how: str, shared: int) -> list[str]:
    notices = [
        f"{part.name}: {part.opened.passed_over:,} files of unknown types passed over"
        for part in train
        if part.opened.passed_over
    ]
    if how == "tail":
        notices.append("too few documents to hold out whole ones: the end of each document is held out")
    if shared:
        notices.append(f"{shared:,} documents of data.eval also stand in data.train: eval_loss will flatter")
    notices.extend(
        f"{entry.source}: {entry.bad_rows:,} bad rows skipped, the first: {entry.bad[0]}"
        for entry in entries
        if entry.split == "train" and entry.bad_rows
    )
    return notices


def _hash(parts: list[object]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
