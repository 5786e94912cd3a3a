"""`predict`: where prompts come from, which model speaks, and how texts go out."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtrain.cli import streams
from llmtrain.cli.arguments import MODEL, Request, is_setting
from llmtrain.data.prompts import named_prompts, read_prompts
from llmtrain.errors import fail

if TYPE_CHECKING:
    from llmtrain.recipe.compose import Composed


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
    prompts = list(texts) or (
        read_prompts(request.input) if request.input is not None else named_prompts(composed.recipe.predict.input)
    )
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


def write_results(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Results as JSON lines, all or nothing.

    Raises:
        Failure: E-IO-002, the file cannot be written.
    """
    from llmtrain.record import files

    lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in results)
    try:
        files.write_atomic(path, lines.encode())
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
