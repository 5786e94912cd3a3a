"""Ranks leave together, broken collectives are told apart from faults of this rank, threads share processors."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llmtrain import dist
from tests.ranks import on_ranks


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:1234"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("gloo"), False),
    ],
)
def test_only_broken_collectives_are_peer_losses(error: Exception, lost: bool) -> None:
    assert dist.is_peer_loss(error) is lost


def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    dist.share_processors()
    assert os.environ["GOMP_SPINCOUNT"] == dist.SPINS
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    dist.share_processors()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    dist.share_processors()
    assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.parametrize("late", [0, 1, 2])
def test_nobody_leaves_before_the_last_rank_is_done(late: int, tmp_path: Path) -> None:
    """gloo takes a peer that closed early for lost, so the early ranks wait for the late one."""

    def work(ranks: dist.Ranks) -> None:
        joined = replace(ranks, store=torch.distributed.FileStore(str(tmp_path / "leave"), 3))
        if ranks.rank == late:
            time.sleep(0.3)
            (tmp_path / "done").touch()
        dist._leave_together(joined)
        assert (tmp_path / "done").exists()

    assert on_ranks(3, work, tmp_path) == [0, 0, 0]
