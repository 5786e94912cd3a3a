import math

import pytest

from llmtrain.recipe.scalars import is_grouped, parse, trap


@pytest.mark.parametrize(
    ("text", "value"),
    [("", None), ("~", None), ("null", None), ("true", True), ("FALSE", False), ("1", 1), ("-3", -3), ("+4", 4),
     ("0", 0), ("1e-4", 1e-4), ("2E5", 2e5), ("1.", 1.0), (".5", 0.5), ("1e", "1e"), ("1.2.3", "1.2.3"), ("a", "a"),
     ("2024-01-01", "2024-01-01"), ("nulls", "nulls"), ("9" * 500, "9" * 500)],
)  # fmt: skip
def test_parse(text: str, value: object) -> None:
    assert (type(parse(text)), parse(text)) == (type(value), value)


def test_special_numbers() -> None:
    assert parse("-.inf") == -math.inf
    assert math.isnan(float(str(parse(".nan"))))


@pytest.mark.parametrize(
    ("text", "reads"),
    [("off", "false"), ("No", "false"), ("ON", "true"), ("yes", "true"), ("010", "8"), ("-017", "-15"), ("00", "0"),
     ("0x1F", "31"), ("0b11", "3"), ("1_000", "1000"), ("12:30:45", "45045"), ("-1:30", "-90"), ("1:30.5", "90.5")],
)  # fmt: skip
def test_trap(text: str, reads: str) -> None:
    assert trap(text) == reads


@pytest.mark.parametrize("text", ["oFF", "offs", "y", "n", "0", "10", "1e-4", "a_b", "12:99", "1:2:x", "cuda:1", "_1"])
def test_harmless_words(text: str) -> None:
    assert trap(text) is None


def test_grouped() -> None:
    assert is_grouped("1_000_000")
    assert not is_grouped("1_00")
    assert not is_grouped("0_000")
