"""What the loop does when numbers are not finite: stop before the update, skip, or lower the loss scale."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from llmtrain import dist
from llmtrain.dist import Ranks
from llmtrain.engine.events import Notice, StepEnd
from llmtrain.errors import Failure
from llmtrain.objectives.base import Loss, MicroBatch
from llmtrain.optim.optimizers import AdamWConfig, SgdConfig
from llmtrain.recipe.schema import PrecisionSection, RunSection
from tests.dist.steps import Case, Made, make, single_rows


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    torch.set_num_threads(1)
    ranks = dist.start(backend="gloo", timeout=60)
    yield
    dist.stop(ranks)


ROWS = single_rows((9, 12, 5, 7))
CASE = Case(rows=ROWS, global_size=2, micro=1, last=6, optimizer=AdamWConfig(lr=1e-2))


def spoiled(made: Made, *steps: int, gradient: bool = False) -> Made:
    """The objective gives NaN (or a finite loss with a NaN gradient) at these steps, counted from 1."""
    engine = made.engine
    original = engine.objective.loss

    def loss(out: Tensor, micro_batch: MicroBatch) -> Loss:
        found = original(out, micro_batch)
        if engine.state.step + 1 not in steps:
            return found
        if not gradient:
            return Loss(found.total * math.nan, found.logs)
        return Loss(found.total + (out[..., 0] - out[..., 0].detach()).abs().sqrt().sum(), found.logs)

    engine.objective.loss = loss  # type: ignore[method-assign]
    return made


def weights(made: Made) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in made.built.model.named_parameters()}


@pytest.mark.parametrize(("gradient", "what"), [(False, "loss"), (True, "gradient norm")])
def test_a_number_that_is_not_finite_stops_before_the_update(gradient: bool, what: str) -> None:
    good = make(replace(CASE, last=4), Ranks())
    good.engine.fit()
    made = spoiled(make(CASE, Ranks()), 5, gradient=gradient)
    made.engine.saved_step = 3
    with pytest.raises(Failure) as failure:
        made.engine.fit()
    [problem] = failure.value.problems
    assert (problem.id, failure.value.exit_code) == ("E-RUN-001", 3)
    text = f"step 5: {what} is not finite (samples 8-9: test row 0 (row 0), test row 1 (row 1))"
    assert problem.message == f"{text}; stopped before the update; step 3 is safe"
    assert made.engine.state.step == 4
    before, after = weights(good), weights(made)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_skipping_moves_the_data_but_neither_weights_nor_schedule() -> None:
    case = replace(CASE, run=RunSection(nonfinite="skip"), factor=lambda applied: 0.5**applied)
    made = spoiled(make(case, Ranks()), 3)
    said: list[Any] = []
    made.engine.bus.on(Notice, said.append)
    made.engine.bus.on(StepEnd, said.append)
    made.engine.fit()
    state = made.engine.state
    assert (state.step, state.applied, state.skipped, state.skipped_in_row) == (6, 5, 1, 0)
    assert [line["lr"] / 1e-2 for line in made.lines] == [1, 0.5, 0.25, 0.25, 0.125, 0.0625]
    assert math.isnan(made.lines[2]["loss"]) and made.lines[2]["skipped"] == 1
    notices = [event.message for event in said if isinstance(event, Notice)]
    assert len(notices) == 1 and notices[0].startswith("step 3: loss is not finite (samples 4-5:")
    assert all(np.isfinite(w.numpy()).all() for w in weights(made).values())


def test_too_many_skips_in_a_row_end_the_run() -> None:
    case = replace(CASE, run=RunSection(nonfinite="skip", max_skips=2))
    made = spoiled(make(case, Ranks()), 1, 3, 4, 5)
    with pytest.raises(Failure) as failure:
        made.engine.fit()
    assert failure.value.problems[0].id == "E-RUN-003" and failure.value.exit_code == 3
    assert failure.value.problems[0].message.startswith("step 5: 2 updates in a row were skipped")


def test_a_loss_above_the_limit_ends_the_run() -> None:
    made = make(replace(CASE, run=RunSection(max_loss=0.5)), Ranks())
    with pytest.raises(
        Failure, match=r"step 1: loss 4\.\d+ is above run.max_loss 0.5; nothing was saved yet"
    ) as failure:
        made.engine.fit()
    assert failure.value.exit_code == 3 and len(made.lines) == 1


def test_a_skipped_step_has_no_loss_that_could_be_too_large() -> None:
    made = spoiled(make(replace(CASE, run=RunSection(max_loss=50.0, nonfinite="skip")), Ranks()), 2)
    assert made.engine.fit().step == 6


def test_a_step_without_any_target_is_refused() -> None:
    rows = single_rows((9, 12, 5, 7), masked=(2, 3))
    made = make(replace(CASE, rows=rows), Ranks())
    with pytest.raises(Failure, match=r"step 2: no row has a target \(test row 2") as failure:
        made.engine.fit()
    assert failure.value.problems[0].id == "E-DATA-006" and made.engine.state.step == 1


SCALED = replace(
    CASE, precision=PrecisionSection(compute="fp16", loss_scale=2.0**10), compute=torch.float16,
    optimizer=SgdConfig(lr=0.1),
)  # fmt: skip


def test_the_loss_scale_changes_no_number() -> None:
    made, doubled = (
        make(SCALED, Ranks()),
        make(replace(SCALED, precision=PrecisionSection(compute="fp16", loss_scale=2.0**11)), Ranks()),
    )
    made.engine.fit()
    doubled.engine.fit()
    exact = make(replace(CASE, optimizer=SgdConfig(lr=0.1)), Ranks())
    exact.engine.fit()
    for line, other, true in zip(made.lines, doubled.lines, exact.lines, strict=True):
        assert line["loss"] == pytest.approx(true["loss"], rel=1e-2)
        assert line["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-2)
        assert line["grad_norm"] == pytest.approx(true["grad_norm"], rel=5e-2)
        assert (line["loss_scale"], other["loss_scale"]) == (2.0**10, 2.0**11)


def test_an_overflow_halves_the_scale_and_skips_until_it_fits() -> None:
    """2^40 times a gradient is beyond fp16's 65,504: the first steps are skipped, then it trains."""
    made = make(replace(SCALED, last=60, precision=PrecisionSection(compute="fp16", loss_scale=2.0**40)), Ranks())
    start = weights(made)
    state = made.engine.fit()
    scales = [line["loss_scale"] for line in made.lines]
    assert scales[0] == 2.0**39 and state.skipped >= 20 and state.applied == 60 - state.skipped
    assert state.loss_scale == 2.0 ** (40 - state.skipped) and state.scale_age < state.applied
    assert all(np.isfinite(w.numpy()).all() for w in weights(made).values())
    assert any(not torch.equal(start[name], after) for name, after in weights(made).items())


