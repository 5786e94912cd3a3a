"""Text to token ids: a byte-level BPE trained from data, and the few facts we need of any tokenizer.

Separate because the rest of the package must not depend on a tokenizer's library; transformers is not imported here,
its files are written.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llmtrain.errors import fail, quoted
from llmtrain.lazy import Lazy

tokenizers = Lazy("tokenizers")

END = "<|endoftext|>"
TRAINING_CHARACTERS = 64 << 20
"""A BPE learns nothing new from more text than this; above it documents are sampled."""
_VERSION = 1
"""Part of the cache key; raise it when training would give another result."""
_USUAL_ENDS = (END, "</s>", "<|end_of_text|>", "<eos>", "<|eot_id|>", "[SEP]")


class Tokenizer(Protocol):
    """What data preparation needs of a tokenizer."""

    @property
    def eos_id(self) -> int: ...

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when any text could get other ids."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens added, and with none recognised in the text."""
        ...

    def token_bytes(self) -> np.ndarray:
        """int32 [vocab_size]: UTF-8 bytes of text each id stands for; special tokens 0."""
        ...


class FastTokenizer:
    """A tokenizer.json of the `tokenizers` library."""

    def __init__(self, path: Path, *, eos: str | None = None) -> None:
        """Open `tokenizer.json`, or the folder that holds it.

        Args:
            eos: the end-of-text token; default: that of tokenizer_config.json beside it, else a usual name.

        Raises:
            Failure: the file is missing or no tokenizer, or no end-of-text token is known.
        """
        self.path = path / "tokenizer.json" if path.is_dir() else path
        try:
            text = self.path.read_text(encoding="utf-8")
            self._spec = json.loads(text)
            self._inner = tokenizers.Tokenizer.from_str(text)
        except FileNotFoundError as error:
            raise fail("E-MODEL-004", "no tokenizer.json here", file=str(self.path)) from error
        except Exception as error:  # the library raises bare Exception; it is re-raised as ours
            raise fail("E-MODEL-004", f"not a tokenizer: {error}"[:200], file=str(self.path)) from error
        self._inner.no_padding()
        self._inner.no_truncation()
        self._inner.encode_special_tokens = True
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        self.vocab_size = 1 + max(self._inner.get_vocab(with_added_tokens=True).values())
        self.eos_id = self._eos(eos)

    def _eos(self, named: str | None) -> int:
        config = _read_json(self.path.parent / "tokenizer_config.json")
        told = named or _content(config.get("eos_token"))
        for name in [told] if told else _USUAL_ENDS:
            if (found := self._inner.token_to_id(name)) is not None:
                return found
        what = f"has no token {quoted(told)}" if told else "names no end-of-text token"
        hint = "set `eos_token` in tokenizer_config.json beside it"
        raise fail("E-MODEL-004", f"the tokenizer {what}", file=str(self.path), hint=hint)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text; releases the interpreter's lock while it works."""
        return [found.ids for found in self._inner.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return self._inner.decode(list(ids), skip_special_tokens=True)

    def token_bytes(self) -> np.ndarray:
        """int32 [vocab_size]: bytes each id adds to decoded text, special tokens 0.

        Exact for byte-level vocabularies; for others `▁` counts as a space, `<0xNN>` as a byte and `##` as nothing.
        """
        sizes = np.zeros(self.vocab_size, dtype=np.int32)
        is_bytes = _mentions(self._spec.get("decoder"), "ByteLevel") or _mentions(
            self._spec.get("pre_tokenizer"), "ByteLevel"
        )
        for token, index in self._inner.get_vocab(with_added_tokens=False).items():
            sizes[index] = len(token) if is_bytes else _plain_size(token)
        for index, added in self._inner.get_added_tokens_decoder().items():
            sizes[index] = 0 if added.special else len(added.content.encode())
        return sizes


def _plain_size(token: str) -> int:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return 1
    return len(token.removeprefix("##").replace("▁", " ").encode("utf-8", "replace"))


def _mentions(part: object, kind: str) -> bool:
    if isinstance(part, dict):
        return part.get("type") == kind or any(_mentions(value, kind) for value in part.values())
    return isinstance(part, list) and any(_mentions(value, kind) for value in part)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise fail("E-MODEL-004", f"cannot be read: {error}"[:200], file=str(path)) from error
    return found if isinstance(found, dict) else {}


def _content(token: Any) -> str | None:  # noqa: ANN401 - untrusted JSON
    return token.get("content") if isinstance(token, dict) else token


def train_bpe(texts: Iterable[str], *, vocab_size: int, folder: Path) -> Path:
    """Train a byte-level BPE and write it as transformers reads it; a folder that stands already is the result.

    The single special token `<|endoftext|>` (id 0) ends, starts and pads. Small data may give a smaller vocabulary.

    Args:
        texts: the training text; only the first `TRAINING_CHARACTERS` are read, so sample before.
        folder: the result's place, named by its content key; written beside it and renamed, so it is whole or absent.
    """
    if (folder / "tokenizer_config.json").is_file():
        return folder
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    inner.train_from_iterator(_first(texts, TRAINING_CHARACTERS), trainer)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name[:16]}-", suffix=".tmp", dir=folder.parent))
    try:
        inner.save(str(temporary / "tokenizer.json"))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END, "eos_token": END, "pad_token": END,
            "model_max_length": 1_000_000_000, "clean_up_tokenization_spaces": False,
        }  # fmt: skip
        (temporary / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        temporary.rename(folder)
    except OSError:
        if not (folder / "tokenizer_config.json").is_file():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def training_key(content: Sequence[str], vocab_size: int) -> str:
    """Name of the folder of a trained tokenizer."""
    text = json.dumps(
        [
            _VERSION,
            tokenizers.__version__,
            TRAINING_CHARACTERS,
            vocab_size,
            list(content),
        ]
    )
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def sampled(texts: Iterable[str], size: int | None) -> Iterator[str]:
    """Texts chosen by a hash of their content, so that about `TRAINING_CHARACTERS` of `size` remain."""
    share = 1.0 if not size else TRAINING_CHARACTERS / size
    if share >= 1:
        yield from texts
        return
    limit = int(share * 2**64)
    for text in texts:
        if int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") < limit:
            yield text


def _first(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return
