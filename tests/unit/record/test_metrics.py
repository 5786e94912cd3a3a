"""metrics.jsonl: each step once, full precision, cut on resume."""

import math
from pathlib import Path

import pytest

from llmtrain.record import metrics


def test_floats_come_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    values = {"loss": 0.1 + 0.2, "tiny": 5e-324, "nan": math.nan, "inf": -math.inf, "count": 3, "name": "x"}
    log = metrics.MetricsFile(path)
    log.write("step", 1, values)
    assert not path.exists() or path.stat().st_size == 0
    assert log.flush(sync=True) == path.stat().st_size == log.length
    (line,) = metrics.read(path)
    assert line["loss"].hex() == (0.1 + 0.2).hex() and line["tiny"] == 5e-324 and line["inf"] == -math.inf
    assert math.isnan(line["nan"]) and line["count"] == 3 and line["event"] == "step"


def test_a_step_twice_is_refused_an_evaluation_is_not(tmp_path: Path) -> None:
    log = metrics.MetricsFile(tmp_path / "metrics.jsonl")
    log.write("step", 5, {})
    log.write("eval", 5, {"eval_loss": 1.0})
    log.flush()
    for writer in (log, metrics.MetricsFile(tmp_path / "metrics.jsonl")):
        with pytest.raises(ValueError, match="step 5 after step 5"):
            writer.write("step", 5, {})


def test_the_tail_moves_once_however_often_it_is_cut(tmp_path: Path) -> None:
    path, dropped = tmp_path / "metrics.jsonl", tmp_path / "dropped.jsonl"
    log = metrics.MetricsFile(path)
    log.write("step", 1, {})
    length = log.flush()
    log.write("step", 2, {})
    log.flush()
    whole = path.read_bytes()
    assert metrics.cut(path, length, dropped) == len(whole) - length
    path.write_bytes(whole)  # as after a kill between the two
    metrics.cut(path, length, dropped)
    assert path.read_bytes() == whole[:length] and dropped.read_bytes() == whole[length:]
    assert metrics.cut(path, length, dropped) == 0 and metrics.cut(tmp_path / "absent", 0, dropped) == 0
    metrics.MetricsFile(path).write("step", 2, {})


def test_a_torn_line_is_cut_before_writing_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"event":"step","step":1}\n{"event":"st')
    log = metrics.MetricsFile(path)
    log.write("step", 2, {})
    log.flush()
    assert [line["step"] for line in metrics.read(path, "step")] == [1, 2] and log.length == path.stat().st_size
