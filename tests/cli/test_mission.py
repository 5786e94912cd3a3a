"""Rows of the list of promises, each with its own command; the number of the row is in the test's name."""

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmtrain.engine import checkpoint_plan
from llmtrain.record import checkpoints, metrics
from llmtrain.record.folder import RunFolder
from tests.tiny import RECIPE, Tool, digest, lines, losses, tensors, until, write_recipe

LEARNING = ("budget.steps=60", "optimizer.lr=1e-2", "model.config.attention_dropout=0.0")
QUICK = ("budget.steps=5", "evaluate.every=null", "checkpoint.every=null")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe; each test's runs have their own names."""
    folder = tmp_path_factory.mktemp("mission")
    write_recipe(folder)
    return folder


@pytest.fixture(scope="module")
def learned(tool: Tool, place: Path) -> RunFolder:
    return tool.train(place, *LEARNING, "log.to=[jsonl,tensorboard]", name="learned")


def step_lines(folder: RunFolder) -> list[dict[str, Any]]:
    return list(metrics.read(folder.metrics, "step"))


def evaluations(folder: RunFolder) -> list[int]:
    return [line["step"] for line in metrics.read(folder.metrics, "eval")]


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    """The newest good checkpoint's weights."""
    newest = max((v.candidate for v in checkpoints.verify_run(folder) if v.good), key=lambda c: c.seq)
    assert newest.manifest is not None
    return checkpoint_plan.load_full(newest.path, newest.manifest, lambda name: name.startswith("weights/"))


def test_row_01_it_learns_and_leaves_what_it_says(learned: RunFolder) -> None:
    found = losses(learned)
    assert sum(found[-10:]) < 0.7 * sum(found[:10])
    for path in (learned.result, learned.metrics, learned.resolved, learned.recipe, learned.path / "run.json"):
        assert path.stat().st_size > 0
    assert learned.status()["state"] == "done" and list(learned.tensorboard.glob("events*"))
    model = AutoModelForCausalLM.from_pretrained(learned.model)
    saved = weights(learned)
    assert all(torch.equal(parameter, saved[f"weights/{name}"]) for name, parameter in model.named_parameters())
    assert {key for line in step_lines(learned) for key in line} >= {"loss", "lr", "grad_norm", "tokens", "epoch"}


def test_row_01_transformers_gives_the_loss_of_the_last_evaluation(tool: Tool, place: Path, learned: RunFolder) -> None:
    """The model as a user of transformers opens it, on the held-out rows as the tool reports them."""
    said = tool("evaluate", "--run", "learned", "--json", cwd=place).stdout.read_text()
    last = list(metrics.read(learned.metrics, "eval"))[-1]
    assert json.loads(said)["eval_loss"] == pytest.approx(last["eval_loss"], abs=1e-6)


@pytest.mark.parametrize("size", [1, 3])
def test_row_03_evaluate_gives_the_numbers_of_training(tool: Tool, place: Path, learned: RunFolder, size: int) -> None:
    words = ("evaluate", "--run", "learned", "--json", f"evaluate.batch_size={size}")
    found = json.loads(tool(*words, cwd=place).stdout.read_text())
    last = list(metrics.read(learned.metrics, "eval"))[-1]
    assert last["step"] == 60
    for name in ("eval_loss", "eval_perplexity", "eval_bits_per_byte", "eval_tokens"):
        assert found[name] == pytest.approx(last[name], rel=1e-6)
    assert found["eval_perplexity"] == pytest.approx(math.exp(found["eval_loss"]), rel=1e-9)
    assert found["seconds"] > 0 and found["samples_per_second"] > 0


def test_row_03_evaluate_of_a_checkpoint(tool: Tool, place: Path, learned: RunFolder) -> None:
    [step] = {c.candidate.step for c in checkpoints.verify_run(learned)} & set(evaluations(learned)) - {60} or {60}
    found = json.loads(tool("evaluate", "--run", f"learned@{step}", "--json", cwd=place).stdout.read_text())
    [line] = [line for line in metrics.read(learned.metrics, "eval") if line["step"] == step]
    assert found["eval_loss"] == pytest.approx(line["eval_loss"], abs=1e-6)


