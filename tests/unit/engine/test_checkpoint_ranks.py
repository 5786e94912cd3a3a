"""Checkpoints of several ranks: each box stored once, any layout reads any other's, all ranks act as one."""

import errno
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from llmtrain.dist import Ranks
from llmtrain.engine import checkpoint
from llmtrain.engine.checkpoint_plan import load_full
from llmtrain.errors import Failure
from llmtrain.record import checkpoints
from llmtrain.record.folder import RunFolder
from tests.ranks import on_ranks
from tests.torture.faults import Faults
from tests.torture.training import Toy, checkpointer


class Trained:
    """A model after two AdamW steps, with uneven shards: 5 rows and 1 row over 2 ranks."""

    def __init__(self, mesh: tuple[int, int] | None, *, steps: int = 2, seed: int = 1) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1), nn.LayerNorm(1))
        self.model.register_buffer("count", torch.tensor([7, 8]))
        if mesh is not None:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            named = init_device_mesh("cpu", mesh, mesh_dim_names=("replicate", "shard"))
            fully_shard(self.model[0], mesh=named)
            fully_shard(self.model, mesh=named)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        for step in range(steps):
            self.model(torch.full((2, 3), float(step + 1))).sum().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.loaded: dict[str, Any] = {}

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        weights = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        state = {
            f"{name}/{key}": value
            for name, parameter in self.model.named_parameters()
            for key, value in self.optimizer.state[parameter].items()
        }
        return {"weights": weights, "optimizer": state}

    def state(self) -> dict[str, Any]:
        return {"applied": 2}

    def load_state(self, state: dict[str, Any]) -> None:
        self.loaded = state

    def whole(self) -> dict[str, torch.Tensor]:
        found = {f"{group}/{name}": value for group, part in self.tensors().items() for name, value in part.items()}
        return {
            name: (value.full_tensor() if isinstance(value, torch.distributed.tensor.DTensor) else value)
            .detach()
            .clone()
            for name, value in found.items()
        }


LAYOUTS: dict[str, tuple[int, tuple[int, int] | None]] = {
    "one": (1, None), "full": (2, (1, 2)), "none": (2, (2, 1)), "plain": (2, None),
}  # fmt: skip


def saver(folder: RunFolder, ranks: Ranks, **section: Any) -> checkpoint.Checkpointer:
    return checkpointer(folder, ranks=ranks, aliases={}, **section)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    return RunFolder.create(tmp_path / "runs", "toy")


def saved_by(layout: str, folder: RunFolder, scratch: Path, **section: Any) -> None:
    world, mesh = LAYOUTS[layout]

    def work(ranks: Ranks) -> None:
        source = Trained(mesh)
        saver(folder, ranks, **section).save(source, step=2, wait=True, metrics_length=0)

    if world == 1:
        work(Ranks())
    else:
        assert on_ranks(world, work, scratch) == [0] * world


@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize("source", LAYOUTS)
def test_any_layout_reads_any_other(source: str, target: str, folder: RunFolder, tmp_path: Path) -> None:
    saved_by(source, folder, tmp_path)
    (candidate,) = checkpoints.list_checkpoints(folder)
    assert candidate.manifest is not None
    stored = load_full(candidate.path, candidate.manifest)
    world, mesh = LAYOUTS[target]

    def work(ranks: Ranks) -> None:
        there = Trained(mesh, steps=1, seed=9)
        different = there.whole()
        assert any(not torch.equal(different[name], stored[name]) for name in stored)
        restored = saver(folder, ranks).restore(there)
        assert restored is not None and restored.step == 2 and there.loaded == {"applied": 2}
        found = there.whole()
        assert found.keys() == stored.keys()
        assert all(torch.equal(found[name], stored[name]) for name in stored)

    if world == 1:
        work(Ranks())
    else:
        assert on_ranks(world, work, tmp_path) == [0] * world


def test_stored_values_are_the_trained_ones(folder: RunFolder, tmp_path: Path) -> None:
    saved_by("full", folder, tmp_path)
    (candidate,) = checkpoints.list_checkpoints(folder)
    assert candidate.manifest is not None
    stored, wanted = load_full(candidate.path, candidate.manifest), Trained(None).whole()
    assert stored.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(stored[name], value, rtol=1e-6, atol=1e-7)


def test_each_element_is_stored_once_and_replicas_share_the_bytes(folder: RunFolder, tmp_path: Path) -> None:
    saved_by("none", folder, tmp_path)
    (candidate,) = checkpoints.list_checkpoints(folder)
    assert candidate.manifest is not None
    sizes = {name: entry["size"] for name, entry in candidate.manifest["files"].items()}
    assert {"weights-r0.safetensors", "weights-r1.safetensors", "optimizer-r1.safetensors"} <= set(sizes)
    slices = [part for group in candidate.manifest["tensors"].values() for e in group.values() for part in e["slices"]]
    assert len(slices) == len({(part[0], part[1]) for part in slices}) == len(Trained(None).whole())


