"""Names of models: paths and hub ids stay, runs become folders, and a run without a model says what would work."""

from pathlib import Path

import pytest

from llmtrain.errors import Failure
from llmtrain.record.folder import RunFolder
from llmtrain.run import models


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder.create(tmp_path / "runs", "toy")
    folder.write_status(state="running", step=3)
    return folder


@pytest.mark.parametrize("name", ["org/model", "org/model@main", "somewhere", "a.gguf"])
def test_what_is_no_run_stays(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not models.is_run(name)
    assert models.resolve(name, tmp_path, str(tmp_path)) == name


def test_a_finished_run_is_its_model(run: RunFolder, tmp_path: Path) -> None:
    run.model.mkdir()
    (run.model / "tokenizer.json").touch()
    assert models.is_run(str(run.path))
    assert Path(models.resolve(str(run.path), tmp_path, str(tmp_path))) == run.model


def test_an_unfinished_run_says_how_to_finish_it(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        models.resolve(str(run.path), tmp_path, str(tmp_path))
    problem = caught.value.problems[0]
    assert (problem.id, problem.key) == ("E-MODEL-001", "model.name")
    assert problem.hint is not None and "--resume" in problem.hint


def test_a_step_that_was_never_saved_is_refused(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(Failure):
        models.resolve(f"{run.path}@7", tmp_path, str(tmp_path))


@pytest.mark.parametrize("word", ["latest", "id"])
def test_latest_and_ids_are_runs_under_the_root(word: str, run: RunFolder, tmp_path: Path) -> None:
    run.model.mkdir()
    (run.model / "tokenizer.json").touch()
    name = run.id if word == "id" else word
    assert Path(models.resolve(name, tmp_path, str(tmp_path / "runs"))) == run.model
