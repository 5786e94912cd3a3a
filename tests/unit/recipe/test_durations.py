import pytest

from llmtrain.recipe.durations import Every, parse_cadence, parse_duration


@pytest.mark.parametrize(
    ("value", "every"),
    [(100, Every(kind="steps", value=100)), (1, Every(kind="steps", value=1)), (0.1, Every(kind="share", value=0.1)),
     ("1 epoch", Every(kind="epochs", value=1)), ("0.5 epochs", Every(kind="epochs", value=0.5)),
     ("10 min", Every(kind="seconds", value=600)), ("2h", Every(kind="seconds", value=7200)),
     ("90 S", Every(kind="seconds", value=90)), ("20 steps", Every(kind="steps", value=20)),
     (None, Every(kind="never")), (200.0, Every(kind="steps", value=200))],
)  # fmt: skip
def test_cadence(value: float | str | None, every: Every) -> None:
    assert parse_cadence(value) == every


@pytest.mark.parametrize(
    "value", [0, -1, 1.5, True, float("nan"), float("inf"), "", "epoch", "1", "1 day", "-1 epoch", "0 min", "best",
              "1.5 steps", "1e3 s"],
)  # fmt: skip
def test_malformed_cadence(value: float | str) -> None:
    with pytest.raises(ValueError, match="is no "):
        parse_cadence(value)


def test_best_only_where_it_means_something() -> None:
    assert parse_cadence("best", best=True) == Every(kind="best")


def test_duration() -> None:
    assert [parse_duration(text) for text in ("90 s", "10 min", "1.5 h")] == [90, 600, 5400]
    for text in ("1 epoch", "10", "0 s", "ten min"):
        with pytest.raises(ValueError, match="is no "):
            parse_duration(text)
