"""Data sets of the Hugging Face hub; separate because it needs an extra and a connection."""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmtrain.data.documents import BadRow, Piece, cut, missing_column, text_of
from llmtrain.errors import Failure, Place, fail, quoted
from llmtrain.lazy import Lazy

datasets = Lazy("datasets")


def load(path: str, *, split: str, offline: bool, key: str | None) -> Any:  # noqa: ANN401 - of an optional package
    """The data set `hf://[datasets/]OWNER/NAME[:CONFIG]`, memory-mapped from the library's own cache.

    Raises:
        Failure: the extra is missing, the data set is not to be had, or offline without a cached copy.
    """
    name = path.removeprefix("hf://").removeprefix("datasets/")
    name, _, config = name.partition(":")
    try:
        if offline:
            _go_offline()
        datasets.disable_progress_bars()
        return datasets.load_dataset(name, config or None, split=split)
    except ModuleNotFoundError as error:
        hint = "install it: pip install 'llmtrain[hub]'"
        raise fail(
            "E-DATA-015",
            f"{quoted(path)} is no local file; data of the hub needs an extra",
            key=key,
            hint=hint,
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        text = str(error).split("\n")[0]
        hint = (
            "offline: only data sets fetched before can be read" if offline else "is the name right, and is it a path?"
        )
        raise fail(
            "E-DATA-007",
            f"{quoted(path)} is neither a local file nor to be had from the hub: {text}"[:200],
            key=key,
            hint=hint,
        ) from error


def _go_offline() -> None:
    """The libraries read the environment when they are imported, which may have happened."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    datasets.config.HF_HUB_OFFLINE = True
    vars(importlib.import_module("huggingface_hub.constants"))["HF_HUB_OFFLINE"] = True


def content_files(data: Any) -> list[Path]:  # noqa: ANN401
    """The Arrow files that hold the data set."""
    return [Path(entry["filename"]) for entry in data.cache_files]


def documents(data: Any, path: str, column: str) -> Iterator[Piece | BadRow]:  # noqa: ANN401
    """One document a row.

    Raises:
        Failure: the column is missing.
    """
    if column not in data.column_names:
        raise Failure(missing_column(column, data.column_names, Place(file=path)))
    for row, record in enumerate(data.select_columns([column]), start=1):
        text = text_of(record, column, file=path, line=row)
        yield from ([text] if isinstance(text, BadRow) else cut([text], file=path, row=row))
