"""Run folders: fresh ones, owned ones, described ones, found ones."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from llmtrain.errors import Failure
from llmtrain.record import files, index
from llmtrain.record.folder import RunFolder


def test_ids_sort_by_time_and_are_unique(tmp_path: Path) -> None:
    made = [RunFolder.create(tmp_path, "my run/é") for _ in range(3)]
    assert re.fullmatch(r"\d{6}-\d{6}-my-run", made[0].id)
    assert len({folder.id for folder in made}) == 3 and [folder.path.name for folder in made] == [f.id for f in made]
    assert [entry.folder.id for entry in index.list_runs(tmp_path)] == [folder.id for folder in made]


def test_processes_at_once_get_their_own(tmp_path: Path) -> None:
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            RunFolder.create(tmp_path, "same")
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    assert len(index.list_runs(tmp_path)) == 8


def test_a_named_folder_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    folder = RunFolder.create(tmp_path, "x", directory=tmp_path / "empty")
    assert folder.path == tmp_path / "empty" and RunFolder.open(folder.path) == folder
    with pytest.raises(Failure) as caught:
        RunFolder.create(tmp_path, "x", directory=tmp_path / "empty")
    assert caught.value.problems[0].id == "E-RUN-006"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(Failure):
        RunFolder.create(tmp_path, "x", directory=tmp_path / "file")


def test_a_place_that_cannot_be_made_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(Failure) as caught:
        RunFolder.create(tmp_path / "file" / "runs", "x")
    assert caught.value.problems[0].id == "E-FILE-005"


def test_status_keeps_what_is_not_given(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x")
    folder.write_status(state="running", step=3, mode="train", objective="causal")
    folder.write_status(state="done", exit_code=0)
    status = folder.status()
    assert status["state"] == "done" and status["step"] == 3 and status["mode"] == "train" and status["exit_code"] == 0
    assert status["id"] == folder.id and status["pid"] == os.getpid() and status["started"] <= status["updated"]


def test_the_environment_is_an_allow_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "hunter2")
    folder = RunFolder.create(tmp_path, "x")
    folder.write_environment({"torch": "2"}, {"cpu": 2})
    assert "hunter2" not in (folder.path / "env.json").read_text()


def test_another_run_in_the_folder_is_told(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x")
    with pytest.raises(Failure) as caught:
        RunFolder.open(folder.path, id="other")
    assert caught.value.problems[0].id == "E-ENV-004"
    with pytest.raises(Failure):
        RunFolder.open(tmp_path / "absent", wait=0.05)


def test_the_second_owner_is_refused_and_told_the_first(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x")
    with folder.lock():
        with pytest.raises(Failure) as caught:
            folder.lock()
        assert caught.value.problems[0].id == "E-ENV-003" and f"process {os.getpid()} on " in str(caught.value)
    assert not (folder.path / "lock").exists()
    folder.lock().release()


def test_a_killed_owner_leaves_no_stale_lock(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x")
    child = os.fork()
    if child == 0:
        folder.lock()
        time.sleep(60)
    while not (folder.path / "lock").exists() or not (folder.path / "lock").read_bytes().endswith(b"\n"):
        time.sleep(0.01)
    with pytest.raises(Failure, match=f"process {child} on "):
        folder.lock()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    folder.lock().release()


def test_a_link_as_lock_is_refused(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x")
    (folder.path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(Failure, match="link"):
        folder.lock()
    assert not (tmp_path / "target").exists()


def test_owners_at_once_are_one_at_a_time(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x")
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            taken = 0
            while taken < 25:
                try:
                    lock = folder.lock()
                except Failure:
                    continue
                os.mkdir(folder.path / "critical")
                os.rmdir(folder.path / "critical")
                lock.release()
                taken += 1
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4


def test_events_rank_exits_and_crashes(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x")
    folder.event("train", "end", state="done", data={"steps": 3}, sync=True)
    (line,) = files.read_lines(folder.events)
    assert set(line) == {"time", "action", "action_id", "state", "description", "data"}
    folder.write_rank_exit(1, code=3, kind="own", phase="backward", step=7)
    assert folder.rank_exit(1) == {**(folder.rank_exit(1) or {}), "code": 3, "kind": "own", "step": 7}
    assert folder.rank_exit(0) is None
    assert folder.write_crash("boom").read_text() == "boom"
    (folder.path / ".run.json.0000.tmp").write_text("half")
    assert folder.sweep() == [".run.json.0000.tmp"] and folder.sweep() == []


def test_runs_are_found_by_every_word(tmp_path: Path) -> None:
    made = [RunFolder.create(tmp_path, name) for name in ("alpha", "beta")]
    made[0].write_status(state="done", recipe="a.yaml")
    made[1].write_status(state="error", recipe="b.yaml")
    assert index.resolve(str(made[0].path), tmp_path) == made[0]
    assert index.resolve(made[1].id, tmp_path) == made[1]
    assert index.resolve("latest", tmp_path) == made[1]
    assert index.latest(tmp_path) == made[0] and index.latest(tmp_path / "none") is None
    assert index.newest_of(tmp_path, "b.yaml", "beta") == made[1] and index.newest_of(tmp_path, "b.yaml", "x") is None
    for word in ("nobody", made[0].id[:6], "", "latest@7", "@"):
        with pytest.raises(Failure) as caught:
            index.resolve(word, tmp_path)
        assert caught.value.problems[0].id == "E-CLI-005" and len(str(caught.value)) <= 200


def test_checkpoints_are_found_by_step_and_path(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "alpha")
    for name in ("step-00000120", "step-00000120.7", "step-00000180.0008-77ab02.tmp"):
        (folder.checkpoints / name).mkdir()
        (folder.checkpoints / name / "manifest.json").write_text("{}")
    assert index.refer(f"{folder.id}@120", tmp_path).checkpoint == "step-00000120.7"
    assert index.refer(str(folder.checkpoints / "step-00000120"), tmp_path).checkpoint == "step-00000120"
    assert index.refer(folder.id, tmp_path).checkpoint is None
    with pytest.raises(Failure, match="it has 120"):
        index.refer(f"{folder.id}@180", tmp_path)


def test_damaged_run_json_is_passed_over(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x")
    (folder.path / "run.json").write_text(json.dumps({"id": 1})[:-1])
    assert index.list_runs(tmp_path) == [] and folder.status() == {}
