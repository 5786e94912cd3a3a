"""Every shipped recipe does what it says, shrunk to seconds; one that nobody runs does not work."""

import json
from pathlib import Path

import pytest

from tests.tiny import Tool, write_recipe

ROOT = Path(__file__).parents[2] / "recipes"
SHIPPED = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix()
    for path in ROOT.rglob("*.yaml")
    if not any(part.startswith("_") for part in path.relative_to(ROOT).parts)
)
DATA = ("data.workers=1", "data.seq_len=32", "speed.threads=1", "precision.compute=fp32", "offline=true")
TRAIN = (
    "data.train=text.jsonl", "data.eval.fraction=0.2", "tokenizer.train.vocab_size=300", "batch.global_size=4",
    "budget.epochs=null", "budget.steps=4", "evaluate.every=2", "checkpoint.every=2", "run.dir=run", *DATA,
)  # fmt: skip
LLAMA = (
    "hidden_size=32",
    "intermediate_size=48",
    "num_hidden_layers=2",
    "num_attention_heads=2",
    "num_key_value_heads=2",
)
SMALLER: dict[str, tuple[str, ...]] = {
    "train/demo": (*TRAIN, *(f"model.config.{item}" for item in LLAMA), "evaluate.samples.every=2"),
    "train/llama-14m": (*TRAIN, *(f"model.config.{item}" for item in LLAMA)),
    "train/gpt2-124m": (*TRAIN, *(f"model.config.{item}" for item in ("n_embd=32", "n_layer=2", "n_head=2"))),
    "train/continue": (
        *(word for word in TRAIN if not word.startswith("tokenizer")), "model.name=tiny/model", "evaluate.every=0.5",
    ),
    "evaluate/loss": ("data.eval=[{path: text.jsonl}]", "model.name=tiny/model", *DATA),
    "predict/text": ("model.name=tiny/model", "predict.input=alpha beta", "predict.max_new_tokens=8"),
}  # fmt: skip


def test_every_shipped_recipe_is_here() -> None:
    assert len(SHIPPED) == 6 and set(SHIPPED) == set(SMALLER)


@pytest.fixture(scope="module")
def place(tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text and a tiny model."""
    folder = tmp_path_factory.mktemp("smoke")
    write_recipe(folder)
    tool.train(folder, "budget.steps=2", "evaluate.every=null", name="tiny")
    return folder


@pytest.mark.parametrize("name", SHIPPED)
def test_it_runs(tool: Tool, place: Path, name: str) -> None:
    recipe = (ROOT / f"{name}.yaml").as_posix()
    words = [word.replace("run.dir=run", f"run.dir={name.replace('/', '-')}") for word in SMALLER[name]]
    run = tool("run", recipe, *words, "--json", cwd=place)
    result = json.loads(run.stdout.read_text())
    folder = place / name.replace("/", "-")
    if name.startswith("train/"):
        assert result["steps"] == 4 and result["eval"]["eval_loss"] > 0
        assert (folder / "model" / "model.safetensors").is_file()
        assert (folder / "model" / "tokenizer.json").is_file()
    if name == "train/demo":
        assert (folder / "samples.jsonl").read_text().count("The for statement") == 2
    if name == "evaluate/loss":
        assert result["eval_loss"] > 0 and result["eval_tokens"] > 0
    if name == "predict/text":
        assert "alpha beta" in run.stdout.read_text()
