"""Each rank's own log; the console shows rank 0; data cannot forge a line."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmtrain.record import logs
from llmtrain.record.folder import RunFolder


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    logs.stop_logging()


def test_each_rank_has_its_file_and_rank_0_the_console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder.create(tmp_path, "x")
    for rank in (0, 1):
        logger = logs.start_logging(folder, rank, console=True)
        logger.info("from rank %d", rank)
        logger.debug("hidden")
    logs.stop_logging()
    assert "rank 1 INFO from rank 1" in (folder.logs / "rank_1.log").read_text()
    assert (folder.logs / "rank_0.log").read_text().count("\n") == 1
    shown = capsys.readouterr()
    assert "from rank 0" in shown.err and "from rank 1" not in shown.err and shown.out == ""


def test_control_characters_are_shown_not_obeyed(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x")
    logs.start_logging(folder, 0).warning("a\nb\x1b[31m\r")
    logs.stop_logging()
    text = (folder.logs / "rank_0.log").read_text()
    assert text.count("\n") == 1 and "\x1b" not in text and r"a\nb\x1b[31m\r" in text


def test_a_log_that_cannot_be_opened_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder.create(tmp_path, "x")
    (folder.logs / "rank_0.log").mkdir()
    logs.start_logging(folder, 0).info("lost")
    assert "rank_0.log" in capsys.readouterr().err