def test_the_scale_grows_after_two_thousand_good_steps_and_survives_a_resume() -> None:
    made = make(SCALED, Ranks())
    tensors = made.engine.tensors
    tensors.train_state = replace(tensors.train_state, scale_age=1998)
    made.engine.fit()
    assert [line["loss_scale"] for line in made.lines] == [2.0**10] + [2.0**11] * 5
    saved = tensors.state()
    again = make(SCALED, Ranks()).engine.tensors
    again.load_state(saved)
    assert again.train_state == tensors.train_state and again.train_state.scale_age == 4


def test_a_scale_that_cannot_fall_any_further_ends_the_run() -> None:
    made = spoiled(make(replace(SCALED, last=20), Ranks()), *range(1, 21))
    with pytest.raises(Failure) as failure:
        made.engine.fit()
    assert failure.value.problems[0].id == "E-RUN-001" and made.engine.state.step == 10


def test_logged_numbers() -> None:
    made = make(replace(CASE, last=3), Ranks())
    state = made.engine.fit()
    assert [line["tokens"] for line in made.lines] == [21, 33, 54]
    assert [line["samples"] for line in made.lines] == [2, 4, 6]
    assert [line["epoch"] for line in made.lines] == [0, 0, 1]
    assert state.target_tokens == 54 - 6
    names = {
        "epoch", "tokens", "samples", "loss", "lr", "grad_norm", "tokens_per_second", "step_seconds", "data_wait",
        "memory_gib",
    }  # fmt: skip
    assert all(set(line) == names for line in made.lines)