def test_control_word_commits_when_all_have_written(folder: RunFolder, tmp_path: Path) -> None:
    def work(ranks: Ranks) -> None:
        said: list[Any] = []
        made = checkpointer(folder, ranks=ranks, log=said)
        made.save(Toy(1), step=1, wait=False, metrics_length=0)
        for _ in range(500):
            words = ranks.gather(made.outcome())
            assert checkpoint.FAILED not in words
            if all(word == checkpoint.OK for word in words):
                made.conclude(True)
                break
            time.sleep(0.01)
        assert made.outcome() == checkpoint.NOTHING
        while ranks.is_first and made.poll() != "done":
            time.sleep(0.01)
        assert len(said) == int(ranks.is_first)
        made.save(Toy(2), step=2, wait=False, metrics_length=0)
        made.settle()
        made.settle()
        assert len(said) == 2 * int(ranks.is_first) and made.last_committed == 2 and made.poll() == "idle"

    assert on_ranks(2, work, tmp_path) == [0, 0]
    assert [verdict.good for verdict in checkpoints.verify_run(folder)] == [True, True]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_failure_on_one_rank_fails_the_save_on_all(
    victim: int, asynchronous: bool, folder: RunFolder, tmp_path: Path
) -> None:
    def work(ranks: Ranks) -> None:
        made = checkpointer(folder, ranks=ranks, async_=asynchronous)
        made.save(Toy(1), step=1, wait=True, metrics_length=0)
        at = 1 if ranks.rank == victim else 0
        with Faults(at, error=errno.ENOSPC, names=("write",), again=True):  # noqa: SIM117 - faults end last
            with pytest.raises(Failure) as caught:  # noqa: PT012 - the first or the last call fails
                made.save(Toy(2), step=2, wait=False, metrics_length=0)
                for _ in range(500):
                    if checkpoint.FAILED in ranks.gather(made.outcome()):
                        break
                    time.sleep(0.01)
                made.conclude(False)
        problem = caught.value.problems[0]
        assert problem.id == "E-IO-001" and f"rank {victim}:" in problem.message, problem.message
        assert "step 1 is safe" in problem.message
        made.save(Toy(3), step=3, wait=True, metrics_length=0)

    assert on_ranks(2, work, tmp_path) == [0, 0]
    assert [verdict.candidate.step for verdict in checkpoints.verify_run(folder) if verdict.good] == [3, 1]
    assert not list(folder.checkpoints.glob("*.tmp"))


def test_a_slow_disk_outlasts_no_collective(folder: RunFolder, tmp_path: Path) -> None:
    """Rank 1 needs longer for its files than any collective may take."""

    def work(ranks: Ranks) -> None:
        group = torch.distributed.new_group(backend="gloo", timeout=timedelta(seconds=2))
        original = os.fsync

        def slow(descriptor: int) -> None:
            time.sleep(1.5 if ranks.rank == 1 else 0.0)
            original(descriptor)

        os.fsync = slow
        made = checkpointer(folder, ranks=Ranks(rank=ranks.rank, world=2, local_rank=ranks.rank, group=group))
        made.save(Toy(1), step=1, wait=True, metrics_length=0)

    assert on_ranks(2, work, tmp_path) == [0, 0]
    assert len(checkpoints.verify_run(folder)) == 1


@pytest.mark.parametrize("name", ["weights-r0.safetensors", "optimizer-r1.safetensors", "state.json"])
def test_damage_that_one_rank_sees_moves_all_to_the_one_before(name: str, folder: RunFolder, tmp_path: Path) -> None:
    def save_two(ranks: Ranks) -> None:
        made = checkpointer(folder, ranks=ranks)
        for step in (1, 2):
            made.save(Toy(step), step=step, wait=True, metrics_length=0)

    def load(ranks: Ranks) -> None:
        toy = Toy()
        restored = checkpointer(folder, ranks=ranks).restore(toy)
        assert restored is not None and restored.step == 1 and toy.same_as(Toy(1))
        assert len(restored.rejected) == 1 and name in restored.rejected[0]

    assert on_ranks(2, save_two, tmp_path) == [0, 0]
    path = folder.checkpoints / "step-00000002" / name
    path.write_bytes(path.read_bytes()[:-1] + b"~")
    assert on_ranks(2, load, tmp_path) == [0, 0]


def test_a_non_finite_shard_of_one_rank_stops_all(folder: RunFolder, tmp_path: Path) -> None:
    def work(ranks: Ranks) -> None:
        source = Trained((1, 2))
        if ranks.rank == 1:
            with torch.no_grad():
                source.model[0].weight.to_local()[0, 0] = float("nan")
        with pytest.raises(Failure, match=r"weights/0\.weight") as caught:
            saver(folder, ranks).save(source, step=1, wait=False, metrics_length=0)
        assert caught.value.problems[0].id == "E-CKPT-001"

    assert on_ranks(2, work, tmp_path) == [0, 0]
    assert list(folder.checkpoints.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_kill_one_rank_before_every_call(victim: int, tmp_path: Path) -> None:
    """The survivor's collective fails or it is killed; what was committed stays."""
    for number in range(1, 40):
        folder = RunFolder.create(tmp_path / f"{victim}-{number}", "toy")

        def work(ranks: Ranks, folder: RunFolder = folder, number: int = number) -> None:
            made = checkpointer(folder, ranks=ranks)
            made.save(Toy(1), step=1, wait=True, metrics_length=0)
            with Faults(number if ranks.rank == victim else 0):
                made.save(Toy(2), step=2, wait=True, metrics_length=0)

        on_ranks(2, work, tmp_path)
        toy = Toy()
        restored = checkpointer(folder).restore(toy)
        verdicts = checkpoints.verify_run(folder)
        assert restored is not None and all(verdict.good for verdict in verdicts)
        assert restored.step == max(verdict.candidate.step for verdict in verdicts) and toy.same_as(Toy(restored.step))
