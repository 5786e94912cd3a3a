"""Baselines of the demo's built-in text: what counting words gives, beside what the model gives."""

from collections.abc import Mapping

from llmtrain.recipe.schema import Recipe
from llmtrain.run.assembly import Material, cache_folder
from llmtrain.scoring.ngram import baselines as count


def baselines(recipe: Recipe, material: Material) -> Mapping[str, Mapping[str, float]]:
    """`1-gram` and `3-gram` on the held-out rows, for built-in text only; {} otherwise."""
    builtin = bool(recipe.data.train) and all(source.path.startswith("builtin:") for source in recipe.data.train)
    held = material.prepared.evals.get("")
    if not builtin or held is None or not len(held):
        return {}
    return count(material.prepared.train, held, material.vocabulary.tokenizer, cache=cache_folder())
