"""Messages: one line each, a caret under the true columns, nothing that steers a terminal."""

import re

import pytest

from llmtrain.errors import REGISTRY, Exit, Failure, Place, Problem, escape, fail, quoted, render


def test_ids_have_codes_of_the_closed_table() -> None:
    assert all(re.fullmatch(r"E-[A-Z]+-\d{3}", id) for id in REGISTRY)
    assert all(code in Exit and code is not Exit.OK for code, _ in REGISTRY.values())


def test_an_unknown_id_is_a_fault_of_the_program() -> None:
    with pytest.raises(AssertionError, match="E-NONE-001"):
        Problem(id="E-NONE-001", message="x")


def test_the_first_problem_gives_the_exit_code() -> None:
    both = Failure(Problem(id="E-CKPT-004", message="a"), Problem(id="E-RECIPE-001", message="b"))
    assert (both.exit_code, str(both)) == (Exit.NO_CHECKPOINT, "a")


def test_the_caret_stands_under_the_key() -> None:
    place = Place(file="r.yaml", line=8, column=3, text="  learning_rat: 2e-4", width=12)
    shown = render(
        Problem(id="E-RECIPE-001", message="unknown key", place=place, key="optimizer.learning_rat", hint="lr")
    )
    assert shown.splitlines() == [
        "error: r.yaml:8:3: optimizer.learning_rat: unknown key [E-RECIPE-001]",
        "   8 |   learning_rat: 2e-4",
        "     |   ^^^^^^^^^^^^",
        "hint: lr",
    ]


def test_of_a_long_line_the_part_around_the_column_is_shown() -> None:
    place = Place(file="d.jsonl", line=1, column=500, text="x" * 499 + "Y" + "z" * 500)
    _, excerpt, caret = render(Problem(id="E-DATA-001", message="bad", place=place)).splitlines()
    assert len(excerpt) < 170
    assert excerpt[caret.index("^")] == "Y"


def test_data_cannot_steer_a_terminal() -> None:
    shown = render(fail("E-DATA-001", "a\x1b[31m\rb", file="f\x07", key="k\n", hint="\u202ex").problems[0])
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", shown)
    assert escape("häß 中") == "häß 中"


def test_values_are_cut_and_quoted() -> None:
    assert quoted("a" * 80) == '"' + "a" * 59 + '…"'
    assert quoted(12) == "12"
