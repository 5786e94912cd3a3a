"""The schema must accept what composing accepts."""

from typing import Any

import jsonschema
import pytest

from llmtrain.recipe.catalog import shipped
from llmtrain.recipe.interpolate import plain
from llmtrain.recipe.jsonschema import json_schema
from llmtrain.recipe.places import read_tree
from llmtrain.recipe.reference import key_reference
from llmtrain.recipe.types import key_paths

SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def read(text: str) -> Any:
    return plain(read_tree(text, "recipe.yaml"))


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"].endswith("2020-12/schema")


@pytest.mark.parametrize("name", [recipe.name for recipe in shipped(bases=True)])
def test_shipped_recipes_are_valid(name: str) -> None:
    recipe = next(recipe for recipe in shipped(bases=True) if recipe.name == name)
    assert list(VALIDATOR.iter_errors(read(recipe.file.read_text()))) == []


@pytest.mark.parametrize(
    "text",
    [
        "optimizer: muon\n", "optimizer: {lr: 1e-3}\n", "optimizer: {name: sgd, momentum: 0.9}\n",
        "run: {seed: '${oc.env:SEED}'}\n", "run:\n", "data: {train: a.txt}\n", "data: {train: [a, {path: b}]}\n",
        "data: {eval: [b]}\n", "checkpoint: {every: best, async: false}\n", "evaluate: {every: 10 min}\n",
        "log: {every: 1 epoch}\n", "run: {max_time: 2 h}\n", "batch: {micro_size: auto}\n", "run: {name: 12}\n",
        "speed: {compile: {backend: inductor}}\n", "optimizer: '${oc.env:OPTIMIZER}'\n",
    ],
)  # fmt: skip
def test_valid(text: str) -> None:
    assert list(VALIDATOR.iter_errors(read(text))) == []


@pytest.mark.parametrize(
    "text",
    [
        "optimizer: muom\n", "optimizer: {name: sgd, betas: [0.9, 0.95]}\n", "run: {sed: 1}\n", "run: {seed: fast}\n",
        "optimizer: {lr: -1}\n", "optimizer: {name: adamw, betas: [0.9]}\n", "evaluate: {every: best}\n",
        "log: {every: 10 parsecs}\n", "precision: {compute: bfloat16}\n", "lr: 1\n", "checkpoint: {async: 1}\n",
    ],
)  # fmt: skip
def test_invalid(text: str) -> None:
    assert list(VALIDATOR.iter_errors(read(text))) != []


@pytest.mark.parametrize("path", key_paths())
def test_every_key_has_a_meaning(path: str) -> None:
    entry = key_reference(path)
    assert len(entry.meaning) > 5, path
    assert entry.type


def test_reference_of_a_slots_key() -> None:
    entry = key_reference("optimizer.betas")
    assert entry.only_for == ("adamw", "lion", "muon")
    assert entry.default == [0.9, 0.95]
    assert key_reference("data.train[0].path").required
    assert key_reference("schedule.name").choices[0:1] != ()


def test_descriptions_are_the_texts_beneath_the_fields() -> None:
    assert SCHEMA["$defs"]["RunSection"]["properties"]["seed"]["description"] == "Every random number derives from it."
    assert SCHEMA["properties"]["optimizer"]["description"] == "How gradients become updates."
