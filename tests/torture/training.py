"""A stand-in for a training run: a state that is a pure function of the step, saved and restored by a Checkpointer."""

from pathlib import Path
from typing import Any

import torch

from llmtrain.dist import Ranks
from llmtrain.engine.checkpoint import Checkpointer, Restored
from llmtrain.recipe.schema import CheckpointSection
from llmtrain.record import checkpoints
from llmtrain.record.folder import RunFolder
from llmtrain.record.metrics import MetricsFile


class Toy:
    """Two weights, one of them tied, and an optimizer state; `at(step)` tells what they must be."""

    def __init__(self, step: int = 0, width: int = 3) -> None:
        self.step = step
        values = torch.arange(4 * width, dtype=torch.float32).reshape(4, width)
        self.weights = {"embed.weight": values * step, "norm": torch.full((width,), step / 7.0, dtype=torch.bfloat16)}
        self.weights["head.weight"] = self.weights["embed.weight"]
        self.optimizer = {"embed.weight/exp_avg": values.sqrt() * step, "embed.weight/step": torch.tensor(float(step))}

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        return {"weights": self.weights, "optimizer": self.optimizer}

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "loss_scale": (1.0 / 3.0).hex()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.step = state["step"]

    def same_as(self, other: "Toy") -> bool:
        mine, theirs = self.tensors(), other.tensors()
        return self.step == other.step and all(
            torch.equal(mine[group][name], theirs[group][name]) for group in mine for name in mine[group]
        )


ALIASES = {"head.weight": "embed.weight"}


def checkpointer(
    folder: RunFolder, *, ranks: Ranks | None = None, log: list[Any] | None = None,
    aliases: dict[str, str] = ALIASES, **section: Any,
) -> Checkpointer:  # fmt: skip
    said = [] if log is None else log
    return Checkpointer(
        folder, ranks or Ranks(), CheckpointSection(**section), identity={"recipe": "0" * 64}, aliases=aliases,
        on_commit=said.append, warn=said.append,
    )  # fmt: skip


def train(folder: RunFolder, saver: Checkpointer, first: int, last: int, *, wait_last: bool = True) -> None:
    """Steps first..last, each logged and saved."""
    log = MetricsFile(folder.metrics)
    for step in range(first, last + 1):
        log.write("step", step, {"loss": 1.0 / step})
        saver.poll()
        saver.save(Toy(step), step=step, wait=False, metrics_length=log.flush())
    if wait_last:
        saver.settle()
        saver.poll()


def resume(
    folder: RunFolder, log: list[Any] | None = None, **section: Any
) -> tuple[Checkpointer, Toy, Restored | None]:
    saver = checkpointer(folder, log=log, **section)
    toy = Toy()
    restored = saver.restore(toy)
    if restored is not None:
        saver.rewind(restored)
    return saver, toy, restored


def good(folder: RunFolder) -> list[int]:
    """Sequence numbers of the checkpoints that verify."""
    return [verdict.candidate.seq for verdict in checkpoints.verify_run(folder) if verdict.good]


def copied(template: Path, target: Path) -> RunFolder:
    import shutil

    shutil.copytree(template, target, symlinks=True)
    return RunFolder.open(target)
