"""Recipe and data to the objects of a run: plan, model, layout, objective, loader, optimizer; it decides nothing."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from llmtrain.data.loader import EvalLoader, StepLoader
from llmtrain.data.order import Order
from llmtrain.data.prepare import Prepared, prepare, worker_count
from llmtrain.dist import Ranks
from llmtrain.engine.evaluation import Evaluator
from llmtrain.engine.executor import StageExecutor
from llmtrain.engine.state import RunTensors, TrainState
from llmtrain.errors import Failure, Problem, fail
from llmtrain.model.build import Built, TokenIds, build, check_length
from llmtrain.model.scoring import ChunkedScorer, head_of, wants_chunks
from llmtrain.objectives.base import LogitsScorer, Objective
from llmtrain.optim.groups import group_parameters
from llmtrain.optim.update import Update
from llmtrain.parallel.apply import Layout, apply
from llmtrain.parallel.mesh import Mesh, make_mesh
from llmtrain.parallel.stage import Stage
from llmtrain.recipe.compose import Composed, local_modules
from llmtrain.recipe.plan import Facts, Plan, plan
from llmtrain.recipe.schema import Recipe
from llmtrain.run.machine import FORMATS, Machine
from llmtrain.run.models import resolve
from llmtrain.run.probe import LEAK, chunks_agree, packs_leak
from llmtrain.run.vocabulary import Vocabulary, vocabulary


@dataclass(frozen=True, kw_only=True)
class Material:
    """What is there before ranks meet: tokenizer and rows."""

    vocabulary: Vocabulary
    prepared: Prepared


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """The objects of a run."""

    plan: Plan
    material: Material
    mesh: Mesh
    built: Built
    stage: Stage
    objective: Objective
    executor: StageExecutor
    loader: StepLoader | None
    update: Update | None
    evaluator: Evaluator | None


def cache_folder() -> Path:
    """`$LLMTRAIN_CACHE`, else `llmtrain` in the user's cache folder."""
    named = os.environ.get("LLMTRAIN_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmtrain"


@contextmanager
def _one_builder(cache: Path) -> Iterator[None]:
    """Ranks of a machine enter one after the other: the first one tokenises, the others find its work."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".build.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def gather_material(recipe: Recipe, *, progress: Callable[[int, int | None], None] | None) -> Material:
    """Tokenizer and rows, from the cache where they are; before any process group exists, so no rank can time out.

    Raises:
        Failure: tokenizer or data cannot be used.
    """
    cache = cache_folder()
    workers = worker_count(recipe.data.workers)
    with _one_builder(cache):
        words = vocabulary(recipe, cache=cache, workers=workers)
        rows = prepare(
            recipe.data, words.tokenizer, seed=_data_seed(recipe), cache=cache, workers=workers,
            offline=recipe.offline, progress=progress,
        )  # fmt: skip
    return Material(vocabulary=words, prepared=rows)


def _data_seed(recipe: Recipe) -> int:
    return recipe.run.seed if recipe.data.seed is None else recipe.data.seed


def plan_rows(recipe: Recipe, world: int, material: Material) -> Plan:
    """The plan with the facts of the data."""
    words = material.vocabulary.tokenizer.vocab_size
    if not material.prepared.sources:
        return plan(recipe, world, Facts(vocabulary=words))
    rows = _order(recipe, material).rows_per_epoch
    facts = Facts(rows=rows, tokens=material.prepared.train.tokens, vocabulary=words)
    return plan(recipe, world, facts)


def _order(recipe: Recipe, material: Material) -> Order:
    sources = material.prepared.sources
    return Order(
        [len(source) for source in sources], material.prepared.weights, seed=_data_seed(recipe),
        shuffle=recipe.data.order == "shuffle",
    )  # fmt: skip


def assemble(
    composed: Composed, material: Material, machine: Machine, ranks: Ranks, *, training: bool,
    notice: Callable[[str], None],
) -> Assembly:  # fmt: skip
    """Build everything; collective when there are several ranks.

    Args:
        composed: the recipe.
        material: tokenizer and rows.
        machine: device, formats.
        ranks: this process among its peers.
        training: whether an optimizer and training rows are needed.
        notice: takes a line for the user.

    Raises:
        Failure: model, sizes or layout do not come out.
    """
    recipe = composed.recipe
    if composed.code:
        local_modules()
    built = _build_model(recipe, material, machine)
    check_length(built.config, recipe.data.seq_len)
    stage = Stage(built.model, foreign=built.config is None)
    if recipe.data.packing is not False and not _packs(recipe, stage, built, notice):
        recipe = replace(recipe, data=replace(recipe.data, packing=False))
        material = gather_material(recipe, progress=None)
    planned = plan_rows(recipe, ranks.world, material)
    mesh = make_mesh(planned, machine.device.type, ranks.rank)
    chunked = stage.hidden = _chunks(recipe, stage, built, planned, notice)
    layout = Layout(
        recompute=recipe.memory.recompute == "full",
        compile=_compile(recipe),
        reshard=recipe.parallel.sharding == "full",
    )
    apply(stage, mesh, layout)
    head = head_of(built)
    scorer = ChunkedScorer(head) if chunked and head is not None else LogitsScorer()
    pad_to = recipe.data.seq_len if recipe.data.padding == "max_length" else None
    build_objective: Any = recipe.objective
    objective: Objective = build_objective.build(scorer, pad_id=material.vocabulary.tokenizer.eos_id, pad_to=pad_to)
    executor = StageExecutor(stage, objective, device=machine.device, compute=machine.compute, averaged=mesh.averaged)
    evaluator = _evaluator(recipe, material, planned, executor, objective, ranks, mesh)
    loader = update = None
    if training:
        loader = _loader(recipe, material, planned, mesh, objective)
        update = _update(recipe, built, stage)
    return Assembly(
        plan=planned, material=material, mesh=mesh, built=built, stage=stage, objective=objective, executor=executor,
        loader=loader, update=update, evaluator=evaluator,
    )  # fmt: skip


def _build_model(recipe: Recipe, material: Material, machine: Machine) -> Built:
    tokenizer = material.vocabulary.tokenizer
    section = recipe.model
    if section.name is not None:
        section = replace(section, name=resolve(section.name, cache_folder(), recipe.run.root))
    ids = TokenIds(size=tokenizer.vocab_size, eos=tokenizer.eos_id, pad=tokenizer.eos_id)
    built = build(section, ids, seed=recipe.run.seed, offline=recipe.offline)
    built.model.to(dtype=FORMATS[recipe.precision.params], device=machine.device)
    return replace(built, label=recipe.model.name or built.label)


def _packs(recipe: Recipe, stage: Stage, built: Built, notice: Callable[[str], None]) -> bool:
    """Whether packing keeps documents apart in this model; asked of the model itself.

    Raises:
        Failure: packing was asked for and leaks.
    """
    leak = packs_leak(stage, built.vocabulary)
    if leak <= LEAK:
        return True
    text = f"{built.label} lets packed documents see each other (logits change by {leak:.1e})"
    if recipe.data.packing is True:
        raise fail("E-MODEL-002", text, key="data.packing", hint="data.packing: auto or false")
    notice(f"{text}; packing is off")
    return False


def _chunks(recipe: Recipe, stage: Stage, built: Built, planned: Plan, notice: Callable[[str], None]) -> bool:
    """Whether the loss is computed without full logits; only where it is the model's own loss.

    Raises:
        Failure: it was asked for and is not.
    """
    size = planned.micro_size * recipe.data.seq_len * built.vocabulary * 4
    if not wants_chunks(recipe.memory.chunked_loss, logits_bytes=size, objective=recipe.objective):
        return False
    head = head_of(built)
    if head is not None and chunks_agree(stage, head, built.vocabulary):
        return True
    text = "the loss without full logits is not this model's loss"
    if recipe.memory.chunked_loss is True:
        raise fail("E-MODEL-002", text, key="memory.chunked_loss", hint="memory.chunked_loss: auto")
    notice(f"{text}; full logits are used")
    return False


def _compile(recipe: Recipe) -> dict[str, Any] | None:
    """`auto` is off on a CPU: compiling takes longer there than the short runs it would speed up."""
    wanted = recipe.speed.compile
    if isinstance(wanted, dict):
        return dict(wanted)
    if wanted is True:
        return {}
    return {} if wanted == "auto" and torch.cuda.is_available() and not recipe.run.deterministic else None


def _loader(recipe: Recipe, material: Material, planned: Plan, mesh: Mesh, objective: Objective) -> StepLoader:
    data = recipe.data
    return StepLoader(
        material.prepared.sources, _order(recipe, material), global_size=planned.global_size,
        micro_size=planned.micro_size, collate=objective.collate, ranks=mesh.data_ranks, rank=mesh.data_rank,
        drop_last=data.drop_last, prefetch=data.prefetch, skip_steps=data.skip_steps,
    )  # fmt: skip


def _update(recipe: Recipe, built: Built, stage: Stage) -> Update:
    config: Any = recipe.optimizer
    groups = group_parameters(stage.model.named_parameters(), stage.model, config, vocabulary=built.vocabulary)
    return Update(groups, config.build, master=recipe.precision.params != "fp32" and recipe.precision.master == "fp32")


def _evaluator(
    recipe: Recipe, material: Material, planned: Plan, executor: StageExecutor, objective: Objective, ranks: Ranks,
    mesh: Mesh,
) -> Evaluator | None:  # fmt: skip
    sets = material.prepared.evals
    if not sets:
        return None
    size = recipe.evaluate.batch_size
    rows = planned.micro_size if size == "auto" else size
    batches = {
        name: partial(
            EvalLoader, source, batch_size=rows, collate=objective.collate, ranks=mesh.data_ranks, rank=mesh.data_rank
        )
        for name, source in sets.items()
    }
    precision = recipe.evaluate.precision
    return Evaluator(
        executor=executor,
        objective=objective,
        ranks=ranks,
        sets=batches,
        token_bytes=material.vocabulary.tokenizer.token_bytes(),
        dtype=None if precision is None else FORMATS[precision],
    )


def tensors_of(assembly: Assembly, state: TrainState) -> RunTensors:
    """What a checkpoint of this run holds."""
    assert assembly.update is not None
    return RunTensors(assembly.built.model, assembly.built.aliases, assembly.update, state)


def refuse_rules(recipe: Recipe, world: int) -> None:
    """Combinations that no library supports here.

    Raises:
        Failure: with the nearest layout that works.
    """
    if recipe.optimizer.name == "adafactor" and world > 1:
        raise Failure(
            Problem(
                id="E-PLAN-003",
                key="optimizer.name",
                message=f"adafactor on {world} ranks: torch's cannot update shards",
                hint="one rank, or adamw, lion, muon",
            )
        )
