"""The arithmetic of a run: layout, batch, steps; no torch, so that `check` and `plan` answer at once.

Separate from the recipe because a plan also knows the world and, once data is read, its rows.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from llmtrain.errors import Failure, Problem
from llmtrain.recipe.schema import Recipe

MICRO_TOKENS = 4096
"""Tokens of one forward that `micro_size: auto` aims at: enough to keep matrix products busy, small in memory."""


class Facts(NamedTuple):
    """What only loading can tell; None is unknown and printed as such."""

    rows: int | None = None
    tokens: int | None = None
    vocabulary: int | None = None


UNKNOWN = Facts()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Resolved numbers."""

    world: int
    dp_replicate: int
    dp_shard: int
    global_size: int
    micro_size: int
    micro_count: int
    """Forwards of a full step on one rank."""
    rows: int | None
    steps_per_epoch: int | None
    total_steps: int | None
    """Optimizer steps of the run; None until rows are known."""
    tokens_per_row: float
    """Mean tokens of a row; `seq_len` until rows are known."""

    @property
    def data_ranks(self) -> int:
        return self.dp_replicate * self.dp_shard


def plan(recipe: Recipe, world: int, facts: Facts = UNKNOWN) -> Plan:
    """Resolve the recipe's numbers for `world` ranks.

    Raises:
        Failure: carries every problem of the arithmetic.
    """
    problems: list[Problem] = []
    replicate, shard = _degrees(recipe, world, problems)
    ranks = max(1, replicate * shard)
    global_size, micro, count = _batch(recipe, ranks, problems)
    per_epoch = _steps_per_epoch(recipe, facts, global_size)
    mean = facts.tokens / facts.rows if facts.rows and facts.tokens else float(recipe.data.seq_len)
    total = None
    if recipe.run_mode == "train":
        total = _total_steps(recipe, per_epoch, facts, global_size * mean, problems)
    if problems:
        raise Failure(*problems)
    return Plan(
        world=world, dp_replicate=replicate, dp_shard=shard, global_size=global_size, micro_size=micro,
        micro_count=count, rows=facts.rows, steps_per_epoch=per_epoch, total_steps=total, tokens_per_row=mean,
    )  # fmt: skip


def _degrees(recipe: Recipe, world: int, problems: list[Problem]) -> tuple[int, int]:
    """(dp_replicate, dp_shard): automatic sizes fill the world; `sharding: none` fills with replicas."""
    section = recipe.parallel
    replicate, shard = section.dp_replicate, section.dp_shard
    given = (1 if replicate == "auto" else replicate) * (1 if shard == "auto" else shard)
    if section.sharding == "none" and shard != "auto" and shard > 1:
        problems.append(
            Problem(
                id="E-PLAN-003",
                key="parallel.dp_shard",
                message=f"{shard} ranks share a copy, but sharding is none",
                hint="parallel.sharding: full, or parallel.dp_replicate",
            )
        )
        return 1, world
    if world % given:
        hint = f"processes must be a multiple of {given}, or set parallel.dp_replicate and parallel.dp_shard to auto"
        shown = f"dp_replicate {replicate} x dp_shard {shard} does not fit {world} ranks"
        problems.append(Problem(id="E-PLAN-003", key="parallel", message=shown, hint=hint))
        return 1, world
    rest = world // given
    if replicate == "auto" and (section.sharding == "none" or shard != "auto"):
        return rest, 1 if shard == "auto" else shard
    if shard == "auto":
        return 1 if replicate == "auto" else replicate, rest
    if rest != 1:
        shown = f"dp_replicate {replicate} x dp_shard {shard} = {given}, but there are {world} ranks"
        problems.append(Problem(id="E-PLAN-003", key="parallel", message=shown, hint="set one of them to auto"))
    assert replicate != "auto"
    return replicate, shard


def _batch(recipe: Recipe, ranks: int, problems: list[Problem]) -> tuple[int, int, int]:
    """(global rows, rows a forward, forwards a step and rank)."""
    section = recipe.batch
    size, micro, accumulate = section.global_size, section.micro_size, section.accumulate
    if accumulate is not None:
        if micro == "auto":
            problems.append(
                Problem(
                    id="E-PLAN-001",
                    key="batch.accumulate",
                    message="needs a number in batch.micro_size",
                    hint="set batch.micro_size, or leave accumulate out",
                )
            )
            return size, 1, 1
        if micro * ranks * accumulate != size:
            message = (
                f"micro_size {micro} x {ranks} ranks x accumulate {accumulate} = {micro * ranks * accumulate}, "
                f"but global_size is {size}"
            )
            hint = f"batch.global_size: {micro * ranks * accumulate}"
            problems.append(Problem(id="E-PLAN-001", key="batch.global_size", message=message, hint=hint))
        return size, micro, accumulate
    share = math.ceil(size / ranks)
    if micro == "auto":
        wanted = max(1, min(share, MICRO_TOKENS // recipe.data.seq_len))
        forwards = math.ceil(share / wanted)
        micro = math.ceil(share / forwards)
    return size, micro, math.ceil(size / (ranks * micro))


def _steps_per_epoch(recipe: Recipe, facts: Facts, size: int) -> int | None:
    if facts.rows is None:
        return None
    return facts.rows // size if recipe.data.drop_last else math.ceil(facts.rows / size)


def _total_steps(
    recipe: Recipe, per_epoch: int | None, facts: Facts, tokens_per_step: float, problems: list[Problem]
) -> int | None:
    """Planned optimizer steps: the smallest of the budgets; None while one of them cannot be known yet."""
    budget = recipe.budget
    if per_epoch == 0:
        message = f"{facts.rows} rows make no whole batch of {recipe.batch.global_size}, and drop_last is on"
        problems.append(Problem(id="E-PLAN-001", key="data.drop_last", message=message))
        return None
    totals: list[int | None] = []
    if budget.steps is not None:
        totals.append(budget.steps)
    if budget.epochs is not None:
        totals.append(None if per_epoch is None else max(1, math.ceil(per_epoch * budget.epochs - 1e-9)))
    if budget.tokens is not None:
        totals.append(None if facts.rows is None else max(1, math.ceil(budget.tokens / tokens_per_step)))
    if not totals:
        hint = "budget.steps, budget.epochs or budget.tokens"
        problems.append(Problem(id="E-PLAN-005", key="budget", message="nothing says when to stop", hint=hint))
        return None
    known = [total for total in totals if total is not None]
    return min(known) if len(known) == len(totals) else None
