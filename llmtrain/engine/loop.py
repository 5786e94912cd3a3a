"""The loop: prepare, weigh, forward and backward, agree, step, observe, control. No objective or axis owns a copy."""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from llmtrain.dist import Ranks, fold_seed
from llmtrain.engine.control import Control, Rhythm, Word
from llmtrain.engine.evaluation import Evaluator
from llmtrain.engine.events import Evaluated, EventBus, Notice, Sampled, StepEnd
from llmtrain.engine.executor import StageExecutor
from llmtrain.engine.state import RunTensors, TrainState
from llmtrain.errors import fail
from llmtrain.objectives.base import Loss, MicroBatch, Objective
from llmtrain.optim.update import Update
from llmtrain.recipe.schema import Recipe

OWED = "owed_evaluation"
"""Name in the saved state of the step whose evaluation a stop left out."""


class Batch(Protocol):
    """One optimizer step's data on this rank."""

    step: int
    epoch: int
    micro_batches: list[MicroBatch]
    samples: Sequence[int]
    rows: int
    data_wait: float


class Loader(Protocol):
    """Batches as a pure function of the step."""

    def steps(self, start: int, stop: int) -> Iterator[Any]:
        """Batches of steps start .. stop-1."""
        ...

    def describe(self, samples: Sequence[int]) -> str:
        """Sources and rows of global samples, for messages."""
        ...


