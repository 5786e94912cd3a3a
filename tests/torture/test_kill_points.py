"""T2: a kill before every call of a save, and T5: an errno at every call; after each, nothing committed is lost."""

import errno
import os
import signal
from pathlib import Path

import pytest

from llmtrain.errors import Failure
from llmtrain.record import checkpoints, files, metrics
from llmtrain.record.folder import RunFolder
from tests.torture.faults import Faults, in_child
from tests.torture.training import Toy, checkpointer, copied, good, resume, train

KEEP = 2


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with steps 1 to 3 saved, of which retention has left two."""
    folder = RunFolder.create(tmp_path_factory.mktemp("runs"), "toy")
    train(folder, checkpointer(folder, keep=KEEP), 1, 3)
    return folder.path


def one_save(path: Path, asynchronous: bool) -> None:
    """What is killed: resume, one step, one save with its prune."""
    folder = RunFolder.open(path)
    with folder.lock():
        saver, toy, _ = resume(folder, keep=KEEP, async_=asynchronous)
        train(folder, saver, toy.step + 1, toy.step + 1)


def calls_of_a_save(template: Path, tmp_path: Path, asynchronous: bool) -> list[str]:
    folder = copied(template, tmp_path / "count")
    with Faults() as faults:
        one_save(folder.path, asynchronous)
    return faults.trace


def check(folder: RunFolder, before: list[int]) -> None:
    """I1, I2, I4, I5 and I6 after a fault."""
    committed = {seq for _, seq in checkpoints.lines_of(folder, "committed")}
    pruned = {seq for _, seq in checkpoints.lines_of(folder, "pruned")}
    verified = good(folder)
    assert committed - pruned <= set(verified)
    assert len(verified) >= min(KEEP, len(before))
    with folder.lock():
        saver, toy, restored = resume(folder, keep=KEEP)
        assert restored is not None and restored.seq == max(verified)
        assert toy.same_as(Toy(restored.step))
        assert [line["step"] for line in metrics.read(folder.metrics)] == list(range(1, restored.step + 1))
        left = [p.name for p in folder.checkpoints.iterdir() if p.name.endswith(".tmp") or p.name.startswith(".")]
        assert left == [] and not list(folder.path.glob(".*.tmp"))
        assert restored.seq in {seq for _, seq in checkpoints.lines_of(folder, "committed")}
        train(folder, saver, toy.step + 1, toy.step + 2)
    assert len(good(folder)) == KEEP and all(verdict.good for verdict in checkpoints.verify_run(folder))


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_kill_before_every_call(template: Path, tmp_path: Path, asynchronous: bool) -> None:
    calls = calls_of_a_save(template, tmp_path, asynchronous)
    assert {call.split()[0] for call in calls} >= {"open", "write", "fsync", "rename", "mkdir", "unlink", "rmdir"}
    before = good(RunFolder.open(template))
    for number in range(1, len(calls) + 1):
        folder = copied(template, tmp_path / f"{number}")

        def killed(path: Path = folder.path, number: int = number) -> None:
            with Faults(number):
                one_save(path, asynchronous)

        assert os.WTERMSIG(in_child(killed)) == signal.SIGKILL, calls[number - 1]
        check(folder, before)


def test_kill_before_every_call_of_the_first_save(tmp_path: Path) -> None:
    """Nothing or everything of it is there, and the run goes on in its own folder."""
    template = RunFolder.create(tmp_path, "new").path

    def first_save(path: Path) -> None:
        folder = RunFolder.open(path)
        with folder.lock():
            train(folder, resume(folder)[0], 1, 1)

    counted = copied(template, tmp_path / "count")
    with Faults() as faults:
        first_save(counted.path)
    for number, call in enumerate(faults.trace, 1):
        folder = copied(template, tmp_path / f"{number}")

        def killed(path: Path = folder.path, number: int = number) -> None:
            with Faults(number):
                first_save(path)

        assert os.WTERMSIG(in_child(killed)) == signal.SIGKILL, call
        verified = good(folder)
        with folder.lock():
            saver, toy, restored = resume(folder)
            assert (restored is not None) == bool(verified) and toy.same_as(Toy(len(verified))), call
            metrics.cut(folder.metrics, restored.metrics_length if restored else 0, folder.logs / "dropped.jsonl")
            train(folder, saver, toy.step + 1, 2)
        assert good(folder)[0] >= 2 - len(verified), call


@pytest.mark.parametrize(
    ("code", "again"),
    [
        pytest.param(errno.ENOSPC, False, id="full-once"), pytest.param(errno.EIO, True, id="broken-ever"),
        pytest.param(errno.ENOSPC, True, id="full-ever", marks=pytest.mark.slow),
        pytest.param(errno.EIO, False, id="broken-once", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_errno_at_every_call(template: Path, tmp_path: Path, code: int, again: bool) -> None:
    calls = calls_of_a_save(template, tmp_path, True)
    before = good(RunFolder.open(template))
    for number in range(1, len(calls) + 1):
        folder = copied(template, tmp_path / f"{number}")
        failed: Failure | OSError | None = None
        with Faults(number, error=code, again=again):
            try:
                one_save(folder.path, True)
            except (Failure, OSError) as error:
                failed = error
        if isinstance(failed, Failure):
            full = code == errno.ENOSPC
            assert failed.exit_code == 74, calls[number - 1]
            assert failed.problems[0].id == ("E-IO-001" if full else "E-CKPT-003")
            assert "is safe" in failed.problems[0].message
        (folder.path / "lock").unlink(missing_ok=True)
        check(folder, before)


def test_full_disk_is_met_once_by_sweeping(template: Path, tmp_path: Path) -> None:
    folder = copied(template, tmp_path / "run")
    (folder.checkpoints / ".trash-0001-abcdef").mkdir()
    with folder.lock():
        saver, _, _ = resume(folder, keep=KEEP)
        (folder.checkpoints / ".trash-0009-abcdef").mkdir()
        with Faults(2, error=errno.ENOSPC, names=("fsync",)):
            saver.save(Toy(4), step=4, wait=True, metrics_length=0)
    assert not list(folder.checkpoints.glob(".trash-*"))
    assert max(good(folder)) == 4


def test_warn_goes_on_and_the_next_save_succeeds(template: Path, tmp_path: Path) -> None:
    folder = copied(template, tmp_path / "run")
    said: list[object] = []
    with folder.lock():
        saver, _, _ = resume(folder, log=said, keep=KEEP, on_error="warn", async_=False)
        with Faults(1, error=errno.EIO, names=("fsync",), again=True):
            saver.save(Toy(4), step=4, wait=False, metrics_length=0)
        assert any("step 4 not saved" in str(line) and "step 3 is safe" in str(line) for line in said)
        with Faults(1, error=errno.EIO, names=("fsync",), again=True), pytest.raises(Failure):
            saver.save(Toy(5), step=5, wait=True, metrics_length=0)
        assert not list(folder.checkpoints.glob("*.tmp"))
        saver.save(Toy(6), step=6, wait=True, metrics_length=0)
    assert RunFolder.open(folder.path) and max(good(folder)) == 6


def test_a_save_that_would_not_fit_is_not_begun(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(template, tmp_path / "run")
    saver, _, _ = resume(folder, keep=KEEP)
    real = os.statvfs(folder.path)

    class Full:
        f_bavail, f_frsize = 10, real.f_frsize

    monkeypatch.setattr(os, "statvfs", lambda _: Full)
    with pytest.raises(Failure, match=r"disk full: needs .* GB, .* GB free; step 3 is safe"):
        saver.save(Toy(4), step=4, wait=False, metrics_length=0)
    assert not list(folder.checkpoints.glob("*.tmp")) and files.read_json(folder.path / "run.json")["id"] == folder.id


def test_a_replaced_file_is_the_old_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    files.write_json(path, "old")
    with Faults() as faults:
        files.write_json(path, "old")
    assert len(faults.trace) == 5
    for number in range(1, 6):

        def killed(number: int = number) -> None:
            with Faults(number):
                files.write_json(path, "new")

        assert os.WTERMSIG(in_child(killed)) == signal.SIGKILL
        assert files.read_json(path) == ("new" if number == 5 else "old")
