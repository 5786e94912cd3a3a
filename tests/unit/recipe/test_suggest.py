"""The tables of names must keep up with the schema."""

import pytest

from llmtrain.recipe import foreign
from llmtrain.recipe.layers import parse_key
from llmtrain.recipe.nodes import dotted
from llmtrain.recipe.suggest import nearest, unknown_choice
from llmtrain.recipe.types import all_keys, key_paths

SPELLED = [(name, target) for name, target in foreign.FOREIGN.items() if not target.startswith("--")]


@pytest.mark.parametrize(("name", "target"), SPELLED)
def test_foreign_names_lead_to_keys_that_exist(name: str, target: str) -> None:
    for choice in target.split(" or "):
        path = parse_key(choice.split(":")[0].split(" ")[0])
        assert path is not None, target
        assert dotted(part for part in path if isinstance(part, str)) in key_paths(), target


def test_no_table_contradicts_another() -> None:
    tables = [set(foreign.FOREIGN), set(foreign.REFUSED), set(foreign.LATER_FOREIGN)]
    for index, table in enumerate(tables):
        for other in tables[index + 1 :]:
            assert not table & other
    assert len(foreign.FOREIGN) >= 60


def test_later_keys_are_not_here_yet() -> None:
    assert not foreign.LATER & set(key_paths())
    for key, values in foreign.LATER_VALUES.items():
        assert key in key_paths(), key
        assert values


def test_nearest() -> None:
    assert nearest("learning_rat", ["lr", "learning_rate"]) == "learning_rate"
    assert nearest("LR", ["lr"]) == "lr"
    assert nearest("zzz", ["lr", "seed"]) is None


def test_choices() -> None:
    assert unknown_choice("bfloat16", ("bf16",), ("precision", "compute"))[1] == '"bfloat16" is written `bf16` here'
    assert unknown_choice("dpo", ("causal",), ("objective", "name"))[0] == "E-RECIPE-013"


def test_every_last_name_is_found() -> None:
    assert all_keys()["betas"] == ("optimizer.betas",)
    assert set(all_keys()["seed"]) == {"run.seed", "data.seed"}