class Saver(Protocol):
    """What the loop needs of the checkpointer."""

    def poll(self) -> str:
        """Report a commit that has ended since the last call; not collective."""
        ...

    def outcome(self) -> int:
        """This rank's writer since the last call: 0 nothing new, 1 done, 2 failed."""
        ...

    def conclude(self, all_ok: bool) -> None:
        """Every rank's writer is done (or one failed): commit, or give up."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rhythms:
    """Cadences of the run."""

    log: Rhythm
    save: Rhythm
    pin: Rhythm
    evaluate: Rhythm
    sample: Rhythm


@dataclass(kw_only=True)
class Engine:
    """Everything a run needs, built by `run.py` and named here; `tensors` holds the state that a checkpoint saves."""

    recipe: Recipe
    total_steps: int
    loader: Loader
    objective: Objective
    executor: StageExecutor
    update: Update
    factor: Callable[[int], float]
    """Applied updates -> share of the peak rate."""
    control: Control
    ranks: Ranks
    data_rank: int
    evaluator: Evaluator | None
    saver: Saver
    save: Callable[[int, bool, bool], None]
    """(step, wait, pin): write a checkpoint; collective."""
    sample: Callable[[], list[dict[str, str]]] | None
    rhythms: Rhythms
    tensors: RunTensors
    bus: EventBus
    write: Callable[[str, int, dict[str, Any]], None]
    """(event, step, values): one line of metrics.jsonl."""
    memory: Callable[[], float]
    """Peak memory of this process in GiB."""
    saved_step: int = -1
    stopped: bool = False
    """Whether all ranks agreed to stop before the end; a rank's own signals cannot tell, for they come at any time."""

    @property
    def state(self) -> TrainState:
        return self.tensors.train_state

    def fit(self) -> TrainState:
        """Train to the end of the budget, or to a stop that was asked for.

        Raises:
            Failure: non-finite numbers, a loss above the limit, too many skipped steps.
        """
        self.executor.stage.train()
        self._evaluate_before()
        self.control.signals.interruptible = False
        begin = time.perf_counter()
        for batch in self.loader.steps(self.state.step, self.total_steps):
            self._seed(self.state.step)
            targets, entered = self._weigh(batch)
            losses = self.executor.forward_backward(batch.micro_batches, targets, scale=self.state.loss_scale)
            norm = float(self.update.clip(self.recipe.optimizer.max_grad_norm, scale=self.state.loss_scale))
            total = float(sum(float(loss.total) for loss in losses))
            word = self.control.agree(loss_sum=total, weight=targets, norm=norm, writer=self.saver.outcome())
            self._conclude_writer(word)
            applied = self._apply(word, batch)
            self.tensors.train_state = self.state.advance(
                samples=batch.rows, tokens=int(entered), targets=int(targets), applied=applied
            )
            now = time.perf_counter()
            self._observe(word, batch, losses, norm, seconds=now - begin, entered=entered, applied=applied)
            begin = now
            if self._act(word):
                break
        return self.state

    def _seed(self, step: int) -> None:
        """Every generator starts anew at each step, from numbers alone: a resume has nothing to restore."""
        seed = fold_seed(self.recipe.run.seed, "step", step, self.data_rank)
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        random.seed(seed)
        np.random.seed(seed % 2**32)

    def _weigh(self, batch: Batch) -> tuple[float, float]:
        """(targets, tokens that enter) over all data ranks; known before the first forward."""
        mine = sum(float(self.objective.weight(mb)) for mb in batch.micro_batches)
        entered = sum(int(mb["tokens"]) for mb in batch.micro_batches)
        targets, tokens = self.ranks.sum([mine, float(entered)])
        if targets == 0:
            where = self.loader.describe(batch.samples)
            raise fail("E-DATA-006", f"step {batch.step + 1}: no row has a target ({where})")
        return targets, tokens

    def _conclude_writer(self, word: Word) -> None:
        self.saver.poll()
        done, failed = word.writer
        if failed or done == self.ranks.world:
            self.saver.conclude(failed == 0)

    def _apply(self, word: Word, batch: Batch) -> bool:
        """Update the parameters, or skip, or stop the run; the same on every rank."""
        if not word.nonfinite:
            self.update.step(self.factor(self.state.applied))
            self._grow_scale()
            return True
        self.update.drop_gradients()
        if self.recipe.precision.compute == "fp16" and self.state.loss_scale > 1:
            self.tensors.train_state = replace(self.state, loss_scale=self.state.loss_scale / 2, scale_age=0)
            return False
        where = f"samples {batch.samples[0]}-{batch.samples[-1]}: {self.loader.describe(batch.samples)}"
        what = "loss" if not math.isfinite(word.loss_sum) else "gradient norm"
        if self.recipe.run.nonfinite == "stop":
            raise fail(
                "E-RUN-001",
                f"step {batch.step + 1}: {what} is not finite ({where}); stopped before the update; {self._safe()}",
                hint="a lower optimizer.lr, or run.nonfinite: skip",
            )
        if self.state.skipped_in_row + 1 > self.recipe.run.max_skips:
            raise fail(
                "E-RUN-003",
                f"step {batch.step + 1}: {self.recipe.run.max_skips} updates in a row were skipped; {self._safe()}",
            )
        self.bus.emit(
            Notice(message=f"step {batch.step + 1}: {what} is not finite ({where}); skipped", level="warning")
        )
        return False

    def _safe(self) -> str:
        return f"step {self.saved_step} is safe" if self.saved_step >= 0 else "nothing was saved yet"

    def _grow_scale(self) -> None:
        """fp16: double the loss scale after 2,000 applied updates without an overflow, as torch's scaler does."""
        if self.recipe.precision.compute != "fp16":
            return
        age = self.state.scale_age + 1
        grown = age >= 2000
        scale = self.state.loss_scale * (2 if grown else 1)
        self.tensors.train_state = replace(self.state, loss_scale=scale, scale_age=0 if grown else age)

    def _observe(
        self, word: Word, batch: Batch, losses: Sequence[Loss], norm: float, *, seconds: float, entered: float,
        applied: bool,
    ) -> None:  # fmt: skip
        state = self.state
        applied_before = state.applied - applied
        values: dict[str, Any] = {
            "epoch": batch.epoch, "tokens": state.tokens, "samples": state.samples,
            "loss": word.loss_sum / word.weight,
            "lr": self.recipe.optimizer.lr * self.factor(applied_before),
            "grad_norm": norm, "tokens_per_second": entered / seconds, "step_seconds": seconds,
            "data_wait": batch.data_wait, "memory_gib": self.memory(),
        }  # fmt: skip
        if self.recipe.precision.compute == "fp16":
            values["loss_scale"] = state.loss_scale
        if not applied:
            values["skipped"] = state.skipped
        for name in sorted({name for loss in losses for name in loss.logs}):
            pairs = [loss.logs[name] for loss in losses]
            total, weight = self.ranks.sum([sum(float(p[0]) for p in pairs), sum(float(p[1]) for p in pairs)])
            values[name] = total / weight if weight else math.nan
        self.write("step", state.step, values)
        first = self.recipe.log.first_step and state.step == 1
        log = first or state.step == self.total_steps or self.rhythms.log.due(state.step, word.clock)
        self.bus.emit(StepEnd(step=state.step, values=values, log=log))
        limit = self.recipe.run.max_loss
        if limit is not None and applied and not values["loss"] <= limit:
            raise fail(
                "E-RUN-002",
                f"step {state.step}: loss {values['loss']:.4f} is above run.max_loss {limit:g}; {self._safe()}",
            )

    def _act(self, word: Word) -> bool:
        """Evaluate, sample, save, stop, in this order; whether to leave the loop."""
        step = self.state.step
        last = step >= self.total_steps or self.control.out_of_time
        self.stopped = bool(word.stop) and not last
        improved = False
        if self._evaluation_due(step, word.clock, last=last):
            improved = not self.stopped and self.evaluate(last=last)
            if self.stopped:
                self.tensors.extra[OWED] = step
        if self.sample is not None and self.rhythms.sample.due(step, word.clock):
            self.bus.emit(Sampled(step=step, samples=self.sample()))
        due = self.rhythms.save.due(step, word.clock)
        pin = self.rhythms.pin.due(step, word.clock)
        wanted = word.save or due or pin or improved or last or self.stopped
        if wanted:
            self.save(step, last or self.stopped or pin, pin)
        return last or self.stopped

    def _evaluate_before(self) -> None:
        """The evaluation of `at_start`, or the one that the stop before this resume left out."""
        step = self.state.step
        owed = self.tensors.extra.pop(OWED, None) == step
        if owed or (self.recipe.evaluate.at_start and step == 0):
            improved = self.evaluate(last=True)
            if owed and improved:
                wait = pin = False
                self.save(step, wait, pin)

    def _evaluation_due(self, step: int, clock: float, *, last: bool) -> bool:
        if self.evaluator is None or self.rhythms.evaluate.never:
            return False
        first = self.recipe.log.first_step and step == 1
        due = self.rhythms.evaluate.due(step, clock) and step >= self.recipe.evaluate.delay
        return due or last or first

    def evaluate(self, *, last: bool = False) -> bool:
        """Evaluate, write the line, tell whether it is the best so far; collective.

        A stop that is asked for meanwhile ends it without a line, except after the last step, which nothing repeats.
        """
        if self.evaluator is None:
            return False
        begin = time.perf_counter()
        values = self.evaluator.evaluate(None if last else self._stop_wanted)
        if values is None:
            self.stopped = True
            return False
        values["eval_seconds"] = time.perf_counter() - begin
        step = self.state.step
        self.write("eval", step, values)
        self.bus.emit(Evaluated(step=step, values=values))
        return self._is_best(step, values)

    def _stop_wanted(self) -> bool:
        """Whether any rank was told to stop; collective."""
        return self.ranks.max([float(self.control.signals.stop)])[0] > 0

    def _is_best(self, step: int, values: dict[str, float]) -> bool:
        section = self.recipe.checkpoint.best
        name = section.metric if section.metric.startswith("eval_") else f"eval_{section.metric}"
        if name not in values:
            raise fail(
                "E-RECIPE-009", f"{section.metric!r} is not among the metrics of an evaluation",
                key="checkpoint.best.metric", hint=", ".join(sorted(values)),
            )  # fmt: skip
        value = values[name]
        smaller = section.mode == "min" or (
            section.mode == "auto" and name.endswith(("loss", "perplexity", "bits_per_byte"))
        )
        best = self.tensors.extra.get("best")
        better = math.isfinite(value) and (
            best is None or (value < best["value"] if smaller else value > best["value"])
        )
        if better:
            self.tensors.extra["best"] = {"step": step, "metric": name, "value": value}
        return better
