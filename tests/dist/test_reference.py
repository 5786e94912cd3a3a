"""The engine against a plain training loop in float64 that shares no line with it but the model's own class."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from llmtrain.dist import Ranks
from llmtrain.model.build import TokenIds, build
from llmtrain.optim.optimizers import AdamWConfig
from llmtrain.optim.schedules import CosineConfig
from llmtrain.recipe.schema import ModelSection
from tests.dist.steps import (
    GPT2,
    LENGTHS,
    LLAMA,
    VOCABULARY,
    Case,
    Rows,
    make,
    single_rows,
)
from tests.ranks import on_ranks

STEPS, PEAK, DECAY, LIMIT = 5, 1e-2, 0.1, 0.3
BETAS, EPSILON = (0.9, 0.95), 1e-8


class DoubleScorer:
    """Log-likelihoods in the logits' own format; the product's own scorer rounds them to fp32 on purpose."""

    def nll(self, out: Tensor, targets: Tensor) -> Tensor:
        chosen = out.log_softmax(-1).gather(-1, targets.clamp_min(0)[..., None])[..., 0]
        return torch.where(targets == -100, torch.zeros_like(chosen), -chosen)

    def logits(self, out: Tensor) -> Tensor:
        return out


def plain(model: Any, rows: Rows) -> tuple[list[float], list[float], dict[str, Tensor]]:
    """Losses, norms and weights: one row a forward, no padding, AdamW and cosine written out from their papers."""
    named = dict(model.named_parameters())
    first = {name: torch.zeros_like(p) for name, p in named.items()}
    second = {name: torch.zeros_like(p) for name, p in named.items()}
    losses, norms = [], []
    warm = math.ceil(0.4 * STEPS)
    for step in range(STEPS):
        chosen = [rows.row((8 * step + i) % len(rows)) for i in range(8)]
        count = sum(len(row.ids) - 1 for row in chosen)
        total = torch.zeros((), dtype=torch.float64)
        for row in chosen:
            ids = torch.from_numpy(row.ids).long()[None]
            scores = model(input_ids=ids).logits.double().log_softmax(-1)[0, :-1]
            total = total - scores.gather(-1, ids[0, 1:, None]).sum()
        losses.append(float(total.detach()) / count)
        gradients = torch.autograd.grad(total / count, list(named.values()))
        norm = math.sqrt(sum(float(g.double().pow(2).sum()) for g in gradients))
        norms.append(norm)
        share = min(1.0, LIMIT / (norm + 1e-6))
        if step < warm:
            factor = (step + 1) / warm
        else:
            factor = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - warm) / (STEPS - warm)))
        with torch.no_grad():
            for (name, p), gradient in zip(named.items(), gradients, strict=True):
                g = gradient * share
                first[name] = BETAS[0] * first[name] + (1 - BETAS[0]) * g
                second[name] = BETAS[1] * second[name] + (1 - BETAS[1]) * g * g
                mean = first[name] / (1 - BETAS[0] ** (step + 1))
                root = (second[name] / (1 - BETAS[1] ** (step + 1))).sqrt()
                if p.ndim > 1:
                    p.mul_(1 - PEAK * factor * DECAY)
                p.sub_(PEAK * factor * mean / (root + EPSILON))
    return losses, norms, {name: p.detach() for name, p in named.items()}


def compared(kind: str, dtype: torch.dtype, scratch: Path) -> dict[str, float]:
    """Largest relative differences of losses, norms and weights over 5 steps of 8 rows cut as 4 x 2."""
    rows = single_rows((*LENGTHS, *LENGTHS[::-1], 9, 31, 77))
    config = GPT2 if kind == "gpt2" else LLAMA
    schedule = CosineConfig(warmup=0.4, min_ratio=0.1).build(STEPS, PEAK)
    case = Case(
        rows=Rows(rows.rows[:16]), last=STEPS, micro=2, model=config, dtype=dtype, factor=schedule,
        scorer=DoubleScorer() if dtype == torch.float64 else None,
        optimizer=AdamWConfig(lr=PEAK, weight_decay=DECAY, betas=list(BETAS), eps=EPSILON, max_grad_norm=LIMIT),
    )  # fmt: skip

    def work(ranks: Ranks) -> None:
        built = build(
            ModelSection(config=config),
            TokenIds(size=VOCABULARY, eos=0, pad=0),
            seed=1,
            offline=True,
        )
        other = (GPT2LMHeadModel if kind == "gpt2" else LlamaForCausalLM)(built.config)
        other.load_state_dict(built.model.state_dict())
        made = make(case, ranks, built)
        made.engine.fit()
        losses, norms, weights = plain(other.to(dtype), case.rows)
        mine = dict(built.model.named_parameters())
        found = {
            "loss": max(abs(line["loss"] / loss - 1) for line, loss in zip(made.lines, losses, strict=True)),
            "norm": max(abs(line["grad_norm"] / norm - 1) for line, norm in zip(made.lines, norms, strict=True)),
            "weight": max(float((mine[n].detach() - w).abs().max() / w.abs().max()) for n, w in weights.items()),
            "learned": 1 - losses[-1] / losses[0],
        }
        np.savez(
            scratch / "found.npz",
            **{name: np.array(value) for name, value in found.items()},
        )

    assert on_ranks(1, work, scratch) == [0]
    return {name: float(value) for name, value in np.load(scratch / "found.npz").items()}


def test_gpt2_in_float64_agrees_to_the_last_digits(tmp_path: Path) -> None:
    found = compared("gpt2", torch.float64, tmp_path)
    assert found["loss"] < 1e-12 and found["norm"] < 1e-11 and found["weight"] < 1e-10, found
    assert found["learned"] > 0.01


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_in_fp32_it_agrees_as_far_as_fp32_goes(tmp_path: Path, kind: str) -> None:
    """Llama computes its norms and rotations in fp32 whatever it is cast to, so this is its only comparison."""
    found = compared(kind, torch.float32, tmp_path)
    assert found["loss"] < 1e-5 and found["norm"] < 1e-4, found
