"""A recipe that trains in a second, and what its run left: the fixture of every test that runs the whole tool."""

import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from llmtrain.engine import checkpoint_plan
from llmtrain.record import checkpoints, metrics
from llmtrain.record.folder import RunFolder
from tests.torture.zygote import Run, Zygote

WORDS = ["alpha", "beta", "gamma", "delta", "omega", "sigma", "kappa", "the", "of", "and", "to"]
RECIPE = """\
run: {name: tiny, seed: 3}
model:
  config:
    model_type: llama
    hidden_size: 32
    intermediate_size: 48
    num_hidden_layers: 2
    num_attention_heads: 2
    num_key_value_heads: 2
    max_position_embeddings: 128
    attention_dropout: 0.1
tokenizer: {train: {vocab_size: 300}}
data: {train: text.jsonl, seq_len: 32, eval: {fraction: 0.2}, workers: 1}
batch: {global_size: 4, micro_size: 2}
schedule: {warmup: 0.1}
budget: {steps: 20}
evaluate: {every: 7}
checkpoint: {every: 3}
precision: {compute: fp32}
speed: {threads: 1}
log: {to: [jsonl]}
"""
TIMES = (
    "time",
    "step_seconds",
    "tokens_per_second",
    "data_wait",
    "memory_gib",
    "eval_seconds",
)
"""Values that no two runs share."""


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    """The recipe and its data, 40 short documents of few words, in a folder."""
    chosen = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    documents = [" ".join(chosen.choice(WORDS) for _ in range(chosen.randint(5, 40))) for _ in range(40)]
    (folder / "text.jsonl").write_text("".join(f'{{"text": "{document}"}}\n' for document in documents))
    path = folder / "t.yaml"
    path.write_text(text)
    return path


class Tool:
    """The command line, run in forks of a warm process, with one cache."""

    def __init__(self, zygote: Zygote, cache: Path) -> None:
        self.zygote, self.cache = zygote, cache

    def start(
        self,
        words: Sequence[str],
        cwd: Path,
        env: Mapping[str, str | None] | None = None,
    ) -> Run:
        """Start a command in a folder."""
        logs = cwd / "output"
        logs.mkdir(parents=True, exist_ok=True)
        environment = {
            "LLMTRAIN_CACHE": str(self.cache),
            "OMP_NUM_THREADS": "1",
            **(env or {}),
        }
        return self.zygote.run(words, scratch=logs, cwd=cwd, env=environment)

    def __call__(
        self,
        *words: str,
        cwd: Path,
        code: int = 0,
        env: Mapping[str, str | None] | None = None,
    ) -> Run:
        """Run a command to its end; its exit code is checked."""
        run = self.start(words, cwd, env)
        found = run.wait()
        assert found == code, f"exit {found}, not {code}: {run.stderr.read_text()}"
        assert "Traceback" not in run.stderr.read_text()
        return run

    def train(self, folder: Path, *words: str, name: str = "run", code: int = 0) -> RunFolder:
        """Train the recipe of a folder into its subfolder `name`, to the end; the run."""
        self("train", "t.yaml", f"run.dir={name}", *words, cwd=folder, code=code)
        return RunFolder.open(folder / name)


def until(reached: Callable[[], bool], run: Run, timeout: float = 60.0) -> bool:
    """Wait until something holds; False when the run ended before."""
    deadline = time.monotonic() + timeout
    while not reached():
        if not run.running():
            return reached()
        if time.monotonic() > deadline:
            raise TimeoutError(run.stderr.read_text())
        time.sleep(0.002)
    return True


def training(run: Run) -> Callable[[], bool]:
    """Whether the header is on the screen: everything is built, the first step is next."""
    return lambda: "\n  out  " in run.stderr.read_text()


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def tensors(folder: RunFolder, step: int | None = None) -> dict[str, str]:
    """Name -> SHA-256 of each weight and optimizer tensor of a checkpoint, by default the newest good one."""
    found = [v.candidate for v in checkpoints.verify_run(folder) if v.good and step in (None, v.candidate.step)]
    newest = max(found, key=lambda candidate: candidate.seq)
    assert newest.manifest is not None
    whole = checkpoint_plan.load_full(newest.path, newest.manifest)
    return {
        name: hashlib.sha256(f"{tensor.dtype}{list(tensor.shape)}".encode() + _bytes(tensor)).hexdigest()
        for name, tensor in whole.items()
    }


def lines(folder: RunFolder, event: str | None = None) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl without their times, floats as exact text."""
    return [
        {key: value.hex() if isinstance(value, float) else value for key, value in line.items() if key not in TIMES}
        for line in metrics.read(folder.metrics, event)
    ]


def losses(folder: RunFolder) -> list[float]:
    """Training loss by step."""
    return [line["loss"] for line in metrics.read(folder.metrics, "step")]


def digest(folder: RunFolder) -> tuple[dict[str, str], list[dict[str, Any]], str]:
    """Everything a run may be judged by: tensors, every logged number, the final model's bytes."""
    model = hashlib.sha256((folder.model / "model.safetensors").read_bytes()).hexdigest()
    return tensors(folder), lines(folder), model
