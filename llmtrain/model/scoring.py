"""Cross-entropy straight from hidden states, so that full logits never exist (formulas.md 2, chunked loss)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmtrain.errors import fail
from llmtrain.model.build import Built
from llmtrain.recipe.slots import ObjectiveConfig

LARGE = 2**30
"""Bytes of fp32 logits of one forward above which `auto` leaves them out."""


def head_of(built: Built) -> nn.Linear | None:
    """The linear head from hidden states to logits, None where there is none."""
    if built.config is None:
        return None
    model: Any = built.model
    head = model.get_output_embeddings()
    return head if isinstance(head, nn.Linear) else None


def wants_chunks(wanted: bool | str, *, logits_bytes: int, objective: ObjectiveConfig) -> bool:
    """Resolve `memory.chunked_loss` as far as sizes and the objective decide it.

    Raises:
        Failure: `true` where the objective needs full logits.
    """
    settings = objective.__dict__
    needs_logits = bool(settings.get("label_smoothing") or settings.get("z_loss"))
    if wanted is True and needs_logits:
        raise fail(
            "E-RECIPE-009", "chunked_loss is not possible: the objective needs full logits", key="memory.chunked_loss"
        )
    if wanted == "auto":
        return not needs_logits and logits_bytes > LARGE
    return bool(wanted)


class ChunkedScorer:
    """The stage returned hidden states [B, S, H]."""

    def __init__(self, head: nn.Linear | None) -> None:
        assert head is not None
        self._head = head

    def nll(self, out: Tensor, targets: Tensor) -> Tensor:
        """As `Scorer.nll`; summed in fp32 by the caller, because the operator's own sum is in the inputs' format."""
        hidden = out.reshape(-1, out.shape[-1])
        flat = functional.linear_cross_entropy(
            hidden, self._head.weight.to(hidden.dtype), targets.reshape(-1), linear_bias=self._bias(hidden.dtype),
            ignore_index=-100, reduction="none", options=nn.LinearCrossEntropyOptions(),
        )  # fmt: skip
        return flat.float().view(targets.shape)

    def _bias(self, dtype: torch.dtype) -> Tensor | None:
        return None if self._head.bias is None else self._head.bias.to(dtype)

    def logits(self, out: Tensor) -> Tensor:
        return self._head(out)
