"""Random damage to valid recipes: refused with a place, or composed; never a traceback, never another meaning."""

import random
from pathlib import Path

import pytest

from llmtrain.errors import Exit, Failure, headline, render
from llmtrain.recipe.catalog import shipped
from llmtrain.recipe.compose import compose
from llmtrain.recipe.places import split_lines
from llmtrain.recipe.resolved import write_resolved

TOKENS = [
    ":", ": ", "- ", "{", "}", "[", "]", "'", '"', "#", "&a ", "*a ", "!x ", "|", ">", "\t", "\n", "  ", "null", "~",
    "true", "off", "010", "1e-4", ".nan", "-1", "99999999999999999999", "1e999", "${run.seed}", "${", "${oc.env:HOME}",
    "<<: ", "? ", "---\n", "\x00", "\u2028", "é", "\ufeff", "@", "%", "`", ",", "=",
]  # fmt: skip


def damaged(text: str, chance: random.Random) -> str:
    for _ in range(chance.randint(1, 3)):
        at, lines = chance.randrange(len(text) + 1), text.split("\n")
        kind, row = chance.randrange(6), chance.randrange(len(lines))
        if kind == 0:
            text = text[:at] + chance.choice(TOKENS) + text[at:]
        elif kind == 1:
            text = text[:at] + text[at + chance.randint(1, 5) :]
        elif kind == 2:
            text = "\n".join([*lines[:row], *lines[row + 1 :]])
        elif kind == 3:
            text = "\n".join([*lines[:row], lines[row], *lines[row:]])
        elif kind == 4:
            text = "\n".join([*lines[:row], " " * chance.randint(0, 4) + lines[row].lstrip(), *lines[row + 1 :]])
        else:
            words = text.split(" ")
            words[chance.randrange(len(words))] = chance.choice(TOKENS)
            text = " ".join(words)
    return text


def judge(failure: Failure, file: Path, text: str) -> None:
    assert failure.exit_code == Exit.INPUT
    for problem in failure.problems:
        line = headline(problem).replace(str(file.parent), "")
        assert len(line) <= 240, line
        assert line.isprintable(), line
        assert "\x1b" not in render(problem)
        if problem.place.line is not None and problem.place.file == str(file):
            assert problem.place.line <= len(split_lines(text.removeprefix("\ufeff")))


def survive(folder: Path, text: str) -> bool:
    """Whether the text composes; raises where its refusal is not a good one."""
    file = folder / "recipe.yaml"
    file.write_bytes(text.encode())
    try:
        composed = compose(str(file))
    except Failure as failure:
        judge(failure, file, text)
        return False
    again = folder / "again.yaml"
    again.write_text(write_resolved(composed), encoding="utf-8")
    assert compose(str(again)).recipe == composed.recipe
    return True


def run(folder: Path, count: int, seed: int) -> int:
    chance = random.Random(seed)
    texts = [recipe.file.read_text() for recipe in shipped()]
    return sum(survive(folder, damaged(chance.choice(texts), chance)) for _ in range(count))


def test_mutants(tmp_path: Path) -> None:
    assert 50 < run(tmp_path, 600, seed=1) < 500


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_many_mutants(tmp_path: Path, seed: int) -> None:
    run(tmp_path, 2000, seed=100 + seed)
