"""Prompts in, texts out; the model is a stand-in."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmtrain import run as runs
from llmtrain.cli.app import main
from llmtrain.cli.prompts import read_prompts, run_name, split_words, write_results
from llmtrain.errors import Failure


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Calls of `run.predict`; each prompt is continued by `!`."""
    seen: list[dict[str, Any]] = []

    def predict(
        composed: Any, options: Any, bus: Any, prompts: Sequence[str], speak: Callable[[int, str], None] | None
    ) -> list[dict[str, Any]]:
        seen.append({"model": composed.recipe.model.name, "recipe": composed.recipe, "prompts": list(prompts)})
        if speak is not None:
            speak(0, "wor")
            speak(0, "ld")
        return [{"prompt": text, "text": text + "!", "tokens": 2, "stopped": "length"} for text in prompts]

    monkeypatch.setattr(runs, "predict", predict)
    monkeypatch.chdir(tmp_path)
    return seen


def a_run(name: str, state: str = "done") -> Path:
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"id": name, "state": state, "started": float(name[:6])}))
    return folder


def test_one_prompt_streams_to_stdout(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    a_run("260101-000000-old")
    newest = a_run("260102-000000-new")
    a_run("260103-000000-broken", state="error")
    assert main(["predict", "hello"]) == 0
    assert capsys.readouterr() == ("world\n", f"run {newest}\n")
    assert calls[0]["prompts"] == ["hello"]
    assert calls[0]["model"] == str(newest)


def test_several_prompts_are_a_line_each(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "a", "b", "--model", "m", "predict.max_new_tokens=3", "--seed", "7"]) == 0
    assert capsys.readouterr() == ("a!\nb!\n", "")
    assert calls[0]["recipe"].predict.max_new_tokens == 3
    assert calls[0]["recipe"].run.seed == 7


def test_json_is_one_object(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "a", "--model", "m", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "results": [{"prompt": "a", "text": "a!", "tokens": 2, "stopped": "length"}]
    }


def test_stdin_is_a_prompt(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("two\nlines"))
    assert main(["predict", "-", "--model", "m"]) == 0
    assert calls[0]["prompts"] == ["two\nlines"]


def test_files_go_in_and_out(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.jsonl").write_text('{"prompt": "x"}\n\n{"prompt": "y", "id": 3}\n')
    assert main(["predict", "--input", "in.jsonl", "--output", "out.jsonl", "--model", "m"]) == 0
    assert [json.loads(line)["text"] for line in Path("out.jsonl").read_text().splitlines()] == ["x!", "y!"]
    assert capsys.readouterr() == ("", "wrote 2 results to out.jsonl\n")
    assert sorted(path.name for path in Path().iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize(
    ("line", "id"),
    [
        ("predict", "E-CLI-001"),
        ("predict hi", "E-CLI-005"),
        ("predict hi --run nope", "E-CLI-005"),
        ("predict hi --run a --model b", "E-CLI-004"),
        ("predict hi --input x.txt --model m", "E-CLI-004"),
        ("predict --input gone.txt --model m", "E-FILE-001"),
        ("predict --input x.csv --model m", "E-DATA-011"),
        ("predict hi --output no/where.jsonl --model m", "E-FILE-005"),
        ("predict hi --output . --model m", "E-FILE-005"),
        ("predict hi launch.nproc=2 --model m", "E-RECIPE-013"),
        ("predict hi predict.top_p=2 --model m", "E-RECIPE-005"),
        ("predict hi predict.topp=1 --model m", "E-CLI-002"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_starts(
    calls: list[Any], capsys: pytest.CaptureFixture[str], line: str, id: str
) -> None:
    if "--run" not in line and "--model" not in line and "hi" not in line:
        a_run("260101-000000-x")
    assert main([*line.split(), "--error-format", "json"]) == 2
    out, err = capsys.readouterr()
    errors = [json.loads(text) for text in err.splitlines() if text.startswith("{")]
    assert out == ""
    assert id in [error["id"] for error in errors]
    assert calls == []


def test_a_run_keeps_its_step(tmp_path: Path) -> None:
    assert run_name("latest", tmp_path) == str(tmp_path)
    assert run_name("260101@12", tmp_path) == f"{tmp_path}@12"
    odd = tmp_path / "a@b"
    odd.mkdir()
    assert run_name(str(odd), odd) == str(odd)


def test_texts_and_settings_are_told_apart() -> None:
    words = ["x=5", "predict.top_p=0.5", "run a=b", "~predict.stop", "run.seed=3", "seed=3", "hello"]
    assert split_words(words) == (
        ["x=5", "run a=b", "seed=3", "hello"],
        ["predict.top_p=0.5", "~predict.stop", "run.seed=3"],
    )


def test_text_files_give_a_prompt_a_line(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes("\ufeffone\r\n\r\n two \u2028x\n".encode())
    assert read_prompts(str(file)) == ["one", " two \u2028x"]


@pytest.mark.parametrize(
    ("name", "data", "id", "line"),
    [
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt"', "E-DATA-001", 2), ("p.jsonl", b'\n{"text": "a"}', "E-DATA-003", 2),
        ("p.jsonl", b"[1]", "E-DATA-003", 1), ("p.jsonl", b'{"prompt": 3}', "E-DATA-004", 1),
        ("p.txt", b"caf\xe9", "E-FILE-003", None), ("p.jsonl", b"[" * 100_000, "E-DATA-001", 1),
    ],
)  # fmt: skip
def test_broken_input_has_its_place(tmp_path: Path, name: str, data: bytes, id: str, line: int | None) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(Failure) as caught:
        read_prompts(str(file))
    problem = caught.value.problems[0]
    assert (problem.id, problem.place.file, problem.place.line) == (id, str(file), line)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    file.write_text("old")
    with pytest.raises(TypeError):
        write_results(file, [{"text": "new"}, {"text": object()}])
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
