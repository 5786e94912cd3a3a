"""A real pretrained model: our held-out loss is plain transformers' loss, from its folder and straight from its GGUF.

Needs a folder named by LLMTRAIN_MODELS that holds `SmolLM2-135M-Instruct/` and, for the second test, a `*.gguf` of it
anywhere below; skipped where it is absent.
"""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmtrain.cli.app import main

MODELS = Path(os.environ.get("LLMTRAIN_MODELS", "absent"))
FOLDER = MODELS / "SmolLM2-135M-Instruct"
GGUF = next(iter(sorted(MODELS.rglob("SmolLM2*.gguf"))), None) if MODELS.is_dir() else None
TEXT = "First the sea was calm. Then, slowly, the wind rose and every sail was taken in; nobody spoke.\n"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not FOLDER.is_dir(), reason="LLMTRAIN_MODELS names no folder with SmolLM2-135M-Instruct"),
]


def _documents() -> list[str]:
    return [f"{number}. {TEXT * (1 + number % 4)}" for number in range(12)]


def _recipe(folder: Path, model: Path) -> Path:
    rows = "".join(json.dumps({"text": text}) + "\n" for text in _documents())
    (folder / "held.jsonl").write_text(rows)
    (folder / "train.jsonl").write_text(json.dumps({"text": "something else"}) + "\n")
    recipe = folder / "r.yaml"
    recipe.write_text(
        f"model: {{name: {model}}}\n"
        f"data: {{train: [{folder}/train.jsonl], eval: [{{path: {folder}/held.jsonl}}], seq_len: 1024}}\n"
        "precision: {compute: fp32}\nbudget: {steps: 1}\n"
    )
    return recipe


def _ours(recipe: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    assert main(["evaluate", str(recipe), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def _plain(source: dict[str, str]) -> tuple[float, int]:
    """Token mean of each document on its own, with the end-of-text token, by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(source["name"], **source["extra"])
    model = AutoModelForCausalLM.from_pretrained(source["name"], dtype=torch.float32, **source["extra"])
    total, count = 0.0, 0
    for text in _documents():
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]])
        with torch.no_grad():
            loss = model(input_ids=ids, labels=ids).loss
        total += float(loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    return total / count, count


def test_held_out_loss_is_transformers_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = _ours(_recipe(tmp_path, FOLDER), capsys)
    plain, count = _plain({"name": str(FOLDER), "extra": {}})
    assert ours["eval_tokens"] == count
    assert math.isclose(ours["eval_loss"], plain, abs_tol=1e-4)


@pytest.mark.skipif(GGUF is None, reason="no SmolLM2*.gguf below LLMTRAIN_MODELS")
def test_held_out_loss_straight_from_gguf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert GGUF is not None
    ours = _ours(_recipe(tmp_path, GGUF), capsys)
    plain, count = _plain({"name": str(GGUF.parent), "extra": {"gguf_file": GGUF.name}})
    assert ours["eval_tokens"] == count
    assert math.isclose(ours["eval_loss"], plain, abs_tol=1e-4)
