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
AFTER_HEAD = ("final_logit_softcapping", "logits_scaling", "logit_scale", "dim_model_base")
"""Settings of models that change logits after the head; those need the full logits."""


def head_of(built: Built) -> nn.Linear | None:
    """The linear head from hidden states to logits, None where there is none or logits are changed after it."""
    model: Any = built.model
    if built.config is None:
        return None
    settings = built.config.to_dict()
    if any(settings.get(key) for key in AFTER_HEAD):
        return None
    head = model.get_output_embeddings()
    return head if isinstance(head, nn.Linear) else None


def use_chunks(wanted: bool | str, built: Built, *, micro_tokens: int, objective: ObjectiveConfig) -> bool:
    """Resolve `memory.chunked_loss`.

    Raises:
        Failure: `true` where the model or the objective needs full logits.
    """
    settings = objective.__dict__
    needs_logits = bool(settings.get("label_smoothing") or settings.get("z_loss"))
    possible = head_of(built) is not None and not needs_logits
    if wanted is True and not possible:
        why = "the objective needs full logits" if needs_logits else "the model changes its logits after the head"
        raise fail("E-RECIPE-009", f"chunked_loss is not possible: {why}", key="memory.chunked_loss", hint="auto")
    if wanted == "auto":
        return possible and micro_tokens * built.vocabulary * 4 > LARGE
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
