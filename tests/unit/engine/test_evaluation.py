"""Held-out numbers: the same at any batch size, and nothing in the run can tell that they were taken."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from llmtrain import dist
from llmtrain.data.loader import EvalLoader
from llmtrain.dist import Ranks
from llmtrain.engine.evaluation import Evaluator
from tests.dist.steps import VOCABULARY, Case, Made, Rows, make, single_rows


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    torch.set_num_threads(1)
    ranks = dist.start(backend="gloo", timeout=60)
    dropping = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}  # dropout 0.1
    yield make(Case(model=dropping), Ranks())
    dist.stop(ranks)


SIZES = np.arange(VOCABULARY) % 5 + 1


def evaluator(made: Made, sets: dict[str, Rows], size: int, dtype: torch.dtype | None = None) -> Evaluator:
    engine = made.engine
    batches: Any = {
        name: partial(EvalLoader, rows, batch_size=size, collate=engine.objective.collate)
        for name, rows in sets.items()
    }
    return Evaluator(
        executor=engine.executor,
        objective=engine.objective,
        ranks=Ranks(),
        sets=batches,
        token_bytes=SIZES,
        dtype=dtype,
    )


def by_hand(made: Made, rows: Rows) -> tuple[float, int, int]:
    """(nats, targets, bytes) of plain forwards, row by row."""
    nats, targets, size = 0.0, 0, 0
    made.built.model.eval()
    for row in rows.rows:
        ids = torch.from_numpy(row.ids).long()[None]
        with torch.no_grad():
            scores = made.built.model(input_ids=ids, use_cache=False).logits.double().log_softmax(-1)[0, :-1]
        nats -= float(scores.gather(-1, ids[0, 1:, None]).sum())
        targets += len(row.ids) - 1
        size += int(SIZES[row.ids[1:]].sum())
    made.built.model.train()
    return nats, targets, size


def test_the_same_numbers_at_any_batch_size(made: Made) -> None:
    rows = single_rows()
    nats, targets, size = by_hand(made, rows)
    found = [evaluator(made, {"": rows}, batch).evaluate() for batch in (1, 3, 16)]
    for values in found:
        assert values is not None
        assert values["eval_tokens"] == targets
        assert values["eval_loss"] == pytest.approx(nats / targets, rel=1e-6)
        assert values["eval_perplexity"] == pytest.approx(math.exp(nats / targets), rel=1e-5)
        assert values["eval_bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-6)
        assert set(values) == {"eval_loss", "eval_perplexity", "eval_bits_per_byte", "eval_tokens"}


def test_named_sets_have_their_own_numbers_and_the_whole_is_weighted_by_targets(made: Made) -> None:
    rows = single_rows()
    sets = {"short": Rows(rows.rows[:1]), "long": Rows(rows.rows[1:])}
    values = evaluator(made, sets, 2).evaluate()
    whole = evaluator(made, {"": rows}, 2).evaluate()
    assert values is not None and whole is not None
    mixed = sum(values[f"eval_{name}_loss"] * values[f"eval_{name}_tokens"] for name in sets)
    assert values["eval_loss"] == pytest.approx(mixed / values["eval_tokens"], rel=1e-12)
    assert values["eval_loss"] == pytest.approx(whole["eval_loss"], rel=1e-6)
    assert values["eval_short_loss"] != pytest.approx(values["eval_long_loss"], rel=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_mode_generators_and_gradients_are_left_alone(made: Made, training: bool) -> None:
    stage = made.engine.executor.stage
    stage.train(training)
    torch.manual_seed(5)
    expected = torch.randn(4)
    torch.manual_seed(5)
    first = evaluator(made, {"": single_rows()}, 2).evaluate()
    assert torch.equal(torch.randn(4), expected)
    assert stage.training is training and all(module.training is training for module in stage.modules())
    assert all(parameter.grad is None for parameter in stage.parameters())
    torch.manual_seed(6)
    assert evaluator(made, {"": single_rows()}, 2).evaluate() == first, "dropout would change it"
    stage.train()


def test_another_precision_is_another_number(made: Made) -> None:
    exact = evaluator(made, {"": single_rows()}, 2).evaluate()
    low = evaluator(made, {"": single_rows()}, 2, torch.bfloat16).evaluate()
    assert exact is not None and low is not None
    assert low["eval_loss"] != exact["eval_loss"] and low["eval_loss"] == pytest.approx(exact["eval_loss"], rel=1e-2)


def test_an_interrupted_evaluation_gives_nothing_and_leaves_nothing(made: Made) -> None:
    stage = made.engine.executor.stage
    asked = []

    def interrupted() -> bool:
        asked.append(1)
        return len(asked) > 1

    rows = single_rows((5,) * 40)
    assert evaluator(made, {"": rows}, 1).evaluate(interrupted) is None
    assert len(asked) == 2 and stage.training


def test_nothing_to_score_is_not_a_number(made: Made) -> None:
    values = evaluator(made, {"": single_rows((4, 5), masked=(0, 1))}, 2).evaluate()
    assert values is not None and math.isnan(values["eval_loss"]) and values["eval_tokens"] == 0