def test_row_04_predict(tool: Tool, place: Path, learned: RunFolder) -> None:
    words = ("--run", "learned", "predict.max_new_tokens=12")
    run = tool("predict", "alpha beta", *words, cwd=place)
    text = run.stdout.read_text()
    assert text.strip() and "llmtrain" not in text and "loss" not in text
    assert tool("predict", "alpha beta", *words, cwd=place).stdout.read_text() == text
    [found] = json.loads(tool("predict", "alpha beta", *words, "--json", cwd=place).stdout.read_text())["results"]
    assert found["prompt"] == "alpha beta" and found["text"].strip() in text
    prompts = ["alpha", "beta gamma", "the kappa of and to", "delta", "of"]
    (place / "five.txt").write_text("\n".join(prompts) + "\n")
    written = []
    for size in (1, 3, 5):
        output = place / f"o{size}.jsonl"
        batch = (f"predict.batch_size={size}", "--input", "five.txt", "--output", output.name)
        tool("predict", *words, *batch, cwd=place)
        written.append([json.loads(line) for line in output.read_text().splitlines()])
    assert [item["prompt"] for item in written[0]] == prompts
    assert written[0] == written[1] == written[2]


def test_row_06_layers(tool: Tool, place: Path) -> None:
    (place / "base1.yaml").write_text("optimizer: {lr: 1e-5, eps: 1e-6, weight_decay: 0.3}\n")
    (place / "base2.yaml").write_text("optimizer: {lr: 2e-5, weight_decay: 0.2}\n")
    (place / "layered.yaml").write_text("extends: [base1.yaml, base2.yaml]\n" + RECIPE)
    (place / "x.yaml").write_text("optimizer: {lr: 5e-5, betas: [0.8, 0.9]}\n")
    words = ("layered.yaml", "optimizer.lr=1e-4", "--config", "x.yaml")
    shown = tool("check", *words, "--lr", "2e-4", "--origin", cwd=place)
    text = shown.stdout.read_text() + shown.stderr.read_text()
    found = {name: next(line for line in text.splitlines() if line.strip().startswith(name)) for name in
             ("lr:", "eps:", "weight_decay:", "betas:")}  # fmt: skip
    assert "0.0002" in found["lr:"] and "--lr" in found["lr:"]
    assert "x.yaml" in found["betas:"] and "base1.yaml" in found["eps:"]
    assert "0.2" in found["weight_decay:"] and "base2.yaml" in found["weight_decay:"]
    without = tool("check", *words, "--origin", cwd=place)
    [line] = [line for line in without.stdout.read_text().splitlines() if line.strip().startswith("lr:")]
    assert "0.0001" in line


def test_row_07_an_unknown_key(place: Path) -> None:
    code = (
        "import sys\nfrom llmtrain.cli.app import main\ncode = main(['train', 't.yaml', 'budget.epochss=1'])\n"
        "assert 'torch' not in sys.modules\nsys.exit(code)"
    )
    before = set(place.iterdir())
    path = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2 and "budget.epochss" in done.stderr and "budget.epochs" in done.stderr.split("hint")[1]
    assert set(place.iterdir()) == before


def test_row_10_the_cut_of_a_batch(tool: Tool, place: Path) -> None:
    words = (*QUICK, "batch.global_size=8", "data.packing=false", "model.config.attention_dropout=0.0")
    one = tool.train(place, *words, "batch.micro_size=8", name="micro8")
    two = tool.train(place, *words, "batch.micro_size=2", name="micro2")
    assert losses(one) == pytest.approx(losses(two), abs=1e-5)
    first, second = weights(one), weights(two)
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-5
    assert len({line["tokens"] for line in step_lines(one)}) == 5


