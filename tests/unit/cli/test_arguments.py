"""Words, settings, bare --resume and the request a verb receives."""

from pathlib import Path
from typing import Any

import pytest

from llmtrain.cli import app as program
from llmtrain.cli import arguments
from llmtrain.cli.arguments import Request, is_setting, rewrite_resume
from llmtrain.errors import Failure


@pytest.mark.parametrize(
    ("word", "setting"),
    [
        ("a.b=1", True), ("data.train[1].weight=5", True), ("lr=", True), ("run.name=a b", True), ("x='y=z'", True),
        ("~optimizer.betas", True), ("demo", False), ("./a=b.yaml", False), ("a/b=c.yaml", False), ("=3", False),
        ("~/recipe.yaml", False), ("-", False), ("", False), ("1=2", False),
    ],
)  # fmt: skip
def test_what_a_setting_is(word: str, setting: bool) -> None:
    assert is_setting(word) is setting


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("train demo --resume", "auto"),
        ("train --resume demo", "auto"),
        ("train --resume demo a.b=1", "auto"),
        ("train demo --resume a.b=1", "auto"),
        ("train demo --resume --json", "auto"),
        ("train demo --resume latest", "latest"),
        ("train --resume latest demo", "latest"),
        ("train demo --resume auto", "auto"),
        ("train --resume 261122-101112-demo demo", "261122-101112-demo"),
        ("train --resume runs/261122-101112-demo demo", "runs/261122-101112-demo"),
        ("train --resume x/checkpoints/step-00000003 demo", "x/checkpoints/step-00000003"),
        ("train demo --resume somewhere", "somewhere"),
        ("train demo --resume=here", "here"),
    ],
)
def test_resume_takes_a_run_and_nothing_else(typed: str, value: str) -> None:
    words = rewrite_resume(typed.split())
    given = next(
        word.partition("=")[2] or words[at + 1] for at, word in enumerate(words) if word.startswith("--resume")
    )
    assert given == value
    assert words[0] == "train"
    assert ("demo" in words) == ("demo" in typed.split())


def test_resume_finds_a_run_folder_by_its_record(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert rewrite_resume(["train", "--resume", str(tmp_path), "demo"])[1:3] == ["--resume", str(tmp_path)]


def test_what_stands_after_two_dashes_is_left_alone() -> None:
    assert rewrite_resume(["train", "--", "--resume", "x"]) == ["train", "--", "--resume", "x"]


def test_recipe_and_settings() -> None:
    request = Request(verb="train", words=["demo", "a.b=1", "~c"])
    assert request.recipe_and_settings(required=True) == ("demo", ["a.b=1", "~c"])
    assert Request(verb="x", words=["a=1"]).recipe_and_settings(required=False) == (None, ["a=1"])


@pytest.mark.parametrize(("words", "id"), [([], "E-CLI-001"), (["a=1"], "E-CLI-001"), (["a", "b"], "E-CLI-003")])
def test_words_that_do_not_fit(words: list[str], id: str) -> None:
    with pytest.raises(Failure) as caught:
        Request(verb="train", words=words).recipe_and_settings(required=True)
    assert caught.value.problems[0].id == id


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Requests that `train` would have received."""
    from llmtrain.cli import training

    seen: list[Request] = []
    monkeypatch.setitem(training.VERBS, "train", lambda request: seen.append(request) or 0)
    return seen


def test_every_option_reaches_the_request(requests: list[Request]) -> None:
    line = [
        "train",
        "demo",
        "a.b=x y=z",
        "--config",
        "one",
        "--config",
        "two",
        "--resume",
        "latest",
        "--out",
        "o",
        "--name",
        "n",
        "--nproc",
        "2",
        "--dry-run",
        "--debug",
        "--quiet",
        "--allow-code",
        "--allow-change",
        "k",
        "--verify",
        "sample",
        "--error-format",
        "json",
        "--json",
        "--model",
        "m",
        "--data",
        "d",
        "--lr",
        "1e-3",
        "--steps",
        "3",
        "--epochs",
        "2",
        "--seed",
        "0",
        "--batch-size",
        "8",
        "--max-length",
        "9",
    ]
    assert program.main(line) == 0
    expected: dict[str, Any] = {
        "verb": "train", "words": ["demo", "a.b=x y=z"], "config": ["one", "two"], "resume": "latest", "out": "o",
        "name": "n", "nproc": "2", "dry_run": True, "quiet": True, "allow_code": True,
        "allow_change": ["k"], "verify": "sample", "json": True, "line": tuple(line),
        "written": {
            "--out=run.dir": "o", "--name=run.name": "n", "--nproc=launch.nproc": "2", "--model=model.name": "m",
            "--data=data.train": "d", "--lr=optimizer.lr": "1e-3", "--steps=budget.steps": "3",
            "--epochs=budget.epochs": "2", "--seed=run.seed": "0", "--batch-size=batch.global_size": "8",
            "--max-length=data.seq_len": "9",
        },
    }  # fmt: skip
    assert requests == [Request(**expected)]


def test_values_keep_spaces_quotes_and_controls(requests: list[Request]) -> None:
    words = ["demo", "a= b ", "c='d'", 'e="f"', "g=", "h=\x1b[31m"]
    assert program.main(["train", *words, "--name", ""]) == 0
    assert requests[0].words == words
    assert requests[0].written == {"--name=run.name": ""}


def test_the_verbs_code_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmtrain.cli import training

    monkeypatch.setitem(training.VERBS, "train", lambda _: 75)
    assert program.main(["train", "demo"]) == 75


def test_each_shortcut_names_its_key_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for option, key in arguments.SHORTCUTS.items():
        line = next(line for line in text.splitlines() if line.strip().startswith(arguments.flag(option) + " "))
        assert line.endswith(f"Writes {key}.")


@pytest.mark.parametrize(
    "words",
    [
        ["train", "t.yaml", "--resume"],
        ["train", "t.yaml", "--resume", "auto"],
        ["train", "t.yaml", "--resume=runs/x"],
        ["train", "--resume", "latest", "t.yaml"],
    ],
)
def test_a_command_without_its_resume(words: list[str]) -> None:
    assert arguments.without_resume([*words, "budget.steps=3"]) == ["train", "t.yaml", "budget.steps=3"]
