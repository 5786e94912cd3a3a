"""The run's tokenizer: trained from its data, or the files of a model; in both cases a folder with a tokenizer.json."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmtrain.data.prepare import train_tokenizer
from llmtrain.data.tokens import FastTokenizer
from llmtrain.errors import fail
from llmtrain.recipe.schema import Recipe
from llmtrain.record import files
from llmtrain.run.models import copy_tokenizer, resolve


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A tokenizer and the folder that holds its files."""

    tokenizer: FastTokenizer
    folder: Path

    def save(self, folder: Path) -> None:
        """Copy the files, byte for byte, so that a run's tokenizer has the fingerprint of its data cache."""
        copy_tokenizer(self.folder)(folder)


def vocabulary(recipe: Recipe, *, cache: Path, workers: int) -> Vocabulary:
    """The tokenizer the recipe asks for.

    Raises:
        Failure: it cannot be trained, found or opened.
    """
    section = recipe.tokenizer
    if section.train is not None:
        folder = train_tokenizer(
            recipe.data, vocab_size=section.train.vocab_size, cache=cache, workers=workers, offline=recipe.offline
        )
        return Vocabulary(tokenizer=FastTokenizer(folder), folder=folder)
    name = section.name or recipe.model.name
    if name is None:
        raise fail(
            "E-MODEL-004", "no tokenizer: the model has no files to take one from", key="tokenizer",
            hint="tokenizer: {train: {vocab_size: 4096}}, or tokenizer.name",
        )  # fmt: skip
    path = Path(resolve(name, cache, recipe.run.root)).expanduser()
    if path.is_file() and path.name == "tokenizer.json":
        return Vocabulary(tokenizer=FastTokenizer(path.parent), folder=path.parent)
    if (path / "tokenizer.json").is_file():
        return Vocabulary(tokenizer=FastTokenizer(path), folder=path)
    return _through_transformers(recipe, str(path) if path.exists() else name, cache)


def _through_transformers(recipe: Recipe, name: str, cache: Path) -> Vocabulary:
    """A hub id, a GGUF file or an older layout: converted once into a tokenizer.json in the cache."""
    from llmtrain.doors import transformers as door

    section = recipe.model
    origin = door.locate(
        name, revision=section.revision, trust_remote_code=section.trust_remote_code, offline=recipe.offline
    )
    loaded = door.load_tokenizer(origin)
    key = hashlib.sha256(door.tokenizer_json(loaded).encode()).hexdigest()[:32]
    folder = cache / "tokenizers" / f"hf-{key}"
    if not (folder / "tokenizer_config.json").is_file():
        _build(folder, lambda target: door.save_tokenizer(loaded, target))
    return Vocabulary(tokenizer=FastTokenizer(folder, eos=loaded.eos_token), folder=folder)


def _build(folder: Path, write: Callable[[Path], None]) -> None:
    """Publish as one; whoever comes second keeps the first one's."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        files.publish_folder(folder, write)
    except OSError:
        if not (folder / "tokenizer_config.json").is_file():
            raise
