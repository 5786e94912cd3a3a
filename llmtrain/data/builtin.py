"""Real text that every Python brings along; separate because it is the one source without a file of the user's."""

import ast
import importlib
import os
import sysconfig
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from llmtrain.data.documents import Piece, cut
from llmtrain.errors import fail, quoted

BUILTINS = ("builtin:python-docs", "builtin:python-source")
_LEFT_OUT = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "lib2to3",
    "pydoc_data",
}
_SHORTEST = 64
"""Characters; shorter docstrings say too little to learn from."""


def builtin_files(path: str, *, key: str | None = None) -> list[Path]:
    """The standard library's files behind a builtin source, in a fixed order.

    Raises:
        Failure: no builtin has that name.
    """
    if path not in BUILTINS:
        known = " and ".join(BUILTINS)
        raise fail(
            "E-DATA-007",
            f"no builtin data is called {quoted(path)}",
            key=key,
            hint=f"there are {known}",
        )
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in _LEFT_OUT and not name.startswith("config-")]
        found.extend(Path(folder, name) for name in names if name.endswith(".py"))
    topics = [root / "pydoc_data" / "topics.py"] if path == "builtin:python-docs" else []
    return [*topics, *sorted(found, key=lambda file: file.relative_to(root).as_posix())]


def builtin_documents(path: str, files: list[Path]) -> Iterator[Piece]:
    """The language reference and docstrings, or the source texts, each as a document."""
    for row, text in enumerate(
        _docs(tuple(files)) if path == "builtin:python-docs" else _sources(files),
        start=1,
    ):
        yield from cut([text], file=path, row=row)


def _sources(files: list[Path]) -> Iterator[str]:
    for file in files:
        text = _read(file)
        if text.strip():
            yield text


@lru_cache(maxsize=1)
def _docs(files: tuple[Path, ...]) -> list[str]:
    """All texts, about 2 MB; kept, because a tokenizer's training and the tokenising both read them."""
    topics = importlib.import_module("pydoc_data.topics").topics
    found = [topics[name].strip() + "\n" for name in sorted(topics)]
    for file in files[1:]:
        found.extend(_docstrings(_read(file)))
    return found


def _docstrings(source: str) -> Iterator[str]:
    """A module's docstrings in the order they stand; code is parsed, never run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in _documented(tree):
        text = ast.get_docstring(node)
        if text and len(text) >= _SHORTEST:
            yield f"{_title(node)}{text}\n"


def _documented(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> Iterator[Any]:
    """The node and every class and function whose definition stands directly in it, at any depth."""
    yield node
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _documented(child)


def _title(node: ast.AST) -> str:
    match node:
        case ast.ClassDef(name=name):
            return f"class {name}\n\n"
        case ast.FunctionDef(name=name, args=args) | ast.AsyncFunctionDef(name=name, args=args):
            names = [argument.arg for argument in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
            return f"{name}({', '.join(names)})\n\n"
        case _:
            return ""


def _read(file: Path) -> str:
    data = file.read_bytes()
    try:
        return data.decode().replace("\r\n", "\n")
    except UnicodeDecodeError:
        return data.decode("latin-1").replace("\r\n", "\n")
