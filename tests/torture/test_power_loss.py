"""T4: after every call of a save, whatever an unlucky disk holds is either refused or right, and commits are kept."""

from pathlib import Path
from typing import get_args

import pytest

from llmtrain.record import checkpoints, metrics
from llmtrain.record.folder import RunFolder
from tests.torture.power import Data, Disk, Names, survive
from tests.torture.training import Toy, checkpointer, good, resume, train


@pytest.mark.parametrize("names", get_args(Names))
@pytest.mark.parametrize("data", get_args(Data))
def test_power_loss_after_every_call(names: Names, data: Data, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "toy")
    train(folder, checkpointer(folder, keep=2), 1, 2)
    states: list[tuple[str, Path]] = []
    announced: list[int] = []

    def lose_power(call: str) -> None:
        target = tmp_path / f"after-{len(states)}"
        survive(disk.root, target, names, data)
        states.append((call, target))
        told.append(max(announced, default=2))

    told: list[int] = []
    saver, _, _ = resume(folder, keep=2)
    saver._on_commit = lambda event: announced.append(event.step)
    log = metrics.MetricsFile(folder.metrics)
    with Disk(folder.path, lose_power) as disk:
        for step in (3, 4):
            log.write("step", step, {"loss": 1.0 / step})
            saver.save(Toy(step), step=step, wait=True, metrics_length=log.flush())
    assert len(states) > 50 and announced == [3, 4]
    for (call, path), step in zip(states, told, strict=True):
        after = RunFolder.open(path)
        committed, pruned = (set(checkpoints.lines_of(after, word)) for word in ("committed", "pruned"))
        assert step in {*(line["step"] for line in checkpoints.lines_of(after, "committed").values()), 2}, call
        verified = good(after)
        assert {seq for _, seq in committed - pruned} <= set(verified), call
        assert len(verified) >= 2, call
        _, toy, restored = resume(after)
        assert restored is not None and restored.step >= step and toy.same_as(Toy(restored.step)), call
        assert [line["step"] for line in metrics.read(after.metrics)] == list(range(1, restored.step + 1)), call
