"""Rank-aware logging on the standard library: each rank's own file, the console for rank 0 only."""

import logging
import sys

from llmtrain.errors import escape
from llmtrain.record.folder import RunFolder

LOGGER = "llmtrain"


class RankFilter(logging.Filter):
    """Puts the rank into each record and, for the console, lets only rank 0 through."""

    def __init__(self, rank: int, *, first_only: bool) -> None:
        super().__init__()
        self._rank = rank
        self._passes = rank == 0 or not first_only

    def filter(self, record: logging.LogRecord) -> bool:
        record.rank = self._rank
        return self._passes


class _LineFormatter(logging.Formatter):
    """One line a record: data can never forge a second one or steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return escape(super().format(record))


def start_logging(folder: RunFolder | None, rank: int, level: str = "info", *, console: bool = False) -> logging.Logger:
    """The package's logger, writing to `logs/rank_N.log` and, with `console`, rank 0's lines to stderr.

    A log that cannot be opened or written never stops a run: the handler is left out.
    """
    logger = logging.getLogger(LOGGER)
    stop_logging()
    logger.setLevel(level.upper())
    logger.propagate = False
    logging.raiseExceptions = False
    if folder is not None:
        try:
            handler = logging.FileHandler(folder.logs / f"rank_{rank}.log", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            logger.addHandler(logging.NullHandler())
            sys.stderr.write(f"warning: logs/rank_{rank}.log: {error.strerror}\n")
        else:
            _add(logger, handler, RankFilter(rank, first_only=False))
    if console:
        _add(logger, logging.StreamHandler(sys.stderr), RankFilter(rank, first_only=True))
    return logger


def _add(logger: logging.Logger, handler: logging.Handler, rank_filter: RankFilter) -> None:
    handler.setFormatter(_LineFormatter("%(asctime)s rank %(rank)s %(levelname)s %(message)s"))
    handler.addFilter(rank_filter)
    logger.addHandler(handler)


def stop_logging() -> None:
    """Flush and close every handler of the package's logger."""
    logger = logging.getLogger(LOGGER)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
