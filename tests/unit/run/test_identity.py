"""What may differ at a resume: silent, told, or refused."""

from typing import Any

import pytest

from llmtrain.errors import Failure
from llmtrain.run.identity import compare, flatten

RECIPE: dict[str, Any] = {
    "run": {"seed": 1, "name": "a"}, "model": {"config": {"model_type": "llama", "layers": 2}},
    "data": {"train": [{"path": "a.txt"}], "seq_len": 32, "workers": 1}, "optimizer": {"name": "adamw", "lr": 1e-3},
    "batch": {"global_size": 8, "micro_size": 2}, "log": {"every": 10},
}  # fmt: skip


def identity(**changes: Any) -> dict[str, Any]:
    """An identity with keys of the recipe changed by their dotted names, or parts by theirs."""
    flat = flatten(RECIPE)
    parts: dict[str, Any] = {
        "data": "d", "tokenizer": "t", "layout": {"world": 1}, "versions": {"torch": "2"}, "threads": 1,
        "compute": "torch.float32", "device": "cpu",
    }  # fmt: skip
    for key, value in changes.items():
        name = key.replace("__", ".")
        if name in parts:
            parts[name] = value
        else:
            flat[name] = value
    return {"recipe": flat, **parts}


def test_the_same_run_has_nothing_to_say() -> None:
    assert compare(identity(), identity(), ()) == []


def test_flattening_keeps_lists_and_empty_sections() -> None:
    assert flatten({"a": {"b": [1], "c": {}}, "d": None}) == {"a.b": [1], "a.c": {}, "d": None}


@pytest.mark.parametrize("key", ["log__every", "run__name", "checkpoint__every", "evaluate__every"])
def test_what_touches_no_number_is_silent(key: str) -> None:
    assert compare(identity(), identity(**{key: "other"}), ()) == []


@pytest.mark.parametrize(("key", "value"), [("optimizer__lr", 2e-3), ("batch__micro_size", 4), ("data__workers", 2)])
def test_what_may_change_is_told_and_the_recipe_wins(key: str, value: Any) -> None:
    [line] = compare(identity(), identity(**{key: value}), ())
    name = key.replace("__", ".")
    assert line.startswith(f"{name}: checkpoint ") and line.endswith(f"-> recipe {value}")


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("run__seed", "run.seed"), ("model__config.layers", "model"), ("data__seq_len", "data.seq_len"),
        ("data__train", "data.train"), ("optimizer__name", "optimizer.name"), ("precision__compute", "precision"),
        ("batch__global_size", "batch.global_size"), ("data", "data"), ("tokenizer", "tokenizer"),
        ("objective__name", "objective.name"),
    ],
)  # fmt: skip
def test_what_makes_it_another_run_is_refused_unless_allowed(key: str, allowed: str) -> None:
    with pytest.raises(Failure) as failure:
        compare(identity(), identity(**{key: "other"}), ())
    [problem] = failure.value.problems
    assert problem.id == "E-RUN-007" and failure.value.exit_code == 2
    assert "--allow-change" in (problem.hint or "")
    compare(identity(), identity(**{key: "other"}), (allowed,))


def test_content_that_changed_under_the_same_names_is_refused_beside_another_change() -> None:
    """A harmless change of the recipe must not hide that the data is not the same any more."""
    with pytest.raises(Failure) as failure:
        compare(identity(), identity(optimizer__lr=2e-3, data="other"), ())
    assert "data" in failure.value.problems[0].message


def test_all_refusals_at_once() -> None:
    with pytest.raises(Failure) as failure:
        compare(identity(), identity(run__seed=2, batch__global_size=4), ())
    assert len(failure.value.problems) == 2


@pytest.mark.parametrize("key", ["layout", "versions", "threads", "compute", "device"])
def test_another_machine_is_one_line(key: str) -> None:
    [line] = compare(identity(), identity(**{key: "other"}), ())
    assert line.startswith(f"{key}: ") and "numbers may differ" in line
