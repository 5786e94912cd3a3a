"""`train` from recipe to result, in the ten steps of docs/architecture.md; the order is the content of this file."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtrain import dist
from llmtrain.dist import Ranks
from llmtrain.doors import transformers as door
from llmtrain.engine.callbacks import Profiler, memory_gib
from llmtrain.engine.checkpoint import Checkpointer, Restored
from llmtrain.engine.control import Control, Rhythm, Signals
from llmtrain.engine.events import (
    Committed,
    EventBus,
    Failed,
    Notice,
    RunEnd,
    RunStart,
    Sampled,
    StepEnd,
)
from llmtrain.engine.loop import Engine, Rhythms
from llmtrain.engine.sinks import Sinks, TensorBoard
from llmtrain.engine.state import TrainState
from llmtrain.errors import Exit, Failure, Terminated, fail
from llmtrain.recipe.compose import Composed
from llmtrain.recipe.durations import parse_cadence, parse_duration
from llmtrain.recipe.plan import plan
from llmtrain.recipe.resolved import dump_original, write_resolved
from llmtrain.record import files, index, logs, metrics
from llmtrain.record.folder import RunFolder
from llmtrain.run import RunOptions
from llmtrain.run.assembly import (
    Assembly,
    Material,
    assemble,
    gather_material,
    plan_rows,
    refuse_rules,
    tensors_of,
)
from llmtrain.run.finish import Ending, finish
from llmtrain.run.header import header
from llmtrain.run.identity import compare, identity
from llmtrain.run.machine import Machine, choose, devices, versions
from llmtrain.run.models import SETUP
from llmtrain.run.speaking import sampler


@dataclass(frozen=True, kw_only=True)
class Place:
    """The run folder of this process, and what a resume starts from."""

    folder: RunFolder
    resumed: bool
    only: str | None
    """The one checkpoint to use, None for the newest good one."""


def train(composed: Composed, options: RunOptions, bus: EventBus) -> dict[str, Any]:
    """Train; the content of result.json. See `llmtrain.run.train`."""
    recipe = composed.recipe
    world = dist.launched_world()[2]
    plan(recipe, world)
    refuse_rules(recipe, world)
    door.hush()
    signals = Signals(lambda text: bus.emit(Notice(message=text)))
    with signals.installed():
        machine = choose(recipe)
        material = gather_material(recipe, progress=_progress(bus))
        finished = _finished(composed, options, plan_rows(recipe, world, material).total_steps)
        if finished is not None:
            bus.emit(Notice(message=f"already finished: {finished['run']}"))
            return finished
        ranks = dist.start(backend=machine.backend, timeout=recipe.launch.timeout)
        result = _on_ranks(composed, options, bus, signals, machine, ranks, material)
        # Only here: after an error peers may be anywhere, and a collective would wait for them.
        dist.stop(ranks)
        return result


def _progress(bus: EventBus) -> Any:  # noqa: ANN401
    """A notice when reading takes long enough to be noticed."""
    begun, told = time.monotonic(), [0.0]

    def tell(done: int, total: int | None) -> None:
        now = time.monotonic()
        if now - begun > 2 and now - told[0] > 5:
            told[0] = now
            share = f" of {total / 2**20:,.0f}" if total else ""
            bus.emit(Notice(message=f"tokenising: {done / 2**20:,.0f}{share} MiB"))

    return tell


def _find(composed: Composed, options: RunOptions) -> tuple[RunFolder | None, str | None]:
    """The run to go on with, and the checkpoint that was named."""
    section = composed.recipe.run
    if options.resume is None:
        return None, None
    if options.resume != "auto":
        reference = index.refer(options.resume, section.root)
        return reference.folder, reference.checkpoint
    if section.dir is not None:
        there = (Path(section.dir) / "run.json").is_file()
        return (RunFolder.open(section.dir) if there else None), None
    return index.newest_of(section.root, composed.shown, composed.name), None


def _finished(composed: Composed, options: RunOptions, total_steps: int | None) -> dict[str, Any] | None:
    """The result of a run that has taken all its steps: resuming it writes nothing."""
    folder, only = _find(composed, options)
    if folder is None or only is not None or folder.status().get("state") != "done" or not folder.result.is_file():
        return None
    result = files.read_json(folder.result)
    return result if total_steps is not None and result["steps"] >= total_steps else None


def _open_place(composed: Composed, options: RunOptions, ranks: Ranks) -> Place:
    """Make or find the run folder on rank 0; the others open what it names."""
    answer: dict[str, Any] = {}
    if ranks.is_first:
        folder, only = _find(composed, options)
        resumed = folder is not None
        if folder is None:
            section = composed.recipe.run
            folder = RunFolder.create(section.root, composed.name, directory=section.dir)
        answer = {"path": str(folder.path), "id": folder.id, "resumed": resumed, "only": only}
    answer = ranks.broadcast(answer)
    folder = RunFolder.open(answer["path"], wait=30.0, id=answer["id"])
    return Place(folder=folder, resumed=answer["resumed"], only=answer["only"])


def _on_ranks(
    composed: Composed,
    options: RunOptions,
    bus: EventBus,
    signals: Signals,
    machine: Machine,
    ranks: Ranks,
    material: Material,
) -> dict[str, Any]:
    recipe = composed.recipe
    assembly = assemble(
        composed, material, machine, ranks, training=True,
        notice=lambda text: bus.emit(Notice(message=text, level="warning")),
    )  # fmt: skip
    place = _open_place(composed, options, ranks)
    folder = place.folder
    lock = folder.lock() if ranks.is_first else None
    try:
        logs.start_logging(folder, ranks.rank, recipe.log.level)
        session = _Session(composed, options, bus, signals, machine, ranks, assembly, place)
        try:
            return session.run()
        except RuntimeError as error:
            if ranks.world == 1 or not dist.is_peer_loss(error):
                session.record_failure(error)
                raise
            lost = session.peer_lost()
            session.record_failure(lost)
            raise lost from error
        except BaseException as error:
            session.record_failure(error)
            raise
    finally:
        if lock is not None:
            lock.release()


def _describe(composed: Composed, assembly: Assembly, machine: Machine, place: Place) -> None:
    """recipe.yaml, recipe.resolved.yaml, env.json, run.json, ledger.json, and `setup/`: configuration and tokenizer."""
    recipe, folder = composed.recipe, place.folder
    files.write_atomic(folder.recipe, dump_original(composed).encode())
    files.write_atomic(folder.resolved, write_resolved(composed).encode())
    folder.write_environment(versions(), devices(machine))
    files.write_json(folder.ledger, assembly.material.prepared.ledger.to_json())
    words, config = assembly.material.vocabulary, assembly.built.config

    def fill(target: Path) -> None:
        words.save(target)
        files.write_json(target / "ids.json", {"eos": words.tokenizer.eos_id, "pad": words.tokenizer.eos_id})
        if config is not None:
            config.save_pretrained(str(target))

    if not (folder.path / SETUP).is_dir():
        files.publish_folder(folder.path / SETUP, fill)
    folder.write_status(
        state="running",
        mode=recipe.run_mode,
        objective=recipe.objective.name,
        recipe=composed.shown,
        name=composed.name,
    )
    folder.event("run", "resumed" if place.resumed else "started", sync=True)


class _Session:
    """One process's part in one run; holds what the callbacks of the engine share."""

    def __init__(
        self, composed: Composed, options: RunOptions, bus: EventBus, signals: Signals, machine: Machine, ranks: Ranks,
        assembly: Assembly, place: Place,
    ) -> None:  # fmt: skip
        self.composed, self.options, self.bus, self.signals = composed, options, bus, signals
        self.machine, self.ranks, self.assembly, self.place = machine, ranks, assembly, place
        self.recipe = composed.recipe
        self.folder = place.folder
        self.identity = identity(composed, assembly, machine)
        self.tensors = tensors_of(assembly, TrainState(loss_scale=self._first_scale()))
        self.tensors.with_optimizer = not self.recipe.checkpoint.weights_only
        self.checkpointer = Checkpointer(
            self.folder, ranks, self.recipe.checkpoint, identity=self.identity, aliases=assembly.built.aliases,
            on_commit=self._committed, warn=self._warn,
        )  # fmt: skip
        self.metrics: metrics.MetricsFile | None = None
        self.engine: Engine | None = None
        self.started = False
        """Whether the folder was touched: a resume that is refused leaves it as it was."""

    def _first_scale(self) -> float:
        return self.recipe.precision.loss_scale if self.recipe.precision.compute == "fp16" else 1.0

    def _warn(self, text: str) -> None:
        self.bus.emit(Notice(message=text, level="warning"))

    def _committed(self, event: Committed) -> None:
        if self.engine is not None:
            self.engine.saved_step = event.step
        self.bus.emit(event)

    def run(self) -> dict[str, Any]:
        """Restore, train, finish."""
        begun = time.time()
        restored = self._restore()
        total = self.assembly.plan.total_steps
        assert total is not None
        self.started = True
        if self.ranks.is_first:
            _describe(self.composed, self.assembly, self.machine, self.place)
            self.metrics = metrics.MetricsFile(self.folder.metrics)
            self._attach_sinks()
            self.bus.on(StepEnd, self._keep_status)
            self.bus.on(Sampled, self._keep_samples)
        engine = self.engine = self._engine(total)
        start = self.tensors.train_state.step
        engine.saved_step = restored.step if restored else -1
        lines = header(self.composed, self.assembly, self.machine, self.folder, total)
        self.bus.emit(RunStart(header=lines, start_step=start, total_steps=total, folder=str(self.folder.path)))
        if restored is not None:
            self.bus.emit(Notice(message=f"resumed from step {restored.step}"))
        engine.fit()
        self.checkpointer.settle()
        ending = Ending(
            composed=self.composed, options=self.options, assembly=self.assembly, folder=self.folder, ranks=self.ranks,
            engine=engine, seconds=time.time() - begun, checkpointer=self.checkpointer, bus=self.bus,
            machine=self.machine,
        )  # fmt: skip
        result, summary = finish(ending)
        self.bus.emit(RunEnd(result=result, summary=summary))
        logs.stop_logging()
        return result

    def _attach_sinks(self) -> None:
        """TensorBoard and the profiler listen on the first rank."""
        recipe = self.recipe
        start = self.tensors.train_state.step
        if "tensorboard" in recipe.log.to:
            folder = Path(recipe.log.dir) if recipe.log.dir else self.folder.tensorboard
            Sinks(self.bus, {"tensorboard": lambda: TensorBoard(folder, purge_step=start + 1 if start else None)})
        if recipe.speed.profile is not None:
            first, last = recipe.speed.profile
            Profiler(self.bus, self.folder.path / "profile", first=first, last=last, rank=self.ranks.rank)

    def _restore(self) -> Restored | None:
        """Go on from the newest good checkpoint, cut the metrics there, compare recipe and checkpoint."""
        if not self.place.resumed:
            return None
        restored = self.checkpointer.restore(self.tensors, only=self.place.only, verify=self.options.verify)
        if restored is None:
            if self.ranks.is_first and self.folder.metrics.exists():
                metrics.cut(self.folder.metrics, 0, self.folder.logs / "metrics-dropped-0.jsonl")
            return None
        lines = compare(restored.identity, self.identity, self.options.allow_change)
        if self.ranks.is_first:
            for line in lines:
                self.bus.emit(Notice(message=line, level="warning"))
                self.folder.note_resume(line)
        self.checkpointer.rewind(restored)
        if self.recipe.data.resume == "restart" and self.assembly.loader is not None:
            self.assembly.loader.start_offset = restored.step
        return restored

    def _engine(self, total: int) -> Engine:
        recipe, assembly = self.recipe, self.assembly
        assert assembly.loader is not None and assembly.update is not None
        schedule: Any = recipe.schedule
        deadline = recipe.launch.deadline
        limit = recipe.run.max_time
        control = Control(
            self.ranks, self.signals, deadline=None if deadline is None else parse_duration(deadline),
            max_time=None if limit is None else parse_duration(limit),
        )  # fmt: skip
        return Engine(
            recipe=recipe, total_steps=total, loader=assembly.loader, objective=assembly.objective,
            executor=assembly.executor, update=assembly.update, factor=schedule.build(total, recipe.optimizer.lr),
            control=control, ranks=self.ranks, data_rank=assembly.mesh.data_rank, evaluator=assembly.evaluator,
            saver=self.checkpointer, save=self._save,
            sample=sampler(recipe, assembly) if recipe.evaluate.samples.prompts else None,
            rhythms=self._rhythms(total), tensors=self.tensors, bus=self.bus, write=self._write,
            memory=lambda: memory_gib(self.machine.device),
        )  # fmt: skip

    def _rhythms(self, total: int) -> Rhythms:
        recipe, per_epoch = self.recipe, self.assembly.plan.steps_per_epoch

        def rhythm(value: Any, at_least: int | None = None) -> Rhythm:  # noqa: ANN401
            return Rhythm(parse_cadence(value, best=True), total=total, per_epoch=per_epoch, at_least=at_least)

        return Rhythms(
            log=rhythm(recipe.log.every), save=rhythm(recipe.checkpoint.every), pin=rhythm(recipe.checkpoint.pin),
            evaluate=rhythm(recipe.evaluate.every, recipe.evaluate.min_times),
            sample=rhythm(recipe.evaluate.samples.every),
        )  # fmt: skip

    def _write(self, event: str, step: int, values: dict[str, Any]) -> None:
        if self.metrics is not None:
            self.metrics.write(event, step, values)

    def _save(self, step: int, wait: bool, pin: bool) -> None:
        """Write a checkpoint; collective."""
        length = self.metrics.flush(sync=True) if self.metrics is not None else 0
        state = self.tensors.train_state
        best = self.tensors.extra.get("best")
        self.checkpointer.save(
            self.tensors, step=step, wait=wait, pin=pin, metrics_length=length,
            best=best if best is not None and best["step"] == step else None,
            progress={"samples": state.samples, "target_tokens": state.target_tokens},
        )  # fmt: skip

    def _keep_status(self, event: StepEnd) -> None:
        if self.metrics is not None and event.log:
            self.metrics.flush()
            self.folder.write_status(state="running", step=event.step)

    def _keep_samples(self, event: Sampled) -> None:
        for sample in event.samples:
            files.append_line(self.folder.samples, {"step": event.step, **sample})

    def peer_lost(self) -> Failure:
        """What to tell when a collective broke because another rank is gone."""
        step = self.tensors.train_state.step
        safe = self.checkpointer.last_committed
        kept = f"step {safe} is safe" if safe is not None else "nothing was saved yet"
        where = (
            f"llmtrain {self.recipe.run_mode} {self.composed.shown or self.composed.name} --resume {self.folder.path}"
        )
        return fail("E-PEER-001", f"another rank was lost after step {step}; {kept}", hint=f"continue with: {where}")

    def record_failure(self, error: BaseException) -> None:
        """run.json, events.jsonl and the rank's exit file tell what happened; no collective."""
        code = int(error.exit_code) if isinstance(error, Failure) else int(Exit.BUG)
        if isinstance(error, KeyboardInterrupt):
            code = int(Exit.INTERRUPTED)
        if isinstance(error, Terminated):
            code = int(Exit.TERMINATED)
        step = self.tensors.train_state.step
        kind = "peer" if code == Exit.LOST_PEER else "own"
        self.folder.write_rank_exit(self.ranks.rank, code=code, kind=kind, phase="train", step=step)
        if isinstance(error, KeyboardInterrupt):
            self.checkpointer.abandon()
        if not self.ranks.is_first or not self.started:
            return
        if self.metrics is not None:
            self.metrics.flush()
        reason = str(error) or type(error).__name__
        self.folder.write_status(state="error", step=step, exit_code=code, reason=reason)
        self.folder.event("run", "error", state="error", data={"reason": reason, "exit_code": code}, sync=True)
        self.bus.emit(Failed(message=reason, exit_code=code))
