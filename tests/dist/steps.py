"""Optimizer steps of the real engine on rows made here, on as many ranks as call it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmtrain.data.loader import StepLoader
from llmtrain.data.order import Order
from llmtrain.data.rows import IGNORED, Row
from llmtrain.dist import Ranks
from llmtrain.engine.control import Control, Rhythm, Signals
from llmtrain.engine.events import EventBus
from llmtrain.engine.executor import StageExecutor
from llmtrain.engine.loop import Engine, Rhythms
from llmtrain.engine.state import RunTensors, TrainState
from llmtrain.model.build import Built, TokenIds, build
from llmtrain.model.scoring import ChunkedScorer, head_of
from llmtrain.objectives.base import LogitsScorer, Loss, MicroBatch, Scorer
from llmtrain.objectives.causal import Causal, CausalConfig
from llmtrain.optim.groups import group_parameters
from llmtrain.optim.optimizers import SgdConfig
from llmtrain.optim.schedules import ConstantConfig
from llmtrain.optim.update import Update
from llmtrain.parallel.apply import Layout, apply
from llmtrain.parallel.mesh import make_mesh
from llmtrain.parallel.stage import Stage
from llmtrain.recipe.durations import Every
from llmtrain.recipe.schema import ModelSection, PrecisionSection, Recipe, RunSection
from llmtrain.recipe.slots import OptimizerConfig

VOCABULARY = 96
LENGTHS = (3, 200, 17, 64, 5, 120, 33, 90)
LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip


class Rows:
    """Rows in memory, as a row source."""

    fingerprint = "rows of a test"

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self.tokens = sum(len(row.ids) for row in rows)

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int) -> Row:
        return self.rows[index]

    def place(self, index: int) -> str:
        return f"row {index}"


def single_rows(
    lengths: Sequence[int] = LENGTHS,
    *,
    vocabulary: int = VOCABULARY,
    masked: Sequence[int] = (),
) -> Rows:
    """One document a row, of these lengths; rows named in `masked` have no target."""
    random = np.random.default_rng(0)
    rows = []
    for index, length in enumerate(lengths):
        ids = random.integers(1, vocabulary, length).astype(np.int32)
        labels = np.full_like(ids, IGNORED) if index in masked else ids.copy()
        labels[0] = IGNORED
        positions = np.arange(length, dtype=np.int32)
        rows.append(Row(ids=ids, labels=labels, positions=positions, source="test", index=index))
    return Rows(rows)


def packed_rows(rows: Rows) -> Rows:
    """The same documents, all in one row."""
    parts = {name: np.concatenate([vars(row)[name] for row in rows.rows]) for name in ("ids", "labels", "positions")}
    return Rows([Row(**parts, source="test", index=0)])


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to take the same steps."""

    micro: int = 8
    sharding: str = "none"
    model: dict[str, Any] = field(default_factory=lambda: LLAMA)
    optimizer: OptimizerConfig = field(default_factory=lambda: SgdConfig(lr=0.1, max_grad_norm=0.2))
    rows: Rows = field(default_factory=single_rows)
    global_size: int = 8
    first: int = 0
    last: int = 1
    recompute: bool = False
    chunked: bool = False
    precision: PrecisionSection = field(default_factory=PrecisionSection)
    run: RunSection = field(default_factory=RunSection)
    fault: str | None = None
    seed: int = 1
    scorer: Scorer | None = None
    dtype: torch.dtype = torch.float32
    compute: torch.dtype = torch.float32
    factor: Callable[[int], float] = lambda step: 1.0


class Faulty(Causal):
    """Each micro-batch divides by its own count."""

    def loss(self, out: Tensor, micro_batch: MicroBatch) -> Loss:
        found = super().loss(out, micro_batch)
        return Loss(found.total / super().weight(micro_batch).clamp_min(1), found.logs)

    def weight(self, micro_batch: MicroBatch) -> Tensor:
        return torch.ones((), dtype=torch.float64)


class FaultyEngine(Engine):
    """Every rank divides by its own count."""

    def _weigh(self, batch: Any) -> tuple[float, float]:
        mine = sum(float(self.objective.weight(mb)) for mb in batch.micro_batches)
        return max(mine, 1.0), 0.0


class FaultyExecutor(StageExecutor):
    """Divides by the number of micro-batches as well."""

    def forward_backward(self, batch: Sequence[MicroBatch], denominator: float, **words: Any) -> list[Loss]:
        return super().forward_backward(batch, denominator * len(batch), **words)