def test_row_11_the_same_twice_and_another_seed(tool: Tool, place: Path) -> None:
    one, two = (tool.train(place, *QUICK, name=name) for name in ("same1", "same2"))
    assert digest(one) == digest(two)
    other = tool.train(place, *QUICK, "run.seed=4", name="other")
    assert losses(other)[0] != losses(one)[0] and lines(other) != lines(one)


def test_row_12_killed_at_step_13_and_resumed(tool: Tool, place: Path) -> None:
    words = ("checkpoint.every=10", "evaluate.every=null", "log.every=1", "model.config.num_hidden_layers=4")
    whole = tool.train(place, *words, name="whole12")
    run = tool.start(["train", "t.yaml", "run.dir=killed12", *words], place)
    assert until(lambda: "step 13/20 " in run.stderr.read_text(), run)
    run.kill(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    folder = tool.train(place, *words, "--resume", "auto", name="killed12")
    assert [line["step"] for line in step_lines(folder)] == list(range(1, 21))
    assert digest(folder) == digest(whole)


def test_row_15_logged_rates_are_the_closed_forms(tool: Tool, place: Path) -> None:
    def cosine(p: float) -> float:
        return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * p))

    forms: dict[str, Callable[[float], float]] = {
        "linear": lambda p: 1 - p, "cosine": cosine, "constant_with_warmup": lambda p: 1.0,
    }  # fmt: skip
    for number, (name, warmup) in enumerate([("linear", 3), ("cosine", 0.1), ("constant_with_warmup", 3)]):
        words = (f"schedule.name={name}", f"schedule.warmup={warmup}", "optimizer.lr=2e-3", "checkpoint.every=null")
        folder = tool.train(place, *words, "evaluate.every=null", name=f"rates{number}")
        warm = 3 if warmup == 3 else 2
        expected = [2e-3 * ((t + 1) / warm if t < warm else forms[name]((t - warm) / (20 - warm))) for t in range(20)]
        assert [line["lr"] for line in step_lines(folder)] == pytest.approx(expected, abs=1e-12, rel=0)


@pytest.mark.parametrize(
    ("budget", "steps"), [(("budget.steps=7", "budget.epochs=3"), 7), (("budget.steps=99", "budget.epochs=1"), None),
                          (("budget.steps=null", "budget.epochs=0.5"), None)],
)  # fmt: skip
def test_row_16_the_first_budget_ends_the_run(
    tool: Tool, place: Path, budget: tuple[str, str], steps: int | None
) -> None:
    name = "budget" + budget[1][-3:]
    folder = tool.train(place, *budget, "evaluate.every=null", "checkpoint.every=null", name=name)
    ledger = json.loads(folder.result.read_text())
    found = step_lines(folder)
    epoch = math.ceil(_rows(folder) / 4)
    expected = steps or (epoch if budget[1].endswith("=1") else math.ceil(epoch / 2))
    assert len(found) == expected == ledger["steps"] == ledger["total_steps"]
    if budget[1].endswith("=1"):
        assert found[-1]["samples"] == _rows(folder)


def _rows(folder: RunFolder) -> int:
    """Training rows of an epoch, as the run's log of its first rank's screen tells."""
    text = next((folder.path.parent / "output").glob("*.err")).read_text()
    return int(text.split(" train + ")[0].rsplit(maxsplit=1)[-1])


def test_row_17_groups_are_shown_with_their_sizes(tool: Tool, place: Path) -> None:
    words = ("train", "t.yaml", "run.dir=groups", *QUICK, "optimizer.decay_embeddings=false")
    said = tool(*words, cwd=place).stderr.read_text()
    [line] = [line for line in said.splitlines() if line.startswith("  budget")]
    model = AutoModelForCausalLM.from_pretrained(place / "groups" / "model")
    vectors = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    assert f"norms and biases {vectors} decay 0" in line
    assert "embeddings 9.60 k decay 0," in line and "matrices" in line and "decay 0.1" in line


