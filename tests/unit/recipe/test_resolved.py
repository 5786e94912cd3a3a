"""What is written back composes to the same recipe."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtrain.recipe.catalog import shipped
from llmtrain.recipe.compose import compose
from llmtrain.recipe.masking import is_secret_key, mask
from llmtrain.recipe.resolved import dump_original, write_resolved

BASE = ["model.name=m", "data.train=a.txt", "budget.steps=1"]


def round_trip(folder: Path, *overrides: str, recipe: str | None = None) -> str:
    composed = compose(recipe, overrides=overrides)
    text = write_resolved(composed)
    file = folder / "resolved.yaml"
    file.write_text(text, encoding="utf-8")
    again = compose(str(file), allow_code=True)
    assert again.recipe == composed.recipe
    assert again.tree == composed.tree
    return text


@pytest.mark.parametrize("name", [recipe.name for recipe in shipped()])
def test_shipped_recipes_survive(tmp_path: Path, name: str) -> None:
    text = round_trip(tmp_path, recipe=name)
    assert all("  # " in line or line.rstrip().endswith(":") for line in text.splitlines())


def test_odd_values_survive(tmp_path: Path) -> None:
    round_trip(
        tmp_path, *BASE, "run.name=off", "run.root= spaces ", 'run.dir=quote " and # hash: x', "predict.input=null ",
        'predict.stop=["\\n", "1_000", "off", "", "~", "a: b", "- x", "\\u0085", "\\U0001F600", "*a", "&b", "<<"]',
        "data.train=[{path: x, columns: {text: y, no: z, '1': w}}, {path: 'y z'}]", "data.eval=[b.txt]",
        "data.skip_steps=[[1, 2], [5, 5]]", "checkpoint.every=10 min", "checkpoint.async=false",
        "optimizer={name: sgd, lr: 1e-12, groups: [{match: 'a.*', lr: 0.1}, {}]}",
        "model.config={}", "model.init=random", "tests=[{metric: eval_loss, max: 3.2}]",
        "optimizer.lr=1e-3", "plugins=[json]", "speed.compile={backend: inductor, mode: default}",
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=20))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    if "${" in text or "\\" in text or text in ("null", "Null", "NULL") or any(0xD800 <= ord(c) < 0xE000 for c in text):
        return
    if text[:1] + text[-1:] in ("[]", "{}") or mask(text) != text:
        return
    round_trip(tmp_path_factory.mktemp("any"), *BASE, f"run.name={text}")


def test_interpolations_stay_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_A_TEST", "canary-4711")
    text = round_trip(tmp_path, *BASE, "run.name=${oc.env:SECRET_OF_A_TEST}", "run.root=runs/${run.seed}",
                      "data.train=[{path: '${oc.env:SECRET_OF_A_TEST}'}]", "predict.stop=['${run.root}']")  # fmt: skip
    assert "canary" not in text
    assert 'name: "${oc.env:SECRET_OF_A_TEST}"' in text


def test_secrets_are_masked(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "model: {name: m, config: {api_key: canary, nested: {hub_token: canary}, eos_token: kept}}\n"
        "data: {train: 'https://me:canary@host/x.txt'}\nbudget: {steps: 1}\n"
        "run: {name: hf_abcdefghijklmnopqrstuvwxyz}\n"
    )
    composed = compose(str(file), overrides=["model.init=random"])
    for text in (write_resolved(composed), dump_original(composed)):
        assert "canary" not in text
        assert "hf_abc" not in text
        assert "kept" in text
        (tmp_path / "again.yaml").write_text(text)
        compose(str(tmp_path / "again.yaml"), overrides=["model.init=random"])


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("token: abc", "token: <masked>"),
        ('"api_key": "a b"', '"api_key": <masked>'),
        ("WANDB_API_KEY=abc", "WANDB_API_KEY=<masked>"),
        ("password: ${oc.env:PW}", "password: ${oc.env:PW}"),
        ("password: null", "password: null"),
        ("max_new_tokens: 12", "max_new_tokens: 12"),
        ("tokenizer: x", "tokenizer: x"),
        ("eos_token: x", "eos_token: x"),
        ("s3://key:secret@bucket/x", "s3://<masked>@bucket/x"),
        ("https://host:80/x", "https://host:80/x"),
    ],
)
def test_mask(text: str, masked: str) -> None:
    assert mask(text) == masked


def test_secret_keys() -> None:
    assert all(is_secret_key(name) for name in ("token", "API_KEY", "hf_token", "db_password", "client_secret"))
    assert not any(is_secret_key(name) for name in ("tokens", "pad_token", "tokenizer", "key", "secretary"))