class Recorder(Update):
    """Keeps the gradients that a step applies, before they are clipped."""

    gradients: dict[str, Tensor]

    def clip(self, limit: float, *, scale: float = 1.0) -> Tensor:
        # the norm first, without a limit: the gradients are then unscaled and still whole
        norm = super().clip(0.0, scale=scale)
        pairs = [(n, p) for g in self.groups for n, p in zip(g.names, g.parameters, strict=True)]
        self.gradients = {n: whole(p.grad).clone() for n, p in pairs if p.grad is not None}
        super().clip(limit)
        return norm


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered; collective."""
    return tensor.full_tensor() if isinstance(tensor, torch.distributed.tensor.DTensor) else tensor


class NoSaver:
    """Takes the place of a checkpointer where nothing is saved."""

    def poll(self) -> str:
        return ""

    def outcome(self) -> int:
        return 0

    def conclude(self, all_ok: bool) -> None: ...


@dataclass(kw_only=True)
class Made:
    """An engine and what it wrote."""

    engine: Engine
    built: Built
    update: Recorder
    lines: list[dict[str, Any]]

    def results(self) -> dict[str, np.ndarray]:
        """Loss, norm, gradients and weights after the last step; collective."""
        found: dict[str, Tensor] = {f"gradient/{n}": g for n, g in self.update.gradients.items()}
        found |= {f"weight/{n}": whole(p).detach() for n, p in self.built.model.named_parameters()}
        arrays = {name: tensor.double().numpy() for name, tensor in found.items()}
        arrays["loss"] = np.array([line["loss"] for line in self.lines])
        arrays["norm"] = np.array([line["grad_norm"] for line in self.lines])
        return arrays


def make(case: Case, ranks: Ranks, built: Built | None = None) -> Made:
    """The engine of a case, of the product's own parts; collective. A process group must be there."""
    ids = TokenIds(size=VOCABULARY, eos=0, pad=0)
    built = built or build(ModelSection(config=case.model), ids, seed=case.seed, offline=True)
    built.model.to(case.dtype)
    stage = Stage(built.model, foreign=built.config is None, hidden=case.chunked)
    shards = ranks.world if case.sharding == "full" else 1
    plan: Any = SimpleNamespace(dp_replicate=ranks.world // shards, dp_shard=shards)
    mesh = make_mesh(plan, "cpu", ranks.rank)
    apply(stage, mesh, Layout(recompute=case.recompute, compile=None, reshard=True))
    scorer = case.scorer or (ChunkedScorer(head_of(built)) if case.chunked else LogitsScorer())
    kind = Faulty if case.fault == "mean of means" else Causal
    objective = kind(CausalConfig(), scorer, pad_id=0, pad_to=None)
    executing = FaultyExecutor if case.fault == "divided by micro-batches" else StageExecutor
    executor = executing(
        stage,
        objective,
        device=torch.device("cpu"),
        compute=case.compute,
        averaged=mesh.averaged,
    )
    order = Order([len(case.rows)], [1.0], seed=0, shuffle=False)
    loader = StepLoader(
        [case.rows], order, global_size=case.global_size, micro_size=case.micro, collate=objective.collate,
        ranks=mesh.data_ranks, rank=mesh.data_rank,
    )  # fmt: skip
    named = stage.model.named_parameters()
    groups = group_parameters(named, stage.model, case.optimizer, vocabulary=VOCABULARY)
    update = Recorder(groups, case.optimizer.build, master=case.precision.params != "fp32")  # type: ignore[attr-defined]
    scale = case.precision.loss_scale if case.precision.compute == "fp16" else 1.0
    tensors = RunTensors(
        built.model,
        built.aliases,
        update,
        TrainState(step=case.first, loss_scale=scale),
    )
    lines: list[dict[str, Any]] = []
    signals = Signals(lambda text: None)
    never = Rhythm(Every(kind="never"), total=1, per_epoch=1)
    recipe = Recipe(
        objective=CausalConfig(), optimizer=case.optimizer, schedule=ConstantConfig(), precision=case.precision,
        run=case.run,
    )  # fmt: skip
    engine = (FaultyEngine if case.fault == "count per rank" else Engine)(
        recipe=recipe, total_steps=case.last,
        loader=loader, objective=objective, executor=executor, update=update, factor=case.factor,
        control=Control(ranks, signals, deadline=None, max_time=None), ranks=ranks, data_rank=mesh.data_rank,
        evaluator=None, saver=NoSaver(), save=lambda step, wait, pin: None, sample=None,
        rhythms=Rhythms(log=never, save=never, pin=never, evaluate=never, sample=never),
        tensors=tensors, bus=EventBus(), write=lambda event, step, values: lines.append(values), memory=lambda: 0.0,
    )  # fmt: skip
    return Made(engine=engine, built=built, update=update, lines=lines)


def taken(case: Case, ranks: Ranks) -> dict[str, np.ndarray]:
    """Results of the steps first .. last-1 of a case; collective."""
    made = make(case, ranks)
    made.engine.fit()
    return made.results()
