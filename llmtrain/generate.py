"""Continuing texts: one batched sampling loop for predict and for samples while training.

Separate from the model because it needs nothing of it but `forward`; separate from the command line because the engine
samples too. On several ranks every rank makes the same calls and gets the same texts.
"""

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from llmtrain.dist import fold_seed
from llmtrain.errors import fail
from llmtrain.lazy import Lazy

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

torch = Lazy("torch")

AUTO_ROWS = 32
AUTO_TOKENS = 32768
"""With `batch_size: auto`: rows and positions of one batch, padding included."""
CONTEXT_TOKENS = 6
"""Prompt tokens decoded before the first new one, because some tokenizers drop a leading space."""
UNFINISHED = "�"
"""What decoders show for bytes that are not yet a character."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to continue: the keys of `predict` and the run's seed."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    stop: Sequence[str] = ()
    batch_size: Literal["auto"] | int = "auto"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What the loop needs of a tokenizer.

    `decode` must leave special tokens out; `stop_ids` are all end-of-text tokens; `empty_id` stands for an empty
    prompt.
    """

    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Sequence[int]], str]
    stop_ids: Collection[int]
    pad_id: int
    empty_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """One result; `tokens` counts new tokens without the one that stopped."""

    prompt: str
    text: str
    tokens: int
    stopped: Literal["stop", "length"]


OnText = Callable[[int, str], None]
"""Called with the number of a prompt and new text, whole characters only."""


def generate(
    model: "nn.Module", prompts: Sequence[str], vocabulary: Vocabulary, sampling: Sampling, *,
    positions: int | None = None, on_text: OnText | None = None,
) -> list[Continuation]:  # fmt: skip
    """Continue each prompt; the result of a prompt does not depend on the others or on the batch size.

    Args:
        model: `forward(input_ids, attention_mask, ...)` with `.logits [rows, length, vocabulary]` in its output;
            `position_ids`, `past_key_values` and `logits_to_keep` are used where it knows them.
        prompts: texts.
        positions: most tokens the model can see; None is no limit.
        on_text: told new text as it comes.

    Raises:
        Failure: E-MODEL-006, a prompt leaves no position for a new token; E-MODEL-004, an empty prompt cannot start.
    """
    rows = [_row(number, prompt, vocabulary, sampling, positions) for number, prompt in enumerate(prompts)]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches(rows, sampling):
                _continue(model, batch, vocabulary, sampling, on_text)
    finally:
        model.train(was_training)
    return [row.result(prompt) for row, prompt in zip(rows, prompts, strict=True)]


