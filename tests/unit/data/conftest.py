"""A small tokenizer and a shorthand to prepare data with it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llmtrain.data.prepare import Prepared, prepare
from llmtrain.data.tokens import FastTokenizer, train_bpe
from llmtrain.recipe.schema import DataSection, Source

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "and",
    "then",
    "it",
    "sleeps",
    "for",
    "hours",
    "in",
    "warm",
    "sunshine",
]


def sentence(number: int, length: int = 12) -> str:
    """A deterministic text, another one for each number."""
    picked = [WORDS[(number * 7 + step * (number % 5 + 1)) % len(WORDS)] for step in range(length)]
    return f"{number} " + " ".join(picked) + "."


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> FastTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer") / "bpe"
    return FastTokenizer(train_bpe((sentence(n) for n in range(200)), vocab_size=300, folder=folder))


@pytest.fixture
def make(tokenizer: FastTokenizer, tmp_path: Path) -> Callable[..., Prepared]:
    """Prepare sources with keys of the data section; the cache is the test's own."""

    def run(*sources: str | Path | Source, workers: int = 1, seed: int = 1, **keys: object) -> Prepared:
        train = [s if isinstance(s, Source) else Source(path=str(s)) for s in sources]
        section = DataSection(**{"train": train, "seq_len": 16, **keys})
        return prepare(
            section,
            tokenizer,
            seed=seed,
            cache=tmp_path / "cache",
            workers=workers,
            offline=True,
        )

    return run


@pytest.fixture
def shared() -> Path:
    """Real data of others; beside the checkout, or named by LLMTRAIN_SHARED."""
    beside = Path(__file__).resolve().parents[3] / ".." / "shared"
    folder = Path(os.environ.get("LLMTRAIN_SHARED", beside)) / "data"
    if not folder.is_dir():
        pytest.skip("no shared data beside the checkout")
    return folder
