import pytest

from llmtrain.errors import Failure
from llmtrain.recipe.nodes import List, Map, Node, Scalar
from llmtrain.recipe.places import read_tree

TEXT = """\
# remark
run:
  name: "two words"   # why
data: {train: [a.txt, {path: b}]}
common: &c {x: 1, y: 2}
other:
  <<: *c
  y: 3
"""


def walk(node: Node) -> list[tuple[str, int, int, int]]:
    spot = node.spot
    if isinstance(node, Scalar):
        return [(node.text, spot.line or 0, spot.column, spot.width)]
    if isinstance(node, List):
        return [place for item in node.items for place in walk(item)]
    return [place for item in node.entries.values() for place in walk(item)]


def test_every_value_has_its_place() -> None:
    assert walk(read_tree(TEXT, "r.yaml")) == [
        ("two words", 3, 9, 11),
        ("a.txt", 4, 16, 5),
        ("b", 4, 30, 1),
        ("1", 5, 16, 1),
        ("2", 5, 22, 1),
        ("3", 8, 6, 1),
        ("1", 5, 16, 1),
    ]


def test_every_key_has_its_place() -> None:
    tree = read_tree(TEXT, "r.yaml")
    other = tree.entries["other"]
    assert isinstance(other, Map)
    assert {name: (spot.line, spot.column, spot.width) for name, spot in tree.keys.items()} == {
        "run": (2, 1, 3), "data": (4, 1, 4), "common": (5, 1, 6), "other": (6, 1, 5),
    }  # fmt: skip
    assert {name: spot.line for name, spot in other.keys.items()} == {"y": 8, "x": 5}
    assert tree.keys["data"].text == "data: {train: [a.txt, {path: b}]}"


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r", "\x85", "\u2028"])
def test_lines_are_counted_as_yaml_counts_them(newline: str) -> None:
    tree = read_tree(f"a: 1{newline}é模: 2{newline}c: 3", "r.yaml")
    assert [(spot.line, spot.column, spot.text) for spot in tree.keys.values()] == [
        (1, 1, "a: 1"), (2, 1, "é模: 2"), (3, 1, "c: 3"),
    ]  # fmt: skip


def test_all_duplicates_and_tags_come_at_once() -> None:
    with pytest.raises(Failure) as caught:
        read_tree("a: 1\na: 2\nb: {c: 1, c: 2}\nd: !x 1\n", "r.yaml")
    assert [(p.id, p.place.line) for p in caught.value.problems] == [
        ("E-RECIPE-019", 4), ("E-RECIPE-007", 2), ("E-RECIPE-007", 3),
    ]  # fmt: skip


def test_hostile_texts_are_refused_without_being_built() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{after}: &{after} [{','.join([f'*{before}'] * 9)}]\n"
        for before, after in zip("abcdefgh", "bcdefghi", strict=True)
    )
    for text in (bomb, "x: " + "[" * 100_000, "x: [" + "1," * 400_000 + "1]", "x: {" + "a: {" * 500, "&a [*a]"):
        with pytest.raises(Failure) as caught:
            read_tree(text, "r.yaml")
        assert caught.value.problems[0].id in ("E-RECIPE-017", "E-RECIPE-016", "E-RECIPE-008")
