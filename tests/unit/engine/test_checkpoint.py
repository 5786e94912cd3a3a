"""The Checkpointer on one rank: what is saved, when it is announced, what it refuses, what retention keeps."""

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtrain.engine import checkpoint, checkpoint_retention
from llmtrain.engine.checkpoint_plan import load_full
from llmtrain.engine.events import Committed
from llmtrain.errors import Failure
from llmtrain.record import checkpoints, files, metrics
from llmtrain.record.checkpoints import Candidate
from llmtrain.record.folder import RunFolder
from tests.torture.training import Toy, checkpointer, good, resume, train


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "toy")


def save(saver: checkpoint.Checkpointer, step: int, **options: Any) -> None:
    saver.save(Toy(step), step=step, **{"wait": False, "metrics_length": 0, **options})


def test_a_new_run_has_nothing_to_restore(folder: RunFolder) -> None:
    assert resume(folder)[2] is None


def test_the_writer_never_sees_the_next_step(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, original = threading.Event(), os.write

    def gated(descriptor: int, data: bytes) -> int:
        if threading.current_thread() is not threading.main_thread():
            gate.wait(10)
        return original(descriptor, data)

    monkeypatch.setattr(os, "write", gated)
    saver, live = checkpointer(folder), Toy(1)
    saver.save(live, step=1, wait=False, metrics_length=0)
    assert saver.poll() == "busy" and saver.outcome() == checkpoint.NOTHING
    for tensor in (*live.weights.values(), *live.optimizer.values()):
        tensor.zero_()
    gate.set()
    saver.settle()
    _, toy, restored = resume(folder)
    assert restored is not None and toy.same_as(Toy(1))


def test_every_part_of_the_manifest(folder: RunFolder) -> None:
    saver = checkpointer(folder)
    save(saver, 1, wait=True, pin=True, best={"metric": "eval_loss", "value": 2.5}, progress={"samples": 32})
    (candidate,) = saver.candidates()
    manifest = dict(candidate.manifest or {})
    assert manifest["run"] == folder.id and manifest["seq"] == 1 and manifest["parent_seq"] is None
    assert manifest["tied"] == {"head.weight": "embed.weight"} and manifest["durable"] is True
    assert manifest["pinned"] and manifest["best"]["value"] == 2.5 and manifest["progress"] == {"samples": 32}
    assert set(manifest["files"]) == {"state.json", "weights-r0.safetensors", "optimizer-r0.safetensors"}
    assert manifest["tensors"]["weights"]["norm"] == {
        "dtype": "BF16", "shape": [3], "slices": [["weights-r0.safetensors", "norm", [0], [3]]],
    }  # fmt: skip
    assert set(manifest["tensors"]["weights"]) == {"embed.weight", "norm"}
    assert sorted(os.listdir(candidate.path)) == sorted([*manifest["files"], "manifest.json"])
    assert (candidate.path / "manifest.json").stat().st_mode & 0o777 == 0o666 & ~current_umask()
    assert (folder.checkpoints / "latest").read_text() == "step-00000001\n"


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_commits_are_told_once_and_in_order(folder: RunFolder) -> None:
    said: list[Any] = []
    saver = checkpointer(folder, log=said)
    train(folder, saver, 1, 4)
    saver.settle()
    assert [event.step for event in said] == [1, 2, 3, 4] and all(isinstance(event, Committed) for event in said)
    assert saver.poll() == "idle" and saver.last_committed == 4


def test_saving_right_after_loading_changes_nothing(folder: RunFolder) -> None:
    train(folder, checkpointer(folder), 1, 2)
    saver, toy, restored = resume(folder)
    saver.save(toy, step=2, wait=True, metrics_length=folder.metrics.stat().st_size)
    newest, before = saver.candidates()[:2]
    assert restored is not None and newest.manifest and before.manifest and newest.manifest["parent_seq"] == before.seq
    for name, entry in before.manifest["files"].items():
        assert newest.manifest["files"][name]["sha256"] == entry["sha256"]


def test_the_metrics_tail_is_moved(folder: RunFolder) -> None:
    train(folder, checkpointer(folder), 1, 2)
    log = metrics.MetricsFile(folder.metrics)
    log.write("step", 3, {"loss": 1.0})
    log.flush()
    saver, _, restored = resume(folder)
    assert restored is not None and [line["step"] for line in metrics.read(folder.metrics)] == [1, 2]
    dropped = folder.logs / f"metrics-dropped-{restored.seq}.jsonl"
    assert [line["step"] for line in metrics.read(dropped)] == [3]
    with pytest.raises(Failure, match="shorter than"):
        save(saver, 3, wait=True, metrics_length=10_000)


def test_names_shapes_and_dtypes_must_match(folder: RunFolder) -> None:
    save(checkpointer(folder), 1, wait=True)
    wrong = Toy()
    wrong.weights["norm"] = torch.zeros(4, dtype=torch.bfloat16)
    wrong.optimizer["embed.weight/step"] = torch.zeros((), dtype=torch.float64)
    wrong.weights |= {f"layer.{number}": torch.zeros(1) for number in range(30)}
    del wrong.optimizer["embed.weight/exp_avg"]
    with pytest.raises(Failure) as caught:
        checkpointer(folder).restore(wrong)
    lines = [problem.message for problem in caught.value.problems]
    assert {problem.id for problem in caught.value.problems} == {"E-CKPT-002"} and caught.value.exit_code == 2
    assert "lacks 30 tensors: weights/layer.0, weights/layer.1, weights/layer.10" in lines[0]
    assert "layer.9" not in lines[0]
    assert "has, unknown to the model, 1 tensors: optimizer/embed.weight/exp_avg" in lines[1]
    assert "weights/norm BF16[3] -> BF16[4]" in lines[2] and "F32[] -> F64[]" in lines[2]
    assert all(len(line) <= 200 for line in lines)


def test_a_tied_checkpoint_fills_an_untied_model(folder: RunFolder) -> None:
    save(checkpointer(folder), 3, wait=True)
    untied = Toy()
    untied.weights["head.weight"] = torch.zeros(4, 3)
    checkpointer(folder, aliases={}).restore(untied)
    assert torch.equal(untied.weights["head.weight"], Toy(3).weights["embed.weight"])


def test_weights_only_cannot_be_resumed_but_read(folder: RunFolder) -> None:
    saver = checkpointer(folder, weights_only=True)
    save(saver, 1, wait=True)
    with pytest.raises(Failure, match="weights only") as caught:
        resume(folder)
    assert caught.value.exit_code == 4
    (candidate,) = saver.candidates()
    assert candidate.manifest is not None
    stored = load_full(candidate.path, candidate.manifest)
    assert set(stored) == {"weights/embed.weight", "weights/norm"}


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("place", ["weights/norm", "optimizer/embed.weight/exp_avg"])
def test_non_finite_is_never_saved(place: str, value: float, folder: RunFolder) -> None:
    saver, toy = checkpointer(folder, on_error="warn"), Toy(1)
    save(saver, 1, wait=True)
    group, _, name = place.partition("/")
    toy.tensors()[group][name].reshape(-1)[-1] = value
    with pytest.raises(Failure, match=f"{place}.*step 1 is safe") as caught:
        saver.save(toy, step=2, wait=False, metrics_length=0)
    assert caught.value.exit_code == 3 and good(folder) == [1]
    masks = checkpoint.Checkpointer(
        folder, saver._ranks, saver._section, identity={}, aliases={"head.weight": "embed.weight"},
        on_commit=print, warn=print, may_be_nonfinite=frozenset({"norm"}),
    )  # fmt: skip
    if place == "weights/norm":
        masks.save(toy, step=2, wait=True, metrics_length=0)
        assert good(folder) == [2, 1]


def test_abandon_leaves_nothing(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, original = threading.Event(), os.fsync

    def gated(descriptor: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            gate.wait(0.3)
        original(descriptor)

    saver = checkpointer(folder)
    save(saver, 1, wait=True)
    monkeypatch.setattr(os, "fsync", gated)
    save(saver, 2)
    saver.abandon()
    saver.abandon()
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["latest", "step-00000001"]
    assert good(folder) == [1]


def test_best_and_pinned_stay(folder: RunFolder) -> None:
    saver = checkpointer(folder, keep=1)
    save(saver, 1, pin=True)
    save(saver, 2, best={"metric": "eval_loss", "value": 3.0})
    save(saver, 3, best={"metric": "eval_loss", "value": 2.0})
    for step in (4, 5):
        save(saver, step)
    saver.settle()
    assert good(folder) == [5, 3, 1]
    saver, _, _ = resume(folder, keep=1)
    save(saver, 6, wait=True)
    assert good(folder) == [6, 3, 1]
    saver.mark_best(6)
    save(saver, 7, wait=True)
    assert good(folder) == [7, 6, 1]


def test_a_failed_best_save_does_not_free_the_best_before(folder: RunFolder) -> None:
    saver = checkpointer(folder, keep=1)
    save(saver, 1, wait=True, best={"metric": "eval_loss", "value": 3.0})
    saver.mark_best(99)
    for step in (2, 3):
        save(saver, step, wait=True)
    assert good(folder) == [3, 1]


def test_what_is_read_is_not_removed(folder: RunFolder) -> None:
    saver = checkpointer(folder, keep=1)
    save(saver, 1, wait=True)
    (first,) = saver.candidates()
    with checkpoints.reading(first.path):
        save(saver, 2, wait=True)
        assert good(folder) == [2, 1]
    save(saver, 3, wait=True)
    assert good(folder) == [3]
    with pytest.raises(FileNotFoundError), checkpoints.reading(first.path):
        pass


def test_sequence_numbers_are_never_given_twice(folder: RunFolder) -> None:
    save(checkpointer(folder), 1, wait=True)
    (folder.checkpoints / checkpoints.temporary_name(2, 41, "abcdef")).mkdir()
    assert checkpoints.highest_sequence(folder) == 41
    save(checkpointer(folder), 2, wait=True)
    assert good(folder) == [42, 1]
    shutil.rmtree(folder.checkpoints / "step-00000002")
    save(checkpointer(folder), 3, wait=True)
    assert good(folder) == [43, 1]


def test_a_commit_that_nobody_heard_of_is_used_and_told(folder: RunFolder) -> None:
    train(folder, checkpointer(folder), 1, 2)
    lines = folder.events.read_text().splitlines(keepends=True)
    folder.events.write_text("".join(line for line in lines if '"seq":2' not in line))
    _, _, restored = resume(folder)
    assert restored is not None and restored.seq == 2
    late = checkpoints.lines_of(folder, "committed")["step-00000002", 2]
    assert (
        late["late"] is True
        and files.read_json(restored.path / "manifest.json")["self_sha256"] == late["manifest_sha256"]
    )


def candidates(pins: list[bool]) -> list[Candidate]:
    made = [
        Candidate(path=Path(f"step-{number:08d}"), step=number, seq=number, manifest={"pinned": pin})
        for number, pin in enumerate(pins, 1)
    ]
    return made[::-1]


@settings(max_examples=300, deadline=None)
@given(
    pins=st.lists(st.booleans(), max_size=8), keep=st.one_of(st.none(), st.integers(1, 4)),
    best=st.lists(st.integers(0, 9), max_size=3), known=st.sets(st.integers(1, 8)), bad=st.sets(st.integers(1, 8)),
)  # fmt: skip
def test_retention_rule(pins: list[bool], keep: int | None, best: list[int], known: set[int], bad: set[int]) -> None:
    all_of_them = candidates(pins)
    gone = checkpoint_retention.removable(
        all_of_them, keep=keep, best=best, verified=known - bad, rejected={(f"step-{n:08d}", n) for n in bad}
    )
    removed = {item.seq for item in gone}
    stay = [item.seq for item in all_of_them if item.seq not in removed]
    usable = [item.seq for item in all_of_them if item.seq in known - bad]
    assert not removed & bad and not any(item.pinned for item in gone)
    alive = [step for step in best if step in {item.step for item in all_of_them} - bad]
    assert not alive or alive[-1] not in removed
    if keep is None or len(usable) < keep:
        assert not removed
    else:
        assert set(usable[:keep]) <= set(stay)
        protected = {item.seq for item in all_of_them if item.pinned} | bad | set(alive[-1:])
        assert all(seq in protected for seq in stay if seq < usable[keep - 1])


@settings(max_examples=12, deadline=None)
@given(script=st.lists(st.sampled_from(["save", "best", "pin", "restart", "damage"]), min_size=4, max_size=10))
def test_any_history_keeps_enough(script: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """I1, I2 and I4 over random histories of saves, restarts and damage to the newest."""
    folder = RunFolder.create(tmp_path_factory.mktemp("history"), "toy")
    saver, step = checkpointer(folder, keep=2), 1
    save(saver, step, wait=True)
    committed = 1
    for action in script:
        before = len(good(folder))
        if action == "restart":
            newest = max(good(folder))
            saver, toy, restored = resume(folder, keep=2)
            assert restored is not None and restored.seq == newest and toy.same_as(Toy(restored.step))
            step = restored.step
        elif action == "damage" and before > 1:
            newest_path = next(c.path for c in saver.candidates() if c.seq == max(good(folder)))
            os.truncate(newest_path / "state.json", 3)
            saver, toy, _ = resume(folder, keep=2)
            step = toy.step
        elif action != "damage":
            step, committed = step + 1, committed + 1
            extra: dict[str, Any] = {"save": {}, "best": {"best": {"value": 1.0}}, "pin": {"pin": True}}[action]
            save(saver, step, wait=True, **extra)
            assert len(good(folder)) >= min(2, before + 1)
    assert len(good(folder)) >= 1