@dataclass
class Writer:
    """Turns the ids of one prompt's continuation into text, whole characters at a time, up to a stop string."""

    decode: Callable[[Sequence[int]], str]
    stop: Sequence[str]
    ids: list[int]
    """The prompt's last tokens, then the new ones."""
    start: int = 0
    """First id of the piece that is decoded again with each new token."""
    known: int = 0
    """Ids whose text was taken over."""
    text: str = ""
    told: int = 0
    """Characters of `text` that were given out."""
    stopped: bool = False

    def __post_init__(self) -> None:
        self.known = len(self.ids)

    def add(self, id: int) -> str:
        """Take a token; returns the text that is certain now."""
        self.ids.append(id)
        before = self.decode(self.ids[self.start : self.known])
        after = self.decode(self.ids[self.start :])
        if len(after) <= len(before) or after.endswith(UNFINISHED):
            return ""
        self.start, self.known = self.known, len(self.ids)
        return self._take(after[len(before) :])

    def finish(self) -> str:
        """The text that was held back because more could have followed; an unfinished character is left out."""
        if self.stopped:
            return ""
        before = self.decode(self.ids[self.start : self.known])
        rest = self.decode(self.ids[self.start :])[len(before) :].rstrip(UNFINISHED)
        out = self._take(rest)
        if not self.stopped:
            out += self.text[self.told :]
            self.told = len(self.text)
        return out

    def _take(self, piece: str) -> str:
        searched = max(0, len(self.text) - max((len(word) for word in self.stop), default=0))
        self.text += piece
        found = [place for word in self.stop if (place := self.text.find(word, searched)) >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True
        certain = len(self.text) if self.stopped else len(self.text) - self._held()
        out = self.text[self.told : certain]
        self.told = max(self.told, certain)
        return out

    def _held(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = 0
        for word in self.stop:
            for length in range(min(len(word) - 1, len(self.text)), longest, -1):
                if self.text.endswith(word[:length]):
                    longest = length
                    break
        return longest


@dataclass
class Row:
    """One prompt on its way."""

    number: int
    prompt: list[int]
    limit: int
    """New tokens at most."""
    writer: Writer
    generator: "Generator"
    new: list[int] = field(default_factory=list)
    done: bool = False

    def result(self, prompt: str) -> Continuation:
        """What became of it."""
        ended = self.writer.stopped or len(self.new) < self.limit
        return Continuation(
            prompt=prompt, text=self.writer.text, tokens=len(self.new), stopped="stop" if ended else "length"
        )


def batches(rows: Sequence[Row], sampling: Sampling) -> list[list[Row]]:
    """Rows of like length together, the longest first, so that memory is highest at the start."""
    ordered = sorted(rows, key=lambda row: (-len(row.prompt), row.number))
    groups: list[list[Row]] = []
    for row in ordered:
        size = sampling.batch_size
        if size == "auto":
            longest = len(groups[-1][0].prompt) + sampling.max_new_tokens if groups else 1
            size = max(1, min(AUTO_ROWS, AUTO_TOKENS // longest))
        if groups and len(groups[-1]) < size:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def choose(logits: "Tensor", sampling: Sampling, generator: "Generator") -> int:
    """The next token of one row from its logits `[vocabulary]`.

    Greedy at temperature 0; else by one uniform number on the sorted distribution, cut to the smallest set that holds
    `top_p`, so that a row's tokens depend on its own generator alone.
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    scores = logits.double() / sampling.temperature
    probabilities, order = torch.sort(torch.softmax(scores, dim=-1), descending=True, stable=True)
    total = probabilities.cumsum(0)
    kept = int((total - probabilities < sampling.top_p).sum())
    draw = torch.rand((), generator=generator, dtype=torch.float64) * total[kept - 1]
    place = int(torch.searchsorted(total[:kept], draw, right=True))
    return int(order[min(place, kept - 1)])


def _row(number: int, prompt: str, vocabulary: Vocabulary, sampling: Sampling, positions: int | None) -> Row:
    ids = [int(id) for id in vocabulary.encode(prompt)]
    if not ids and vocabulary.empty_id is None:
        raise fail("E-MODEL-004", "an empty prompt needs a token to start from, and the tokenizer has none")
    ids = ids or [int(vocabulary.empty_id or 0)]
    if positions is not None and len(ids) >= positions:
        message = f"prompt {number + 1} has {len(ids)} tokens, but the model has {positions} positions"
        raise fail("E-MODEL-006", message, hint="shorten the prompt")
    limit = sampling.max_new_tokens if positions is None else min(sampling.max_new_tokens, positions - len(ids))
    generator = torch.Generator().manual_seed(fold_seed(sampling.seed, "sample", number))
    writer = Writer(decode=vocabulary.decode, stop=[word for word in sampling.stop if word], ids=ids[-CONTEXT_TOKENS:])
    return Row(number=number, prompt=ids, limit=limit, writer=writer, generator=generator)


def _continue(
    model: "nn.Module", rows: list[Row], vocabulary: Vocabulary, sampling: Sampling, on_text: OnText | None
) -> None:
    """Run one batch to its end; prompts are padded on the left, and padding is never seen."""
    device = next(model.parameters()).device
    longest = max(len(row.prompt) for row in rows)
    ids = torch.tensor([[vocabulary.pad_id] * (longest - len(row.prompt)) + row.prompt for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row.prompt)) + [1] * len(row.prompt) for row in rows], device=device)
    known = inspect.signature(model.forward).parameters
    cache = None
    while True:
        logits, cache = _forward(model, known, ids, mask, cache)
        scores = logits.float().cpu()
        chosen = [
            vocabulary.pad_id if row.done else choose(scores[at], sampling, row.generator)
            for at, row in enumerate(rows)
        ]
        for row, id in zip(rows, chosen, strict=True):
            if not row.done:
                _take(row, id, vocabulary, on_text)
        if all(row.done for row in rows):
            return
        ids = torch.cat([ids, torch.tensor(chosen, device=device)[:, None]], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)


def _take(row: Row, id: int, vocabulary: Vocabulary, on_text: OnText | None) -> None:
    text = ""
    if id in vocabulary.stop_ids:
        row.done = True
    else:
        row.new.append(id)
        text = row.writer.add(id)
        row.done = row.writer.stopped or len(row.new) >= row.limit
    if row.done:
        text += row.writer.finish()
    if text and on_text is not None:
        on_text(row.number, text)


def _forward(
    model: "nn.Module", known: Any, ids: "Tensor", mask: "Tensor", cache: Any,  # noqa: ANN401 - a cache of any model
) -> "tuple[Tensor, Any]":  # fmt: skip
    """Logits of the last position `[rows, vocabulary]` and the cache; without a cache all is computed again."""
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    shown = slice(None) if cache is None else slice(-1, None)
    inputs: dict[str, Any] = {"input_ids": ids[:, shown], "attention_mask": mask}
    if "position_ids" in known:
        inputs["position_ids"] = positions[:, shown]
    if "past_key_values" in known:
        inputs |= {"past_key_values": cache, "use_cache": True}
    if "logits_to_keep" in known:
        inputs["logits_to_keep"] = 1
    output = model(**inputs)
    return output.logits[:, -1], output.get("past_key_values")
