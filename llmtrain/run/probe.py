"""Questions asked of the built model itself before training, because lists of architectures go stale.

Both probes run the whole model on a few tokens, on one rank's whole weights, before anything is sharded.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmtrain.model.scoring import ChunkedScorer
from llmtrain.parallel.stage import Stage

LEAK = 1e-4
"""Largest share of the logits' scale by which a document may differ in a pack (formulas.md 3.2)."""
AGREEMENT = 1e-4
"""Largest relative difference of the chunked loss from the model's own (formulas.md 2)."""


def _tokens(vocabulary: int, count: int) -> Tensor:
    """Distinct-looking ids without randomness, so that a probe never touches a generator."""
    return (torch.arange(count) * 7919 + 13) % vocabulary


def _logits(stage: Stage, ids: Tensor, positions: Tensor) -> Tensor:
    device = next(stage.parameters()).device
    return stage(ids[None].to(device), positions[None].to(device))[0].float()


def packs_leak(stage: Stage, vocabulary: int) -> float:
    """How much a document's logits change when another one stands before it in its row, as a share of their scale.

    Without a leak this is rounding; an architecture that ignores restarting positions shows 1e-3 and more.
    """
    first, second = 9, 12
    ids = _tokens(vocabulary, first + second)
    positions = torch.cat([torch.arange(first), torch.arange(second)])
    training = stage.training
    stage.eval()
    with torch.no_grad():
        packed = _logits(stage, ids, positions)[first:]
        alone = _logits(stage, ids[first:], positions[first:])
    stage.train(training)
    return float((packed - alone).abs().max() / alone.abs().max().clamp_min(1e-12))


def chunks_agree(stage: Stage, head: nn.Linear, vocabulary: int) -> bool:
    """Whether the loss from hidden states and head is the loss of the model's own logits."""
    assert not stage.hidden
    ids = _tokens(vocabulary, 16)
    targets, positions = ids.roll(-1)[None], torch.arange(16)
    training = stage.training
    stage.eval()
    model: Any = stage.model
    with torch.no_grad():
        own = functional.cross_entropy(
            _logits(stage, ids, positions), targets[0].to(head.weight.device), reduction="none"
        )
        hidden = model.base_model(
            input_ids=ids[None].to(head.weight.device),
            position_ids=positions[None].to(head.weight.device),
            use_cache=False,
        ).last_hidden_state
        chunked = ChunkedScorer(head).nll(hidden, targets.to(head.weight.device))[0]
    stage.train(training)
    return bool(((own - chunked).abs() <= AGREEMENT * own.abs().clamp_min(1.0)).all())
