from llmtrain.recipe.catalog import find, shipped


def test_every_shipped_recipe_has_a_description_and_a_schema_line() -> None:
    for recipe in shipped(bases=True):
        assert len(recipe.description) > 20, recipe.name
        first = recipe.file.read_text().splitlines()[0]
        assert recipe.name.startswith("_") or first.startswith("# yaml-language-server: $schema=")


def test_found_by_short_and_by_full_name() -> None:
    for name in ("demo", "train/demo", "train/demo.yaml", "demo.yaml"):
        found = find(name)
        assert found is not None
        assert found.name == "train/demo"
    assert find("_base/optim/adamw") is not None
    assert find("adamw") is None
    assert find("../recipes/train/demo") is None


def test_bases_are_not_listed() -> None:
    assert {"train/demo", "train/continue", "evaluate/loss", "predict/text"} <= {recipe.name for recipe in shipped()}
    assert not any(recipe.name.startswith("_") for recipe in shipped())
