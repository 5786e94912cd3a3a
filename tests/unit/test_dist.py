"""What broken collectives say is told apart from faults of this rank."""

import os

import pytest

from llmtrain import dist


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
