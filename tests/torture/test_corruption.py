"""T6: damage of any kind to any file of the newest checkpoint is found and named, and the one before is used."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llmtrain.errors import Failure
from llmtrain.record import checkpoints, files
from llmtrain.record.folder import RunFolder
from tests.torture.training import Toy, checkpointer, copied, good, resume, train

FILES = ("manifest.json", "state.json", "weights-r0.safetensors", "optimizer-r0.safetensors")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = RunFolder.create(tmp_path_factory.mktemp("runs"), "toy")
    train(folder, checkpointer(folder, keep=3), 1, 3)
    return folder.path


def newest(folder: RunFolder) -> Path:
    return folder.checkpoints / "step-00000003"


def flip(number: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        bit = random.Random(f"{path.name} {number}").randrange(len(data) * 8)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)

    return damage


def cut(length: Callable[[int], int]) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, length(path.stat().st_size))


def zero(path: Path) -> None:
    data = path.read_bytes()
    middle = len(data) // 3
    path.write_bytes(data[:middle] + bytes(min(64, len(data) - middle)) + data[middle + 64 :])


def duplicate_key(path: Path) -> None:
    text = path.read_bytes()
    path.write_bytes(b'{"seq":9,' + text[1:] if path.suffix == ".json" else text + b"{}")


def to_link(path: Path) -> None:
    shutil.copy(path, path.parent.parent / f"elsewhere-{path.name}")
    path.unlink()
    path.symlink_to(path.parent.parent / f"elsewhere-{path.name}")


def to_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def stale(path: Path) -> None:
    shutil.copy(path.parent.parent / "step-00000002" / path.name, path)


DAMAGES: dict[str, Callable[[Path], None]] = {
    **{f"flip{number}": flip(number) for number in range(8)},
    "empty": cut(lambda _: 0), "one-byte": cut(lambda _: 1), "half": cut(lambda size: size // 2),
    "one-less": cut(lambda size: size - 1), "zeros": zero, "append": append, "stale": stale, "deleted": Path.unlink,
    "duplicate-key": duplicate_key, "link": to_link, "fifo": to_fifo, "folder": to_folder,
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_named_and_passed_over(name: str, damage: str, template: Path, tmp_path: Path) -> None:
    folder = copied(template, tmp_path / "run")
    DAMAGES[damage](newest(folder) / name)
    said: list[object] = []
    _, toy, restored = resume(folder, log=said)
    assert restored is not None and restored.step == 2 and toy.same_as(Toy(2))
    assert len(restored.rejected) == 1 and name in restored.rejected[0]
    assert any(name in str(line) and "using step 2 instead" in str(line) for line in said)
    assert name in (folder.logs / "resume.log").read_text()
    assert [v.good for v in checkpoints.verify_run(folder) if v.candidate.path == newest(folder)] == [False]


def test_swapped_shards_are_found(template: Path, tmp_path: Path) -> None:
    folder = copied(template, tmp_path / "run")
    one, other = newest(folder) / "weights-r0.safetensors", newest(folder) / "optimizer-r0.safetensors"
    one.rename(newest(folder) / "spare")
    other.rename(one)
    (newest(folder) / "spare").rename(other)
    assert 3 not in good(folder)


@pytest.mark.parametrize("key", ["seq", "step", "run", "files", "tensors", "identity", "tied", "parent_seq"])
def test_an_edited_manifest_is_found(key: str, template: Path, tmp_path: Path) -> None:
    """Edited plainly its own hash tells; sealed again the committed line does."""
    folder = copied(template, tmp_path / "run")
    manifest = json.loads((newest(folder) / "manifest.json").read_bytes())
    before = manifest[key]
    manifest[key] = 2 if isinstance(before, int) else {**before, "x": {}} if isinstance(before, dict) else "other"
    (newest(folder) / "manifest.json").write_bytes(files.canonical(manifest))
    assert 3 not in good(folder)
    (newest(folder) / "manifest.json").write_bytes(files.canonical(checkpoints.seal(manifest)))
    candidates = [c for c in checkpoints.list_checkpoints(folder) if c.path == newest(folder) and key != "seq"]
    assert all(not checkpoints.verify(candidate).good for candidate in candidates)


def test_unlisted_files_are_a_warning(template: Path, tmp_path: Path) -> None:
    folder = copied(template, tmp_path / "run")
    (newest(folder) / "note.txt").write_text("mine")
    said: list[object] = []
    _, _, restored = resume(folder, log=said)
    assert restored is not None and restored.step == 3 and restored.rejected == []
    assert any("note.txt" in str(line) for line in said)


def test_none_usable_is_never_step_zero(template: Path, tmp_path: Path) -> None:
    folder = copied(template, tmp_path / "run")
    for path in folder.checkpoints.glob("step-*/state.json"):
        path.write_bytes(b"{}")
    with pytest.raises(Failure, match=r"3 checkpoints, none verifies .* not starting from scratch") as caught:
        resume(folder)
    assert caught.value.exit_code == 4
    shutil.rmtree(folder.checkpoints)
    with pytest.raises(Failure, match="not starting from scratch"):
        resume(folder)
    reasons = [verdict.reasons for verdict in checkpoints.verify_run(folder)]
    assert reasons == [("folder is gone",)] * 3


def test_rejected_ones_stay_and_are_not_counted(template: Path, tmp_path: Path) -> None:
    folder = copied(template, tmp_path / "run")
    flip(0)(newest(folder) / "weights-r0.safetensors")
    saver, _, _ = resume(folder, keep=2)
    train(folder, saver, 3, 5)
    names = sorted(path.name for path in folder.checkpoints.glob("step-*"))
    assert names == ["step-00000003", "step-00000004", "step-00000005"]
    assert good(folder) == [6, 5]
    saver, toy, restored = resume(folder, keep=1)
    assert restored is not None and restored.seq == 6 and restored.rejected == [] and toy.same_as(Toy(5))
    train(folder, saver, 6, 6)
    assert sorted(path.name for path in folder.checkpoints.glob("step-*")) == ["step-00000003", "step-00000006"]


def test_a_step_saved_again_gets_its_own_folder(template: Path, tmp_path: Path) -> None:
    folder = copied(template, tmp_path / "run")
    flip(0)(newest(folder) / "weights-r0.safetensors")
    saver, _, _ = resume(folder, keep=2)
    train(folder, saver, 3, 3)
    assert (folder.checkpoints / "step-00000003.4").is_dir()
    assert good(folder) == [4, 2]
    _, toy, restored = resume(folder)
    assert restored is not None and restored.seq == 4 and toy.same_as(Toy(3))


def test_sample_says_less_but_finds_size_and_block(template: Path, tmp_path: Path) -> None:
    folder = copied(template, tmp_path / "run")
    flip(0)(newest(folder) / "state.json")
    (candidate,) = [c for c in checkpoints.list_checkpoints(folder) if c.path == newest(folder)]
    assert not checkpoints.verify(candidate, mode="sample").good
    toy = Toy()
    restored = checkpointer(folder).restore(toy, verify="sample")
    assert restored is not None and restored.step == 2


def test_only_the_named_checkpoint_or_none(template: Path, tmp_path: Path) -> None:
    folder = copied(template, tmp_path / "run")
    toy = Toy()
    restored = checkpointer(folder).restore(toy, only="step-00000001")
    assert restored is not None and toy.same_as(Toy(1))
    flip(0)(newest(folder) / "state.json")
    with pytest.raises(Failure, match=r"state\.json") as caught:
        checkpointer(folder).restore(Toy(), only=newest(folder).name)
    assert caught.value.exit_code == 4


def test_the_sequence_decides_not_the_step(template: Path, tmp_path: Path) -> None:
    """After going back, a lower step is the newer state."""
    folder = copied(template, tmp_path / "run")
    saver = checkpointer(folder, keep=None)
    restored = saver.restore(Toy(), only="step-00000001")
    assert restored is not None
    saver.save(Toy(2), step=2, wait=True, metrics_length=0)
    assert good(folder) == [4, 3, 2, 1] and (folder.checkpoints / "step-00000002.4").is_dir()
    _, toy, restored = resume(folder)
    assert restored is not None and restored.seq == 4 and toy.same_as(Toy(2))


def test_folders_of_another_run_are_not_candidates(template: Path, tmp_path: Path) -> None:
    folder, other = copied(template, tmp_path / "run"), RunFolder.create(tmp_path, "other")
    train(other, checkpointer(other), 1, 9)
    shutil.copytree(other.checkpoints / "step-00000009", folder.checkpoints / "step-00000009")
    _, _, restored = resume(folder)
    assert restored is not None and restored.step == 3


def test_shuffled_times_and_names_do_not_decide(template: Path, tmp_path: Path) -> None:
    folder = copied(template, tmp_path / "run")
    (folder.checkpoints / "latest").write_text("step-00000001\n")
    for age, name in enumerate(("step-00000003", "step-00000001", "step-00000002")):
        os.utime(folder.checkpoints / name, (1e9 + age, 1e9 + age))
    _, _, restored = resume(folder)
    assert restored is not None and restored.step == 3
