"""Composed recipes and messages as they were last looked at; LLMTRAIN_REGENERATE=1 writes them anew."""

import os
from pathlib import Path

import pytest

from llmtrain.errors import Failure, render
from llmtrain.recipe.catalog import shipped
from llmtrain.recipe.compose import compose
from llmtrain.recipe.resolved import write_resolved
from tests.recipes.corpus import MALFORMED

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "recipes"


def compare(name: str, text: str) -> None:
    file = GOLDEN / name
    if os.environ.get("LLMTRAIN_REGENERATE") == "1":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == text, f"{name} changed; look at it, then run with LLMTRAIN_REGENERATE=1"


@pytest.mark.parametrize("name", [recipe.name for recipe in shipped()])
def test_composed_recipes(name: str) -> None:
    compare(f"{name}.yaml", write_resolved(compose(name)))


def test_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown: dict[str, None] = {}
    for case in MALFORMED:
        Path("recipe.yaml").write_bytes(case.text if isinstance(case.text, bytes) else case.text.encode())
        with pytest.raises(Failure) as caught:
            compose("recipe.yaml", overrides=case.arguments)
        shown.update(dict.fromkeys(render(problem) for problem in caught.value.problems))
    compare("messages.txt", "\n\n".join(shown) + "\n")
