"""`predict`: where prompts come from, which model speaks, and how texts go out."""

import codecs
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtrain.cli import streams
from llmtrain.cli.arguments import MODEL, Request, is_setting
from llmtrain.errors import Failure, Place, Problem, fail, quoted

if TYPE_CHECKING:
    from llmtrain.recipe.compose import Composed

SUFFIXES = (".txt", ".jsonl")


def predict(request: Request, screen: Callable[..., Any]) -> int:
    """Continue the texts of the command line, of `--input`, or of the recipe."""
    from llmtrain.cli.training import compose_request

    texts, settings = split_words(request.words)
    texts = [sys.stdin.read() if text == "-" else text for text in texts]
    speaker = _speaker(request)
    typed = Request(**{**_fields(request), "words": settings})
    composed = compose_request(typed, "predict", required=False, settings=speaker)
    return predict_composed(request, composed, screen, texts)


def predict_composed(
    request: Request, composed: "Composed", screen: Callable[..., Any], texts: Sequence[str] = ()
) -> int:
    """Continue texts with a composed recipe; its `predict.input` counts when nothing else gives prompts."""
    if texts and request.input:
        raise fail("E-CLI-004", "TEXT and --input both give prompts; give one")
    prompts = list(texts) or _named_prompts(request.input, composed.recipe.predict.input)
    if not prompts:
        raise fail("E-CLI-001", "predict: no text", hint='llmtrain predict "Once upon a time"')
    if composed.recipe.launch.nproc not in ("auto", 1):
        raise fail("E-RECIPE-013", "predict runs in one process", key="launch.nproc", hint="leave launch.nproc out")
    if request.output:
        _check_output(Path(request.output))
    from llmtrain import run as runs
    from llmtrain.cli.training import options_of

    stream = len(prompts) == 1 and not request.json and request.output is None
    with screen(request, composed) as bus:
        results = runs.predict(composed, options_of(request), bus, prompts, _speak if stream else None)
    _show(request, results, streamed=stream)
    return 0


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Texts and settings: only a word that starts with a section of the recipe and has `=` is a setting."""
    from llmtrain.recipe.schema import Recipe

    sections = {item.name for item in fields(Recipe)}

    def setting(word: str) -> bool:
        path = word.lstrip("~").split("=", 1)[0]
        return is_setting(word) and path.split(".")[0].split("[")[0] in sections and " " not in path

    return [word for word in words if not setting(word)], [word for word in words if setting(word)]


def read_prompts(path: str) -> list[str]:
    """Prompts of a .txt file (one a line), a .jsonl file (`prompt`), or of stdin (`-`, one a line).

    Raises:
        Failure: E-FILE-001..004, E-DATA-001 and E-DATA-003 with their line, E-DATA-011 for another suffix.
    """
    if path == "-":
        return [line for line in sys.stdin.read().splitlines() if line]
    file = Path(path)
    if file.suffix not in SUFFIXES:
        raise fail("E-DATA-011", "prompts are read from .txt (one a line) or .jsonl", file=path)
    text = _read_text(file)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if file.suffix == ".txt":
        return [line.rstrip("\r") for _, line in lines]
    return [_json_prompt(path, number, line) for number, line in lines]


def write_results(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Results as JSON lines, all or nothing.

    Raises:
        Failure: E-IO-002, the file cannot be written.
    """
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as handle:
            partial = Path(handle.name)
            try:
                for item in results:
                    handle.write(json.dumps(item, ensure_ascii=False) + "\n")
                handle.flush()
                os.fsync(handle.fileno())
                partial.replace(path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise fail("E-IO-002", f"cannot write: {error.strerror}", file=str(path)) from error


def _speaker(request: Request) -> list[str]:
    if request.run and MODEL in request.written:
        raise fail("E-CLI-004", "--run and --model both name a model; give one")
    if MODEL in request.written or any(word.startswith("model.") for word in request.words):
        return []
    from llmtrain.record import index

    if request.run:
        folder = index.resolve(request.run, Path("runs"))
        name = run_name(request.run, folder.path)
    else:
        folder = index.latest(Path("runs"), finished=True)
        if folder is None:
            hint = "--run RUN or --model M says which model; `llmtrain train demo` makes one"
            raise fail("E-CLI-005", "no finished run under ./runs", hint=hint)
        name = str(folder.path)
    if not request.quiet:
        streams.say(f"run {folder.path}")
    return [f"model.name={name}"]


def run_name(text: str, folder: Path) -> str:
    """What `model.name` is for a run that was resolved to `folder`; `RUN@STEP` keeps its step."""
    step = "" if Path(text).exists() else text.rpartition("@")[2] if "@" in text else ""
    return f"{folder}@{step}" if step else str(folder)


def _named_prompts(option: str | None, key: str | list[str] | None) -> list[str]:
    if option is not None:
        return read_prompts(option)
    if isinstance(key, str):
        return read_prompts(key) if key.endswith(SUFFIXES) else [key]
    return list(key or [])


def _fields(request: Request) -> dict[str, Any]:
    return {item.name: request.__dict__[item.name] for item in fields(Request)}


def _speak(_: int, text: str) -> None:
    streams.result(text)


def _show(request: Request, results: Sequence[Mapping[str, Any]], *, streamed: bool) -> None:
    if request.output is not None:
        write_results(Path(request.output), results)
        if not request.quiet:
            streams.say(f"wrote {len(results)} results to {request.output}")
    if request.json:
        streams.result_json({"results": list(results)})
    elif streamed:
        streams.result("\n")
    elif request.output is None:
        streams.result("".join(f"{item['text']}\n" for item in results))


def _check_output(path: Path) -> None:
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise fail("E-FILE-005", "cannot be written: no such folder, or no permission", file=str(path))


def _read_text(file: Path) -> str:
    if not file.exists():
        raise fail("E-FILE-001", "file not found", file=str(file))
    if not file.is_file():
        raise fail("E-FILE-004", "not a regular file", file=str(file))
    try:
        data = file.read_bytes()
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except OSError as error:
        raise fail("E-FILE-002", f"cannot be read: {error.strerror}", file=str(file)) from error
    except UnicodeDecodeError as error:
        message = f"not UTF-8 (byte 0x{error.object[error.start]:02x} at offset {error.start})"
        raise fail("E-FILE-003", message, file=str(file), hint="save it as UTF-8") from error


def _json_prompt(path: str, number: int, line: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise fail("E-DATA-001", "not valid JSON", file=path, line=number) from error
    if not isinstance(row, dict) or "prompt" not in row:
        raise fail("E-DATA-003", "no column `prompt`", file=path, line=number)
    if not isinstance(row["prompt"], str):
        place = Place(file=path, line=number)
        message = f"{quoted(row['prompt'])} is not text"
        raise Failure(Problem(id="E-DATA-004", message=message, place=place, key="prompt"))
    return row["prompt"]
