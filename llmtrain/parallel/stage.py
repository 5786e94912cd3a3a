"""A piece of a model as the executor sees it; a whole model is the piece of all layers, first and last."""

from typing import Any

from torch import Tensor, nn


class Stage(nn.Module):
    """ids [B, S] in, logits [B, S, V] out, or hidden states [B, S, H] when the loss is chunked.

    Attention masks are never passed and the cache is off, the two conditions under which transformers keeps
    packed documents apart by their positions (formulas.md 3.1).
    """

    def __init__(self, model: nn.Module, *, foreign: bool, hidden: bool = False) -> None:
        """Wrap `model`.

        Args:
            model: a transformers causal model, or a module of the user's.
            foreign: the module is the user's: it takes (ids, positions) and returns logits.
            hidden: return hidden states before the head.
        """
        super().__init__()
        self.model, self.foreign, self.hidden = model, foreign, hidden

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Run the piece."""
        if self.foreign:
            return self.model(ids, positions)
        model: Any = self.model
        if self.hidden:
            return model.base_model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
        return model(input_ids=ids, position_ids=positions, use_cache=False).logits

    def blocks(self) -> list[nn.Module]:
        """The repeated layers: the longest module list, the units of sharding, recompute and compilation."""
        lists = [m for m in self.model.modules() if isinstance(m, nn.ModuleList)]
        return list(max(lists, key=len)) if lists else []
