import os
import time
from pathlib import Path

import pytest

from llmtrain.errors import Failure
from llmtrain.recipe.catalog import locate
from llmtrain.recipe.compose import compose


def problem(recipe: str) -> tuple[str, str, str]:
    with pytest.raises(Failure) as caught:
        compose(recipe)
    found = caught.value.problems[0]
    return found.id, found.message, found.hint or ""


def test_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("a: 1\n")
    id, _, hint = problem(str(tmp_path / "recpie.yaml"))
    assert id == "E-FILE-001"
    assert "recipe.yaml" in hint


def test_unknown_name_names_the_nearest_shipped_recipe() -> None:
    assert problem("dmeo")[0] == "E-RECIPE-018"
    assert "`demo`" in problem("dmeo")[2]
    assert "llmtrain recipes" in problem("qqqqqq")[2]


def test_folder_fifo_and_loop(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    assert problem(str(tmp_path))[0] == "E-FILE-004"
    assert problem(str(tmp_path / "pipe.yaml"))[0] == "E-FILE-004"
    assert problem("/dev/null")[0] == "E-FILE-004"
    assert problem(str(tmp_path / "loop.yaml"))[0] == "E-FILE-002"
    assert problem(str(tmp_path / "recipe.yaml" / "below.yaml"))[0] == "E-FILE-001"
    assert problem("a\0b.yaml")[0] in ("E-FILE-001", "E-RECIPE-018")
    assert problem("x" * 5000 + ".yaml")[0] in ("E-FILE-001", "E-FILE-002")
    assert problem("")[0] == "E-RECIPE-018"


def test_not_a_word_of_a_large_file_is_parsed(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    with file.open("wb") as stream:
        stream.truncate(100_000_000)
    before = time.process_time()
    assert problem(str(file))[0] == "E-RECIPE-017"
    assert time.process_time() - before < 5


def test_offset_counts_the_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "bom.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\nb: \xff\n")
    id, message, _ = problem(str(file))
    assert (id, "byte 0xff at offset 11" in message) == ("E-FILE-003", True)


def test_a_file_wins_over_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    assert locate("demo")[1] == "train/demo.yaml"
    Path("demo").rmdir()
    Path("demo").write_text("x: 1\n")
    assert locate("demo") == (Path("demo"), "demo")
