"""Slots: built-ins are found, names are unique, options carry their limits."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import pytest

from llmtrain.errors import Failure
from llmtrain.recipe import slots
from llmtrain.recipe.slots import COMMON_KEYS, SLOT_BASES, ScheduleConfig, option, register, slot_table


@pytest.fixture
def schedules() -> Iterator[dict[str, type]]:
    table = slot_table("schedule")
    before = dict(table)
    yield table
    table.clear()
    table.update(before)


def test_what_comes_with_the_program_is_there() -> None:
    assert "causal" in slot_table("objective")
    assert {"adamw", "sgd", "adafactor", "lion", "muon", "custom"} <= set(slot_table("optimizer"))
    assert {"linear", "cosine", "cosine_with_min_lr", "constant", "polynomial", "wsd"} <= set(slot_table("schedule"))


@pytest.mark.parametrize("slot", SLOT_BASES)
def test_every_name_takes_the_keys_of_its_kind(slot: str) -> None:
    for config in slot_table(slot).values():
        assert issubclass(config, SLOT_BASES[slot])
        assert set(COMMON_KEYS[slot]) <= {field.name for field in fields(config)}


def test_a_second_claim_to_a_name_is_refused(schedules: dict[str, type]) -> None:
    taken = schedules["cosine"]

    @dataclass(frozen=True, kw_only=True)
    class Mine(ScheduleConfig):
        pass

    with pytest.raises(Failure, match="cosine"):
        register(ScheduleConfig, "cosine")(Mine)
    assert schedules["cosine"] is taken
    register(ScheduleConfig, "mine", "my_own")(Mine)
    assert slot_table("schedule")["my_own"] is Mine


def test_options_have_limits_and_fresh_defaults() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Config:
        rate: float = option(0.5, gt=0)
        names: list[str] = option(list)
        needed: int = option(ge=1)

    first, second = Config(needed=1), Config(needed=1)
    assert first.names is not second.names
    assert [dict(field.metadata) for field in fields(Config)] == [{"gt": 0}, {}, {"ge": 1}]
    with pytest.raises(TypeError):
        Config()  # type: ignore[call-arg]


def test_discovery_looks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    slot_table("optimizer")
    monkeypatch.setattr(slots.pkgutil, "iter_modules", lambda path: pytest.fail("looked again"))
    slot_table("optimizer")
