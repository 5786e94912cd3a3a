"""The arithmetic of a plan: degrees, rows, forwards, steps; and what does not come out is named with both numbers."""

from dataclasses import replace

import pytest

from llmtrain.errors import Failure
from llmtrain.recipe.compose import compose
from llmtrain.recipe.plan import Facts, plan
from llmtrain.recipe.schema import Recipe


def recipe(*settings: str) -> Recipe:
    return compose("demo", overrides=["data.seq_len=256", "budget=null", "budget.steps=10", *settings]).recipe


@pytest.mark.parametrize(
    ("settings", "world", "degrees"),
    [
        ((), 1, (1, 1)),
        ((), 4, (1, 4)),
        (("parallel.sharding=none",), 4, (4, 1)),
        (("parallel.dp_shard=2",), 4, (2, 2)),
        (("parallel.dp_replicate=2",), 6, (2, 3)),
        (("parallel.dp_replicate=2", "parallel.dp_shard=2"), 4, (2, 2)),
    ],
)
def test_automatic_degrees_fill_the_world(settings: tuple[str, ...], world: int, degrees: tuple[int, int]) -> None:
    planned = plan(recipe(*settings, "batch.global_size=24"), world)
    assert (planned.dp_replicate, planned.dp_shard) == degrees
    assert planned.data_ranks == world


@pytest.mark.parametrize(
    ("settings", "world", "shown"),
    [
        (("parallel.dp_shard=3",), 4, "dp_shard 3 does not fit 4 ranks"),
        (("parallel.dp_replicate=2", "parallel.dp_shard=1"), 4, "= 2, but there are 4 ranks"),
        (("parallel.sharding=none", "parallel.dp_shard=2"), 2, "sharding is none"),
    ],
)
def test_degrees_that_do_not_fit_name_both_numbers(settings: tuple[str, ...], world: int, shown: str) -> None:
    with pytest.raises(Failure) as caught:
        plan(recipe(*settings), world)
    assert caught.value.problems[0].id == "E-PLAN-003"
    assert shown in caught.value.problems[0].message


@pytest.mark.parametrize(
    ("size", "micro", "world", "expected"),
    [
        (32, "auto", 1, (16, 2)),
        (8, "auto", 1, (8, 1)),
        (32, "auto", 4, (8, 1)),
        (8, "3", 1, (3, 3)),
        (9, "2", 2, (2, 3)),
    ],
)
def test_every_row_has_a_forward(size: int, micro: str, world: int, expected: tuple[int, int]) -> None:
    planned = plan(recipe(f"batch.global_size={size}", f"batch.micro_size={micro}"), world)
    assert (planned.micro_size, planned.micro_count) == expected
    assert planned.micro_size * planned.micro_count * world >= size


def test_accumulate_must_multiply_out() -> None:
    good = plan(recipe("batch.global_size=8", "batch.micro_size=2", "batch.accumulate=2"), 2)
    assert (good.micro_size, good.micro_count) == (2, 2)
    with pytest.raises(Failure) as caught:
        plan(recipe("batch.global_size=8", "batch.micro_size=2", "batch.accumulate=2"), 4)
    assert "= 16, but global_size is 8" in caught.value.problems[0].message
    assert caught.value.problems[0].hint == "batch.global_size: 16"


@pytest.mark.parametrize(
    ("budget", "facts", "steps"),
    [
        ({"steps": 7}, Facts(), 7),
        ({"steps": 7, "epochs": 3.0}, Facts(rows=100, tokens=25_600), 7),
        ({"steps": 70, "epochs": 3.0}, Facts(rows=100, tokens=25_600), 39),
        ({"steps": None, "epochs": 0.5}, Facts(rows=100, tokens=25_600), 7),
        ({"steps": None, "epochs": 1.0}, Facts(), None),
        ({"steps": None, "tokens": 4_096}, Facts(rows=100, tokens=25_600), 2),
        ({"steps": 5, "tokens": 4_096}, Facts(), None),
    ],
)
def test_the_first_budget_reached_ends_the_run(budget: dict[str, float], facts: Facts, steps: int | None) -> None:
    made = recipe("batch.global_size=8")
    made = replace(made, budget=replace(made.budget, **budget))
    assert plan(made, 1, facts).total_steps == steps


def test_the_last_smaller_batch_of_an_epoch_counts_unless_dropped() -> None:
    facts = Facts(rows=100, tokens=25_600)
    assert plan(recipe("batch.global_size=8"), 1, facts).steps_per_epoch == 13
    assert plan(recipe("batch.global_size=8", "data.drop_last=true"), 1, facts).steps_per_epoch == 12
    with pytest.raises(Failure):
        plan(recipe("batch.global_size=101", "data.drop_last=true"), 1, facts)
