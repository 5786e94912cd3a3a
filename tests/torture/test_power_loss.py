"""T4: after every call of a save, whatever an unlucky disk holds is either refused or right, and commits are kept."""

from pathlib import Path
from typing import get_args

import pytest

from llmtrain.record import checkpoints, metrics
from llmtrain.record.folder import RunFolder
from tests.torture.power import Data, Disk, Names, survive
from tests.torture.training import Toy, checkpointer, good, resume

SMOKE = {("reverted", "dropped"), ("kept", "cut"), ("kept", "zeroed")}
CASES = [
    pytest.param(names, data, marks=() if (names, data) in SMOKE else pytest.mark.slow)
    for names in get_args(Names)
    for data in get_args(Data)
]


@pytest.mark.parametrize(("names", "data"), CASES)
def test_power_loss_after_every_call(names: Names, data: Data, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "toy")
    states: list[tuple[str, Path, int]] = []
    announced: list[int] = []

    def lose_power(call: str) -> None:
        target = tmp_path / f"after-{len(states)}"
        survive(disk.root, target, names, data)
        states.append((call, target, max(announced, default=0)))

    saver = checkpointer(folder, keep=2)
    saver._on_commit = lambda event: announced.append(event.step)
    with Disk(folder.path, lose_power) as disk:
        log = metrics.MetricsFile(folder.metrics)
        for step in range(1, 5):
            log.write("step", step, {"loss": 1.0 / step})
            saver.save(Toy(step), step=step, wait=True, metrics_length=log.flush())
    assert len(states) > 100 and announced == [1, 2, 3, 4]
    for call, path, step in states:
        after = RunFolder.open(path)
        committed, pruned = (set(checkpoints.lines_of(after, word)) for word in ("committed", "pruned"))
        assert step in {*(line["step"] for line in checkpoints.lines_of(after, "committed").values()), 0}, call
        verified = good(after)
        assert {seq for _, seq in committed - pruned} <= set(verified), call
        assert len(verified) >= min(2, step), call
        _, toy, restored = resume(after)
        if step or verified:
            assert restored is not None and restored.step >= step and toy.same_as(Toy(restored.step)), call
            assert [line["step"] for line in metrics.read(after.metrics)] == list(range(1, restored.step + 1)), call
        else:
            assert restored is None, call