def test_row_18_the_logged_norm_is_the_one_before_clipping(tool: Tool, place: Path) -> None:
    """With plain SGD at rate 1 the first update is the applied gradient."""
    words = ("optimizer.name=sgd", "optimizer.lr=1.0", "budget.steps=1", "schedule.name=constant", "schedule.warmup=0")
    still = (
        "optimizer.name=sgd",
        "optimizer.lr=1e-12",
        "budget.steps=1",
        "schedule.name=constant",
        "schedule.warmup=0",
    )
    start = weights(tool.train(place, *still, "evaluate.every=null", name="still"))
    norms, logged = [], []
    for limit in (0.1, 0):
        folder = tool.train(
            place, *words, "evaluate.every=null", f"optimizer.max_grad_norm={limit}", name=f"clip{limit}"
        )
        after = weights(folder)
        norms.append(math.sqrt(sum(float((start[name] - after[name]).double().pow(2).sum()) for name in after)))
        logged.append(step_lines(folder)[0]["grad_norm"])
    assert norms[0] == pytest.approx(0.1, rel=1e-4) and norms[1] == pytest.approx(logged[1], rel=1e-4)
    assert logged[0] == logged[1] > 0.5


@pytest.mark.parametrize(("steps", "expected"), [(20, [5, 10, 15, 20]), (7, [1, 2, 3, 4, 5, 6, 7])])
def test_row_19_evaluate_at_least_so_often(tool: Tool, place: Path, steps: int, expected: list[int]) -> None:
    words = (f"budget.steps={steps}", "evaluate.every=100", "evaluate.min_times=4", "checkpoint.every=null")
    assert evaluations(tool.train(place, *words, name=f"often{steps}")) == expected


def test_row_21_never_more_than_keep_and_the_best(tool: Tool, place: Path) -> None:
    words = ("checkpoint.every=2", "checkpoint.keep=2", "evaluate.every=3", "model.config.num_hidden_layers=4")
    run = tool.start(["train", "t.yaml", "run.dir=keep", *words], place)
    folder, most, announced = place / "keep" / "checkpoints", 0, 0
    while run.running():
        names = [path.name for path in folder.glob("step-*") if not path.name.endswith(".tmp")]
        # a prune follows each commit, so one more may be seen for a moment
        most = max(most, len(names))
        announced = max(announced, len(names))
        assert names or announced == 0
    assert run.wait() == 0 and most <= 4
    left = {
        verdict.candidate.step for verdict in checkpoints.verify_run(RunFolder.open(place / "keep")) if verdict.good
    }
    best = json.loads((place / "keep" / "result.json").read_text())["best"]["step"]
    assert left == {18, 20} | {best}


def test_row_23_formats(tool: Tool, place: Path) -> None:
    words = ("budget.steps=50", "optimizer.lr=5e-3", "evaluate.every=null", "checkpoint.every=null",
             "model.config.attention_dropout=0.0")  # fmt: skip
    exact = tool.train(place, *words, name="fp32")
    mixed = tool.train(place, *words, "precision.compute=bf16", name="mixed")
    low = tool.train(place, *words, "precision.compute=bf16", "precision.params=bf16", name="low")
    end = sum(losses(exact)[-5:])
    for folder in (mixed, low):
        assert sum(losses(folder)[-5:]) == pytest.approx(end, rel=0.02) and losses(folder) != losses(exact)
    assert {tensor.dtype for tensor in weights(mixed).values()} == {torch.float32}
    assert {tensor.dtype for tensor in weights(low).values()} == {torch.bfloat16}
    assert any(name.endswith("/master") for name in tensors(low)) and not any(
        "/master" in name for name in tensors(mixed)
    )
    opened = AutoModelForCausalLM.from_pretrained(low.model, dtype="auto")
    assert next(opened.parameters()).dtype == torch.bfloat16


