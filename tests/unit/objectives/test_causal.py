"""The causal objective: targets of hand-made rows, and its sums against float64 arithmetic written out."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from llmtrain.data.rows import Row
from llmtrain.objectives.base import IGNORED, LogitsScorer
from llmtrain.objectives.causal import Causal, CausalConfig


def row(*documents: list[int], masked: int = 0) -> Row:
    """A row of documents; the first `masked` tokens are no targets."""
    ids = np.array([token for document in documents for token in document], dtype=np.int32)
    positions = np.concatenate([np.arange(len(document), dtype=np.int32) for document in documents])
    labels = np.where(positions == 0, np.int32(IGNORED), ids)
    labels[:masked] = IGNORED
    return Row(ids=ids, labels=labels, positions=positions, source="test", index=0)


def objective(pad_to: int | None = None, **settings: float) -> Causal:
    return CausalConfig(**settings).build(LogitsScorer(), pad_id=0, pad_to=pad_to)


def test_targets_are_the_next_tokens_and_never_cross_documents() -> None:
    found = objective().collate([row([5, 6, 7], [8, 9]), row([1, 2])])
    assert found["ids"].tolist() == [[5, 6, 7, 8, 9], [1, 2, 0, 0, 0]]
    x = IGNORED
    assert found["targets"].tolist() == [[6, 7, x, 9, x], [2, x, x, x, x]]
    assert found["positions"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]], "padding is a document of its own"
    assert int(found["tokens"]) == 7 and float(objective().weight(found)) == 4


def test_padding_to_a_length() -> None:
    found = objective(pad_to=6).collate([row([5, 6, 7])])
    assert found["ids"].shape == (1, 6) and found["positions"].tolist() == [[0, 1, 2, 0, 1, 2]]


@pytest.mark.parametrize("pad_to", [None, 6])
def test_no_rows_make_a_micro_batch_without_targets(pad_to: int | None) -> None:
    found = objective(pad_to).collate([])
    assert found["ids"].shape == (1, pad_to or 2) and int(found["tokens"]) == 0
    assert float(objective().weight(found)) == 0
    out = torch.randn(1, pad_to or 2, 11, requires_grad=True)
    loss = objective(label_smoothing=0.1, z_loss=0.1).loss(out, found)
    loss.total.backward()
    assert float(loss.total.detach()) == 0.0 and out.grad is not None and float(out.grad.abs().sum()) == 0.0


def by_hand(out: Tensor, targets: Tensor, smoothing: float, z: float) -> tuple[float, float]:
    """(total, sum of squared normalisers), one position after the other in float64."""
    total = squares = 0.0
    for scores, target in zip(out.double().reshape(-1, out.shape[-1]), targets.reshape(-1), strict=True):
        if int(target) == IGNORED:
            continue
        normaliser = math.log(sum(math.exp(float(score)) for score in scores))
        cross = normaliser - float(scores[int(target)])
        uniform = sum(normaliser - float(score) for score in scores) / len(scores)
        total += (1 - smoothing) * cross + smoothing * uniform + z * normaliser**2
        squares += normaliser**2
    return total, squares


@pytest.mark.parametrize(("smoothing", "z"), [(0.0, 0.0), (0.1, 0.0), (0.0, 1e-2), (0.3, 0.5)])
def test_the_loss_is_the_sum_of_the_formula(smoothing: float, z: float) -> None:
    torch.manual_seed(0)
    made: Any = objective(label_smoothing=smoothing, z_loss=z)
    batch = made.collate([row([5, 6, 7, 2], [8, 9]), row([1, 2, 3], masked=2)])
    out = 3 * torch.randn(*batch["ids"].shape, 11)
    expected, squares = by_hand(out, batch["targets"], smoothing, z)
    loss = made.loss(out, batch)
    assert float(loss.total) == pytest.approx(expected, rel=1e-6)
    assert set(loss.logs) == ({"z_loss"} if z else set())
    if z:
        total, weight = loss.logs["z_loss"]
        assert float(total) == pytest.approx(squares, rel=1e-6) and int(weight) == 5


def test_the_gradient_is_that_of_the_formula() -> None:
    torch.manual_seed(0)
    made = objective(label_smoothing=0.2, z_loss=0.1)
    batch = made.collate([row([5, 6, 7, 2])])
    out = torch.randn(1, 4, 11, dtype=torch.float64, requires_grad=True)
    [found] = torch.autograd.grad(made.loss(out, batch).total, out)
    for t, v in ((0, 3), (1, 7), (2, 2), (3, 5)):
        sides = []
        for step in (1e-4, -1e-4):
            moved = out.detach().clone()
            moved[0, t, v] += step
            sides.append(by_hand(moved, batch["targets"], 0.2, 0.1)[0])
        assert float(found[0, t, v]) == pytest.approx((sides[0] - sides[1]) / 2e-4, abs=1e-5)


def test_evaluation_counts_no_extras() -> None:
    torch.manual_seed(0)
    made = objective(label_smoothing=0.2, z_loss=0.1)
    batch = made.collate([row([5, 6, 7, 2])])
    out = torch.randn(1, 4, 11)
    total, weight = made.evaluate(out, batch)["loss"]
    assert float(total) == pytest.approx(by_hand(out, batch["targets"], 0.0, 0.0)[0], rel=1e-6)
    assert float(weight) == 3 and total.dtype == torch.float64


def test_bf16_logits_are_scored_in_fp32() -> None:
    torch.manual_seed(0)
    out = torch.randn(1, 512, 11).to(torch.bfloat16)
    targets = torch.randint(0, 11, (1, 512))
    found = LogitsScorer().nll(out, targets)
    assert found.dtype == torch.float32
    assert float(found.sum(dtype=torch.float64)) == pytest.approx(by_hand(out, targets, 0, 0)[0], rel=1e-6)
