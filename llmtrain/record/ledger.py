"""Where every token went, per source and split; separate because a run keeps it as ledger.json."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SourceLedger:
    """Counts of one source in one split, in tokens unless said otherwise.

    raw = truncated + dropped + kept, kept = supervised + masked.
    """

    source: str
    split: str
    """`train`, or `eval` with the set's name after a colon where it has one."""
    documents: int
    """Documents with text in this split."""
    raw: int
    """With the end-of-text token of each document."""
    truncated: int = 0
    """Cut off documents longer than `data.seq_len`."""
    dropped: int = 0
    """Of documents left out whole, and of rows without a single target."""
    dropped_documents: int = 0
    masked: int = 0
    """In rows but no target: the first token of each document in each row."""
    padded: int = 0
    """Always 0 here: batches pad, not rows."""
    supervised: int = 0
    rows: int = 0
    empty: int = 0
    """Documents without text; of the whole source."""
    bad_rows: int = 0
    """Rows skipped by `on_bad_row: skip`; of the whole source."""
    bad: tuple[str, ...] = ()
    """The first of them, with file, row and reason."""

    def __post_init__(self) -> None:
        assert self.raw == self.truncated + self.dropped + self.kept, self
        assert self.kept == self.supervised + self.masked, self

    @property
    def kept(self) -> int:
        """Tokens that stand in rows."""
        return self.supervised + self.masked


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """All sources of a run."""

    sources: tuple[SourceLedger, ...]
    split: str = "none"
    """How the held-out set came about: `documents`, `tail`, `sources` or `none`."""
    shared_documents: int = 0
    """Documents of eval sources that also stand in training sources."""
    notices: tuple[str, ...] = field(default=())
    """What a user should know about the data, one line each."""

    def total(self, name: str, split: str = "train") -> int:
        """A count summed over the sources of a split."""
        return sum(asdict(entry)[name] for entry in self.sources if entry.split.split(":")[0] == split)

    def to_json(self) -> dict[str, Any]:
        """As written to ledger.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Ledger":
        """The ledger of a ledger.json."""
        written: list[dict[str, Any]] = [dict(entry, bad=tuple(entry["bad"])) for entry in data["sources"]]
        entries = tuple(SourceLedger(**entry) for entry in written)
        values: dict[str, Any] = dict(data, sources=entries, notices=tuple(data["notices"]))
        return cls(**values)