FACTORY = '''\
"""A model whose output is not a number from the fifth training forward on."""
import torch
from torch import nn


class Spoiled(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.embed, self.head, self.calls = nn.Embedding(size, 8), nn.Linear(8, size), 0

    def forward(self, ids, positions):
        self.calls += self.training
        return self.head(self.embed(ids)) * (float("nan") if self.calls >= 9 else 1.0)


def build(config):
    return Spoiled(config["vocab_size"])
'''


@pytest.fixture(scope="module")
def spoiled(place: Path) -> Path:
    """A recipe whose model turns to NaN in its fifth step of two micro-batches."""
    (place / "spoiled_model.py").write_text(FACTORY)
    start, end = RECIPE.index("model:"), RECIPE.index("tokenizer:")
    text = RECIPE[:start] + "model: {factory: 'spoiled_model:build'}\nallow_code: true\n" + RECIPE[end:]
    path = place / "spoiled.yaml"
    path.write_text(text.replace("seq_len: 32", "seq_len: 32, packing: false"))
    return path


def test_row_27_a_number_that_is_none_stops_the_run(tool: Tool, place: Path, spoiled: Path) -> None:
    words = (
        "train",
        spoiled.name,
        "run.dir=nan",
        "checkpoint.every=2",
        "checkpoint.async=false",
        "evaluate.every=null",
    )
    run = tool(*words, cwd=place, code=3, env={"PYTHONPATH": str(place)})
    text = run.stderr.read_text()
    [line] = [line for line in text.splitlines() if line.startswith("error: ")]
    assert "step 5: loss is not finite (samples 16-19: text.jsonl row " in line and "step 4 is safe" in line
    folder = RunFolder.open(place / "nan")
    status = folder.status()
    assert status["state"] == "error" and status["exit_code"] == 3
    assert {v.candidate.step for v in checkpoints.verify_run(folder) if v.good} == {2, 4}
    assert [line["step"] for line in metrics.read(folder.metrics, "step")] == [1, 2, 3, 4]


def test_row_27_skipping_ends_after_max_skips(tool: Tool, place: Path, spoiled: Path) -> None:
    words = ("train", spoiled.name, "run.dir=skips", "run.nonfinite=skip", "run.max_skips=3", "evaluate.every=null")
    run = tool(*words, cwd=place, code=3, env={"PYTHONPATH": str(place)})
    assert "step 8: 3 updates in a row were skipped" in run.stderr.read_text()


def test_a_model_of_ones_own_is_shown_trained_and_kept(tool: Tool, place: Path, spoiled: Path) -> None:
    words = ("train", spoiled.name, "run.dir=own", "budget.steps=4")
    said = tool(*words, cwd=place, env={"PYTHONPATH": str(place)}).stderr.read_text()
    assert "  code     model.factory: spoiled_model:build\n" in said
    assert (place / "own" / "model" / "model.safetensors").is_file()


def test_row_14_more_steps_go_on_with_the_next_unseen_rows_and_restart_begins_anew(tool: Tool, place: Path) -> None:
    words = ("schedule.name=constant", "schedule.warmup=0", "evaluate.every=null", "checkpoint.every=null")
    whole = tool.train(place, *words, "budget.steps=12", name="whole14")
    for name, resume in (("next", "continue"), ("anew", "restart")):
        tool.train(place, *words, "budget.steps=9", name=name)
        folder = tool.train(place, *words, "budget.steps=12", f"data.resume={resume}", "--resume", "auto", name=name)
        found, expected = step_lines(folder), step_lines(whole)
        assert [line["step"] for line in found] == list(range(1, 13))
        same = [line["loss"] == other["loss"] for line, other in zip(found, expected, strict=True)]
        assert same == [True] * 9 + [resume == "continue"] * 3
        assert [line["epoch"] for line in found[9:]] == ([1] * 3 if resume == "continue" else [0] * 3)
